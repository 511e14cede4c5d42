"""One pass over a spool: every record handed on in order, segments that are done removed."""

import fcntl
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from retrain.data_collection.spool.offer import Offer, encoded, unchanged_file
from retrain.data_collection.spool.reader import SpooledRecord, SpoolSegment, segments
from retrain.data_collection.store.intake import BATCH_BYTES, BATCH_RECORDS, DrainReport
from retrain.errors import BadInput


@dataclass(frozen=True)
class _Batch:
    """Records in order, perhaps of several segments, and how far each of those is read with them."""

    records: list[SpooledRecord] = field(default_factory=list)
    ends: dict[SpoolSegment, int] = field(default_factory=dict)


def hand_on(
    spool: Path,
    take: Callable[[list[SpooledRecord]], None],
    report: DrainReport,
    *,
    most_records: int = BATCH_RECORDS,
    most_bytes: int = BATCH_BYTES,
    stop: threading.Event | None = None,
) -> None:
    """Give everything that is in the spool now to `take`, batch by batch, and forget what it took.

    Killed in between, the next pass gives the last batch again. Only one may run for a spool, see `only_one`.

    Args:
        take: when it returns, the records are safe elsewhere; when it raises, they stay.
        most_bytes: of bodies and images of a batch; a single record may be larger.
        stop: set, it ends after the current batch.
    """
    with ExitStack() as locks:
        locked = [one for one in segments(spool) if one.lock()]
        for segment in locked:
            locks.callback(segment.unlock)
        # Asked before reading: a writer that ends later may still append behind what is read here.
        finished = [segment for segment in locked if segment.is_finished()]
        for batch in _batches(locked, most_records, most_bytes):
            intact = [record for record in batch.records if record.intact]
            report.damaged += len(batch.records) - len(intact)
            take(intact)
            _forget(batch)
            if stop is not None and stop.is_set():
                return
        for segment in finished:
            report.torn += segment.is_torn()
            segment.remove()


def spooled_image(record: SpooledRecord, offer: Offer) -> bytes:
    """The encoded image of a record; pixels become PNG.

    Raises:
        BadInput: its linked file is gone or was written over.
    """
    data = record.image
    if record.image_file is not None:
        if offer.image is None:
            raise BadInput("The record of a linked image does not say what the file was like.")
        data = unchanged_file(record.image_file, offer.image)
    return data if offer.pixels is None else encoded(data, offer.pixels)


@contextmanager
def only_one(folder: Path, *, wait: bool) -> Iterator[bool]:
    """Whether this is the only one at work in the folder; with `wait`, it waits until it is."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / ".draining", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
    else:
        yield True
    finally:
        # Closing alone leaves it locked while a child that was forked meanwhile lives.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def _forget(batch: _Batch) -> None:
    for segment, end in batch.ends.items():
        segment.consumed(end)
    for record in batch.records:
        if record.image_file is not None:
            record.image_file.unlink(missing_ok=True)


def _batches(locked: Sequence[SpoolSegment], most_records: int, most_bytes: int) -> Iterator[_Batch]:
    batch, size = _Batch(), 0
    for segment in locked:
        for record in segment.records():
            batch.records.append(record)
            batch.ends[segment] = record.end
            size += len(record.body) + record.image_bytes
            if len(batch.records) >= most_records or size >= most_bytes:
                yield batch
                batch, size = _Batch(), 0
    if batch.records:
        yield batch
