"""Locks that a forked child does not get stuck on: within a process, and between processes."""

import fcntl
import os
import threading
import weakref
from contextlib import suppress
from pathlib import Path


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


class OwnDescriptor:
    """An open file or folder that forked children close, so that a lock on it ends with the process that took it.

    A child inherits descriptors, and a `flock` lasts until the last one is closed: without this, the lock of a killed
    process would live on in its children.
    """

    def __init__(self, path: Path, flags: int) -> None:
        """Open it, with `os.open`'s flags."""
        # Forks wait meanwhile: one between the two lines would pass on a descriptor that nobody closes.
        with _opening:
            self.number = os.open(path, flags, 0o644)
            _open.add(self)

    def lock(self, *, wait: bool) -> bool:
        """Have it for this object alone; False if somebody else has it, and then it is closed."""
        try:
            fcntl.flock(self.number, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            return False
        except BaseException:
            self.close()
            raise
        return True

    def unlock(self) -> None:
        """Let others have it, and close it. Does nothing where it is closed, as in a forked child."""
        if self.number >= 0:
            # Closing alone leaves it locked until a child that is just being forked has closed it too.
            fcntl.flock(self.number, fcntl.LOCK_UN)
            self.close()

    def close(self) -> None:
        number, self.number = self.number, -1
        if number >= 0:
            os.close(number)
            _open.discard(self)


def lock_file(path: Path, *, wait: bool) -> OwnDescriptor | None:
    """Lock a file that exists for this alone, made if it is missing; None if somebody else has it locked.

    Raises:
        OSError: it can be neither made nor read.
    """
    try:
        descriptor = OwnDescriptor(path, os.O_RDWR | os.O_CREAT)
    except PermissionError as error:
        # Another user's, such as root's. Locking needs no writing (but on NFS, so that is tried first).
        try:
            descriptor = OwnDescriptor(path, os.O_RDONLY)
        except FileNotFoundError:
            raise error from None
    else:
        # Whatever the umask: a lock file that others cannot read locks them out for ever.
        with suppress(PermissionError):
            os.fchmod(descriptor.number, 0o644)
    return descriptor if descriptor.lock(wait=wait) else None


_alive: "weakref.WeakSet[ForkSafeLock]" = weakref.WeakSet()
_open: set[OwnDescriptor] = set()
_opening = threading.RLock()


def _before_fork() -> None:
    _opening.acquire()


def _after_fork_in_parent() -> None:
    _opening.release()


def _after_fork_in_child() -> None:
    global _opening
    _opening = threading.RLock()
    for descriptor in list(_open):
        descriptor.close()
    for lock in list(_alive):
        lock.renew()


os.register_at_fork(
    before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child
)
