"""A lock for state that a forked child goes on using."""

import os
import threading
import weakref


class ForkSafeLock:
    """A mutex that a forked child finds open.

    A fork copies a lock as it is; if another thread holds it then, nobody in the child ever opens it. The
    child may find the state in the middle of a change, so this is only for state that bears it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        _alive.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def renew(self) -> None:
        """Open the lock whoever held it; for a child that has only one thread yet."""
        self._lock = threading.Lock()


_alive: "weakref.WeakSet[ForkSafeLock]" = weakref.WeakSet()


def _renew_all() -> None:
    for lock in list(_alive):
        lock.renew()


os.register_at_fork(after_in_child=_renew_all)
