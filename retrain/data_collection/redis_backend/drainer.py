"""Empties the stream in Redis into the sample store; runs on any number of hosts."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from retrain.data_collection.redis_backend.records import Entry
from retrain.data_collection.redis_backend.stream import RedisStream
from retrain.data_collection.spool.drain_pass import only_one
from retrain.data_collection.store.intake import (
    BATCH_BYTES,
    BATCH_RECORDS,
    READERS,
    DrainReport,
    Intake,
    in_parallel,
    whole_image,
)
from retrain.data_collection.store.samples import Arrival
from retrain.errors import BadInput, PostConditionFailed, StorageFull, Unavailable
from retrain.images import EncodedImage

DEAD = "dead letter"


class StreamDrainer:
    """Each needs a folder of its own; of those that share one, one at a time works."""

    def __init__(
        self,
        stream: RedisStream,
        intake: Intake,
        folder: Path,
        *,
        flush_s: float = 5.0,
    ) -> None:
        """Set up.

        Args:
            intake: into a store whose `owner` belongs to this folder alone, over all hosts.
            flush_s: how often whoever runs this in the background should call `drain`.
        """
        self.folder, self.flush_s = folder, flush_s
        self._stream = stream
        self._intake = intake

    def drain(self, stop: threading.Event | None = None, *, wait: bool = False) -> DrainReport:
        """Store everything that waits in the stream now.

        Killed anywhere, this or another drainer stores the rest, every record once.

        Args:
            stop: set, it ends after the current batch.
            wait: for another drainer of this folder at work; otherwise nothing is done beside it.

        Returns:
            Among the outcomes are dead letters (`DEAD`), which may be put back, see `StreamCare`.

        Raises:
            RetrainError: the store or Redis does not take it; nothing is lost, the next call of any drainer goes on.
        """
        report = DrainReport()
        with only_one(self.folder, wait=wait) as alone, ThreadPoolExecutor(READERS) as readers:
            if not alone:
                return report
            while stop is None or not stop.is_set():
                # Each time: other drainers store meanwhile, and under load this one does not come to an end. Also when
                # nothing waits: others may have taken over what a killed run of this one left half stored.
                self._intake.begin()
                if not (taken := self._stream.take(BATCH_RECORDS)):
                    break
                if taken.buried:
                    report.outcomes[DEAD] += taken.buried
                self._keep_all(taken.entries, readers, report)
        return report

    def _keep_all(self, entries: Sequence[Entry], readers: ThreadPoolExecutor, report: DrainReport) -> None:
        left = list(entries)
        try:
            for part in _parts(entries):
                self._keep(part, readers, report)
                del left[: len(part)]
        # The entries are not to blame; anything else may be their doing, and counts as a delivery in vain.
        except (Unavailable, StorageFull, PostConditionFailed):
            self._stream.release(left)
            raise

    def _keep(self, entries: Sequence[Entry], readers: ThreadPoolExecutor, report: DrainReport) -> None:
        images = self._stream.images(entries)

        def examine(entry: Entry) -> Arrival | None:
            return self._intake.examine(entry.record, entry.body, lambda _offer: _image(entry, images))

        found = list(zip(entries, in_parallel(readers, examine, entries), strict=True))
        self._intake.store([arrival for _, arrival in found if arrival is not None], report)
        unreadable = [entry for entry, arrival in found if arrival is None]
        if unreadable:
            self._stream.bury(
                unreadable, "cannot be read here; does the producer run another version of Retrain?"
            )
            report.outcomes[DEAD] += len(unreadable)
        self._stream.done(entry for entry, arrival in found if arrival is not None)


def _image(entry: Entry, images: Mapping[str, bytes]) -> EncodedImage:
    if entry.problem:
        raise BadInput(entry.problem)
    if entry.image_name and entry.image_name not in images:
        raise BadInput("The image is gone from Redis, where it waited with its record.")
    # Where nothing was handed over, the message says so as it does for a spool.
    return whole_image(images.get(entry.image_name, b""))


def _parts(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    """In order, with images that fit into memory together."""
    part: list[Entry] = []
    size = 0
    for entry in entries:
        part.append(entry)
        size += entry.image_bytes
        if size >= BATCH_BYTES:
            yield part
            part, size = [], 0
    if part:
        yield part
