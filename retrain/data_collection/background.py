"""The thread that empties the spool while production goes on."""

import atexit
import functools
import logging
import os
import threading
import weakref
from collections.abc import Callable

from retrain.data_collection.drainer import Drainer
from retrain.errors import RetrainError

logger = logging.getLogger(__name__)

_PUBLISH_S = 1.0
_CLOSE_S = 60.0


class BackgroundDrainer:
    """Drains every `flush_s`, and publishes counters every second. A failure is logged once and tried again."""

    def __init__(self, drainer: Drainer, publish: Callable[[], None]) -> None:
        self._drainer, self._publish = drainer, publish
        self._failing = False
        self.start()

    def start(self) -> None:
        """Run in this process; a forked child calls it again, because threads are not inherited."""
        self._pid = os.getpid()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="collection-drainer", daemon=True)
        self._thread.start()
        # At interpreter exit daemon threads are frozen wherever they are; stopping in time spares the next start work.
        self._at_exit = functools.partial(_call, weakref.WeakMethod(self.close))
        atexit.register(self._at_exit)

    def close(self) -> None:
        """Stop, then drain what is left."""
        if self._pid != os.getpid() or self._stop.is_set():
            return
        self._stop.set()
        self._thread.join(_CLOSE_S)
        atexit.unregister(self._at_exit)
        try:
            self._drainer.drain(wait=True)
        except RetrainError as error:
            logger.warning(
                "Frames stay in the spool %s until they can be stored: %s", self._drainer.spool, error
            )

    def _run(self) -> None:
        waited = 0.0
        while not self._stop.wait(_PUBLISH_S):
            waited += _PUBLISH_S
            try:
                self._publish()
                if waited >= self._drainer.flush_s:
                    waited = 0.0
                    self._drainer.drain(stop=self._stop)
                    self._failing = False
            # A thread has nobody to raise to, and production must go on: said once, then tried again.
            except Exception as error:
                if not self._failing:
                    logger.warning(
                        "Collected frames wait in the spool %s, nothing is lost: %s",
                        self._drainer.spool,
                        error,
                        exc_info=None if isinstance(error, RetrainError) else error,
                    )
                self._failing = True


def _call(method: "weakref.WeakMethod[Callable[[], None]]") -> None:
    if (close := method()) is not None:
        close()
