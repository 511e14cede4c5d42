"""One pass over a spool: every record handed on in order, segments that are done removed."""

import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from retrain.data_collection.locks import lock_file
from retrain.data_collection.spool.format import Position
from retrain.data_collection.spool.leftovers import remove_orphans, remove_unnamed
from retrain.data_collection.spool.offer import Offer, encoded, unchanged_file
from retrain.data_collection.spool.reader import SpooledRecord, SpoolSegment, say_once, segments
from retrain.data_collection.store.intake import BATCH_BYTES, BATCH_RECORDS, DrainReport
from retrain.errors import BadInput, Unavailable

_BATCH_SEGMENTS = 64
"""Each holds a lock, and so a file descriptor, until the batch is taken."""
_LOCKED_S = 5.0
_LOOK_AGAIN_S = 0.01


@dataclass
class _Part:
    """What a batch holds of one segment, locked as long as it is worked on.

    Attributes:
        before, position: where the segment was consumed to without this part, and is with it.
        finished: nothing is ever appended to it.
        is_last: the pass reads no more of it.
    """

    segment: SpoolSegment
    before: Position
    position: Position
    finished: bool
    is_last: bool = False
    images: list[Path] = field(default_factory=list)

    def add(self, record: SpooledRecord) -> None:
        released = self.position.released
        if record.image_file is not None:
            self.images.append(record.image_file)
            released += record.image_bytes
        self.position = Position(record.end, released)

    def forget(self, report: DrainReport) -> None:
        """Take out of the spool what the batch held of the segment."""
        if self.is_last and self.finished:
            report.torn += self.segment.is_torn(self.position.end)
            self.segment.remove()
        elif self.position != self.before:
            self.segment.consumed(self.position)
            for image in self.images:
                _delete(image)
        if self.is_last:
            self.segment.unlock()


@dataclass
class _Batch:
    """Records in order, perhaps of several segments."""

    records: list[SpooledRecord] = field(default_factory=list)
    parts: list[_Part] = field(default_factory=list)
    size: int = 0

    def add(self, record: SpooledRecord) -> None:
        self.records.append(record)
        self.parts[-1].add(record)
        self.size += len(record.body) + record.image_bytes


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

    Killed in between, the next pass gives the last batch again. Only one may run for a spool, see `only_one`. It locks
    the segments of a batch; the others producers may drop meanwhile to make room.

    Args:
        take: when it returns, the records are safe elsewhere; when it raises, they stay.
        most_bytes: of bodies and images of a batch; a single record may be larger.
        stop: set, it ends after the current batch.

    Raises:
        Unavailable: segments cannot be read and wait; all others were handed on.
    """
    remove_orphans(spool)
    remove_unnamed(spool, ".partial")
    kept_out: list[str] = []
    with closing(_batches(spool, most_records, most_bytes, kept_out)) as batches:
        for batch in batches:
            intact = [record for record in batch.records if record.intact]
            report.damaged += len(batch.records) - len(intact)
            if intact:
                take(intact)
            for part in batch.parts:
                part.forget(report)
            if stop is not None and stop.is_set():
                return
    if kept_out:
        raise Unavailable(
            f"{len(kept_out)} segments of the spool {spool} cannot be read and wait there: {kept_out[0]}."
        )


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
    """Whether this is the only one at work in the folder; with `wait`, it waits until it is.

    Raises:
        Unavailable: the folder cannot be used.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = lock_file(folder / ".draining", wait=wait)
    except PermissionError as error:
        raise Unavailable(f"Cannot work in the folder {folder}: {error}.") from error
    try:
        yield lock is not None
    finally:
        if lock is not None:
            lock.unlock()


def lock_segment(segment: SpoolSegment, deadline: float) -> str:
    """Lock it, waiting until `deadline` (monotonic) for a producer that drops it.

    Returns:
        Why that is impossible, "" if it is locked or gone.
    """
    try:
        while not segment.lock():
            if not segment.path.exists():
                return ""
            if time.monotonic() >= deadline:
                return f"{segment.path} is locked by another process"
            time.sleep(_LOOK_AGAIN_S)
    except PermissionError as error:
        return str(error)
    return ""


def _batches(
    spool: Path, most_records: int, most_bytes: int, kept_out: list[str]
) -> Generator[_Batch, None, None]:
    """Batches of what is in the spool now; each has to be forgotten before the next is asked for.

    Args:
        kept_out: gets a word for every segment that cannot be read.
    """
    # Noted first: under a steady stream of frames the pass would find no end.
    found = [(segment, segment.end()) for segment in segments(spool)]
    deadline = time.monotonic() + _LOCKED_S
    batch = _Batch()
    try:
        for segment, end in found:
            part, why = _part(segment, deadline)
            if part is None:
                kept_out += [why] if why else []
                continue
            batch.parts.append(part)
            for record in segment.records(None if part.finished else end):
                batch.add(record)
                if len(batch.records) >= most_records or batch.size >= most_bytes:
                    yield batch
                    at = batch.parts[-1].position
                    batch = _Batch(parts=[_Part(segment, at, at, part.finished)])
            batch.parts[-1].is_last = True
            if len(batch.parts) >= _BATCH_SEGMENTS:
                yield batch
                batch = _Batch()
        if batch.parts:
            yield batch
    finally:
        for part in batch.parts:
            part.segment.unlock()


def _part(segment: SpoolSegment, deadline: float) -> tuple[_Part | None, str]:
    """The segment, locked, with nothing read of it yet; else None, and why if that is a reason to complain."""
    if why := lock_segment(segment, deadline):
        return None, why
    try:
        if not segment.is_ours():
            say_once(f"{segment.path} is left alone: this version of Retrain did not write it.")
            segment.unlock()
            return None, ""
        at = segment.position
        # Asked before reading: a writer that ends later may still append behind what is read.
        return _Part(segment, at, at, segment.is_finished()), ""
    except FileNotFoundError:
        segment.unlock()
        return None, ""
    except PermissionError as error:
        segment.unlock()
        return None, str(error)
    except BaseException:
        segment.unlock()
        raise


def _delete(image: Path) -> None:
    try:
        image.unlink(missing_ok=True)
    except PermissionError as error:
        say_once(f"Images of another user stay in the spool after they were stored: {error}.")
