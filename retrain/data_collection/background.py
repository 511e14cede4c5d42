"""The thread that empties the spool while production goes on."""

import atexit
import functools
import logging
import os
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

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
        """Stop, then drain what is left."""
        if self._pid != os.getpid() or self._stop.is_set():
            return
        self._end()
        atexit.unregister(self._at_exit)
        try:
            self._drainer.drain(wait=True)
        except RetrainError as error:
            logger.warning(
                "Frames stay in the spool %s until they can be stored: %s", self._drainer.spool, error
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
                self._attempt(said, functools.partial(self._drainer.drain, stop=self._stop))

    def _attempt(self, what: str, work: Callable[[], object]) -> None:
        try:
            work()
            self._failing.discard(what)
        # A thread has nobody to raise to, and production must go on: said once, then tried again.
        except Exception as error:
            if what not in self._failing:
                trace = None if isinstance(error, RetrainError | OSError) else error
                logger.warning("%s: %s", what, error, exc_info=trace)
            self._failing.add(what)


def _call(method: "weakref.WeakMethod[Callable[[], None]]") -> None:
    if (close := method()) is not None:
        close()
