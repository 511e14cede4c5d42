"""The thread that empties the spool while production goes on."""

import atexit
import functools
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from retrain.data_collection.statistics.counter_files import fold
from retrain.data_collection.statistics.counters import Standstill
from retrain.data_collection.store.intake import DrainReport
from retrain.errors import RetrainError

logger = logging.getLogger(__name__)

_PUBLISH_S = 1.0
_CLOSE_S = 60.0


class SpoolDrainer(Protocol):
    """Takes what is in a spool somewhere safe: into the store, or on to Redis."""

    spool: Path
    flush_s: float

    def drain(self, stop: threading.Event | None = None, *, wait: bool = False) -> DrainReport: ...


class BackgroundDrainer:
    """Drains every `flush_s`, and publishes counters every second. A failure is logged once and tried again."""

    def __init__(self, drainer: SpoolDrainer, publish: Callable[[], None]) -> None:
        self._drainer, self._publish = drainer, publish
        self._failing: set[str] = set()
        self._is_closing = False
        self.standstill: Standstill | None = None
        """Since when the spool cannot be emptied, and why."""
        self.start()

    def start(self) -> None:
        """Run in this process; a forked child calls it again, because threads are not inherited."""
        self._pid = os.getpid()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="collection-drainer", daemon=True)
        self._thread.start()
        # At interpreter exit daemon threads are frozen wherever they are; ended in time, it leaves nothing half done.
        self._at_exit = functools.partial(_call, weakref.WeakMethod(self._end))
        atexit.register(self._at_exit)

    def close(self) -> None:
        """Drain what is left, then stop; back after a minute at the latest, with what was not stored by then said."""
        if self._pid != os.getpid() or self._stop.is_set():
            return
        self._is_closing = True
        self._end()
        atexit.unregister(self._at_exit)
        if self._thread.is_alive():
            logger.warning(
                "Frames stay in the spool %s: they were not stored within %g s.",
                self._drainer.spool,
                _CLOSE_S,
            )

    def _end(self) -> None:
        self._stop.set()
        self._thread.join(_CLOSE_S)

    def _run(self) -> None:
        waited = 0.0
        while not self._stop.wait(_PUBLISH_S):
            waited += _PUBLISH_S
            self._attempt("Counts of collected frames are not published", self._publish)
            if waited >= self._drainer.flush_s:
                waited = 0.0
                said = f"Collected frames wait in the spool {self._drainer.spool}, nothing is lost"
                error = self._attempt(said, functools.partial(self._drainer.drain, stop=self._stop))
                since = time.time() if self.standstill is None else self.standstill.since
                self.standstill = None if error is None else Standstill(since, str(error))
                said = "Counts of processes that ended stay in files of their own"
                self._attempt(said, functools.partial(fold, self._drainer.spool, time.time()))
        if self._is_closing:
            # Here and not in `close`, which waits for it no longer than it waits for a drain at work.
            said = f"Frames stay in the spool {self._drainer.spool} until they can be stored"
            self._attempt(said, functools.partial(self._drainer.drain, wait=True))

    def _attempt(self, what: str, work: Callable[[], object]) -> Exception | None:
        """Returns what it failed with."""
        try:
            work()
        # A thread has nobody to raise to, and production must go on: said once, then tried again.
        except Exception as error:
            if what not in self._failing:
                trace = None if isinstance(error, RetrainError | OSError) else error
                logger.warning("%s: %s", what, error, exc_info=trace)
            self._failing.add(what)
            return error
        self._failing.discard(what)
        return None


def _call(method: "weakref.WeakMethod[Callable[[], None]]") -> None:
    if (close := method()) is not None:
        close()
