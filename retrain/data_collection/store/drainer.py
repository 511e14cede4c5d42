"""Empties a spool into the sample store: checks, hashes, packs and indexes what production handed over."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from retrain.data_collection.spool.drain_pass import hand_on, only_one, spooled_image
from retrain.data_collection.spool.reader import SpooledRecord
from retrain.data_collection.store.intake import READERS, DrainReport, Intake, in_parallel, whole_image
from retrain.data_collection.store.samples import Arrival


class Drainer:
    """Any number may exist for one spool; one at a time works."""

    def __init__(
        self,
        spool: Path,
        intake: Intake,
        *,
        flush_s: float = 5.0,
    ) -> None:
        """Set up.

        Args:
            flush_s: how often whoever runs this in the background should call `drain`.
        """
        self.spool, self.flush_s = spool, flush_s
        self._intake = intake

    def drain(self, stop: threading.Event | None = None, *, wait: bool = False) -> DrainReport:
        """Store everything that is in the spool now, and remove the segments that are done.

        Killed anywhere and called again, every record is stored once.

        Args:
            stop: set, it ends after the current batch.
            wait: for another drainer of this spool at work; otherwise nothing is done beside it.

        Raises:
            RetrainError: the store does not take it; nothing is lost, the next call goes on.
        """
        report = DrainReport()
        with only_one(self.spool, wait=wait) as alone, ThreadPoolExecutor(READERS) as readers:
            if alone:
                self._intake.begin()
                hand_on(self.spool, lambda records: self._keep(records, readers, report), report, stop=stop)
        return report

    def _keep(self, records: list[SpooledRecord], readers: ThreadPoolExecutor, report: DrainReport) -> None:
        arrivals = list(in_parallel(readers, self._examine, records))
        report.unreadable += arrivals.count(None)
        self._intake.store([arrival for arrival in arrivals if arrival is not None], report)

    def _examine(self, record: SpooledRecord) -> Arrival | None:
        return self._intake.examine(
            record.id, record.body, lambda offer: whole_image(spooled_image(record, offer))
        )
