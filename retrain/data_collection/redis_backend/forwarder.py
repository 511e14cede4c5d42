"""Moves what production handed over from the local spool to the stream in Redis."""

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from retrain.data_collection.redis_backend.records import StreamRecord
from retrain.data_collection.redis_backend.stream import RedisStream
from retrain.data_collection.spool.drain_pass import hand_on, only_one, spooled_image
from retrain.data_collection.spool.offer import decode_offer
from retrain.data_collection.spool.reader import SpooledRecord
from retrain.data_collection.store.intake import BATCH_RECORDS, READERS, DrainReport, in_parallel
from retrain.errors import BadInput

logger = logging.getLogger(__name__)

_BATCH_BYTES = 4 * 2**20
"""Redis does nothing else while it takes a batch."""


class StreamForwarder:
    """Stands in for a `Drainer` where another host stores. Any number may exist for one spool; one at a time works."""

    def __init__(
        self,
        spool: Path,
        stream: RedisStream,
        *,
        flush_s: float = 5.0,
    ) -> None:
        """Set up; nothing is sent yet.

        Args:
            flush_s: how often whoever runs this in the background should call `drain`.
        """
        self.spool, self.flush_s = spool, flush_s
        self._stream = stream
        self._is_checked = False

    def drain(self, stop: threading.Event | None = None, *, wait: bool = False) -> DrainReport:
        """Send everything that is in the spool now, and remove the segments that are done.

        Killed anywhere and called again, every record is sent, the last ones perhaps twice.

        Args:
            stop: set, it ends after the current batch.
            wait: for another forwarder or drainer of this spool at work; otherwise nothing is done beside it.

        Returns:
            Outcomes are `sent` and `repeated`, which went without an image that Redis had.

        Raises:
            StorageFull: the stream holds as much as it may.
            Unavailable: Redis does not answer.
        """
        report = DrainReport()
        with only_one(self.spool, wait=wait) as alone, ThreadPoolExecutor(READERS) as readers:
            if not alone:
                return report
            hand_on(
                self.spool,
                lambda records: self._send(records, readers, report),
                report,
                most_records=min(BATCH_RECORDS, self._stream.max_entries),
                most_bytes=_BATCH_BYTES,
                stop=stop,
            )
        return report

    def _send(self, records: list[SpooledRecord], readers: ThreadPoolExecutor, report: DrainReport) -> None:
        ready = [one for one in in_parallel(readers, _prepared, records) if one is not None]
        report.unreadable += len(records) - len(ready)
        repeated = self._stream.put(ready)
        report.outcomes["sent"] += len(ready) - repeated
        report.outcomes["repeated"] += repeated
        if not self._is_checked:
            self._is_checked = True
            for danger in self._stream.redis.dangers():
                logger.warning("%s", danger)


def _prepared(record: SpooledRecord) -> StreamRecord | None:
    try:
        offer = decode_offer(record.body)
    except BadInput as error:
        logger.warning("Record %s is left out: %s", record.id, error)
        return None
    try:
        return StreamRecord(record.id, record.body, offer.model, spooled_image(record, offer))
    except BadInput as error:
        return StreamRecord(record.id, record.body, offer.model, problem=str(error))
