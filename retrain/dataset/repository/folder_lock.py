"""One worker at a time in a folder, across threads and processes, and news of a worker that was killed."""

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from retrain.dataset.repository.disk import disk_errors
from retrain.errors import Conflict

_POLL_S = 0.05


class FolderLock:
    """An exclusive lock on a file; the thread that holds it may take it again.

    The operating system frees it when its holder dies. `descriptor` can be inherited by child processes: then it
    stays held until they have ended too, so a child that outlives its killed parent keeps others out. (This is
    why it is not a `filelock.FileLock`, which keeps its descriptor to itself.)
    """

    def __init__(self, path: Path, timeout_s: float = 600.0) -> None:
        self._path, self._timeout_s = path, timeout_s
        self._mine = threading.RLock()
        self._depth = 0
        self._descriptor = -1

    @property
    def descriptor(self) -> int | None:
        """For `pass_fds` of child processes; None while the lock is not held."""
        return self._descriptor if self._depth else None

    @contextmanager
    def hold(self) -> Iterator[bool]:
        """Hold the lock.

        Yields:
            Whether the holder before died inside or failed, so that it may have left things half-done.

        Raises:
            Conflict: somebody else still holds it after `timeout_s`.
        """
        with self._mine:
            if self._depth:
                yield False
                return
            interrupted = self._acquire()
            try:
                yield interrupted
            except BaseException:
                # The file still names us: the next holder cleans up.
                self._release(finished=False)
                raise
            self._release(finished=True)

    def _acquire(self) -> bool:
        with disk_errors(self._path.parent):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            self._wait(descriptor)
            interrupted = os.fstat(descriptor).st_size > 0
            with disk_errors(self._path.parent):
                # Never empty in between: killed there, we would hide that the holder before left things half-done.
                name = f"{os.getpid()}\n".encode()
                os.pwrite(descriptor, name, 0)
                os.truncate(descriptor, len(name))
                os.fsync(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor, self._depth = descriptor, 1
        return interrupted

    def _wait(self, descriptor: int) -> None:
        deadline = time.monotonic() + self._timeout_s
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() < deadline:
                    time.sleep(_POLL_S)
                    continue
                holder = os.pread(descriptor, 20, 0).decode(errors="replace").strip() or "unknown"
                raise Conflict(
                    f"{self._path.parent} is in use by process {holder} for more than {self._timeout_s:g} s. "
                    "Wait for it to finish or end it."
                ) from None
            else:
                return

    def _release(self, *, finished: bool) -> None:
        descriptor, self._descriptor, self._depth = self._descriptor, -1, 0
        try:
            if finished:
                os.truncate(descriptor, 0)
        finally:
            os.close(descriptor)
