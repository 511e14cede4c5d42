"""A quota that all processes on all hosts share, kept in Redis and never waited for."""

import atexit
import functools
import logging
import os
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from retrain.data_collection.quota import PERIOD_S, checked_limits
from retrain.data_collection.redis_backend.connection import RedisConnection
from retrain.data_collection.redis_backend.scripts import GIVE_BACK, LEASE
from retrain.data_collection.statistics.counters import Standstill
from retrain.errors import RetrainError

logger = logging.getLogger(__name__)

_CLOSE_S = 10.0
_AT_ONCE = 500
"""Windows leased for in one step: Redis does nothing else meanwhile."""
_REMEMBERED = 50_000
"""Windows of cameras; beyond it new ones have no room."""
_NOTHING: Mapping[int, int] = {}
_ASK_AGAIN_S = 10.0
"""After a window gave less than asked for: another process may have returned its tokens meanwhile."""

_Window = tuple[str, int, int]
"""Camera, length in seconds, and the number of the window: `now // length`."""


@dataclass
class _Lease:
    """Tokens of one window that this process may still spend."""

    left: int = 0
    ask_from: float = 0.0


class RedisQuota:
    """Frames per camera and calendar window (UTC), over all processes that share the name.

    Each process leases tokens in small chunks from Redis, in a thread of its own, and spends them from memory.

    * `room` takes a token of every period for the calling thread, and `take` spends them; a thread whose coin said no
      keeps them for its next frame of that camera. So `take` counts in the window in which the same thread asked, and
      what is taken never exceeds the limit, however many threads, processes and hosts ask at once: as long as Redis
      keeps its data, and no process has a higher limit than the others.
    * Less than the limit may be taken. A camera has no room until its first lease arrives, one `refresh_s` after it
      first asks in a window; a process gets at most one chunk per `refresh_s`; tokens leased by a process, or kept by a
      thread, that sees no more of the camera in this window are not used, and those of a killed process neither.
    * When Redis does not answer, the leases run out and `room` says no. The strategy takes nothing then, the audit arm
      goes on. It is logged once, and `standstill` says since when and why.
    * Windows go by the clock of the caller of `room`; a host whose clock is wrong counts in windows of its own.
    * A forked child has no tokens of its parent's, and leases its own.
    """

    _leases: dict[_Window, _Lease]
    _kept: dict[tuple[str, int], Mapping[int, int]]

    def __init__(
        self,
        redis: RedisConnection,
        limits: Mapping[str, int],
        name: str = "retrain",
        *,
        chunk_fraction: float = 0.02,
        refresh_s: float = 0.25,
        background: bool = True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Set up; the first `room` starts the thread.

        Args:
            limits: period → frames per camera, e.g. `{"minute": 10, "day": 2000}`.
            chunk_fraction: of a limit that a process leases ahead, at least one token.
            refresh_s: how often it looks whether tokens run short.
            background: off, something else calls `refresh`.

        Raises:
            ConfigError: an unknown period or a limit below 1.
        """
        self._limits = {PERIOD_S[period]: limit for period, limit in checked_limits(limits).items()}
        self._redis, self._prefix = redis, f"{{{name}}}:quota:"
        self._chunk_fraction, self._refresh_s, self._clock = chunk_fraction, refresh_s, clock
        self._background = background
        self._run_lease = redis.client.register_script(LEASE)
        self._run_give_back = redis.client.register_script(GIVE_BACK)
        self._begin()
        _alive.add(self)
        atexit.register(functools.partial(_close, weakref.ref(self)))

    @property
    def standstill(self) -> Standstill | None:
        """Since when no tokens could be leased, and why."""
        return self._standstill

    def room(self, camera: str, now: float) -> bool:
        """Whether this thread may take another frame of this camera; looks at memory only."""
        if self._thread is None and self._background:
            self._start()
        thread = (camera, threading.get_ident())
        with self._lock:
            self._asked_at = now
            kept = self._kept.get(thread, _NOTHING)
            for length in self._limits:
                number = int(now // length)
                if kept.get(length) == number:
                    continue
                lease = self._lease((camera, length, number))
                if lease.left < 1:
                    return False
                lease.left -= 1
                kept = self._kept[thread] = {**kept, length: number}
        return True

    def take(self, camera: str, now: float) -> None:  # noqa: ARG002 - it counts where `room` was asked
        """Spend what `room` gave this thread."""
        with self._lock:
            self._kept.pop((camera, threading.get_ident()), None)

    def refresh(self) -> None:
        """Lease tokens where they run short. The thread calls this every `refresh_s`.

        Raises:
            Unavailable: Redis does not answer; the tokens asked for may be lost to everyone.
        """
        asking = self._short()
        for start in range(0, len(asking), _AT_ONCE):
            part = asking[start : start + _AT_ONCE]
            arguments: list[int] = []
            for (_, length, _), tokens in part:
                arguments += [tokens, self._limits[length], 2 * length]
            with self._redis.answering():
                granted = self._run_lease(keys=[self._key(window) for window, _ in part], args=arguments)
            self._receive(part, granted)

    def close(self) -> None:
        """Stop, and return the tokens that were not spent, for others to use."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(_CLOSE_S)
        unspent = self._unspent()
        # A program that ends must not wait once more for a Redis that does not answer.
        if unspent and self._standstill is None:
            try:
                with self._redis.answering():
                    self._run_give_back(keys=[self._key(one) for one in unspent], args=list(unspent.values()))
            except RetrainError as error:
                logger.warning("Quotas of %d frames stay unused: %s", unspent.total(), error)

    def _lease(self, window: _Window) -> _Lease:
        lease = self._leases.get(window)
        if lease is None:
            lease = _Lease()
            if len(self._leases) < _REMEMBERED:
                self._leases[window] = lease
        return lease

    def _short(self) -> list[tuple[_Window, int]]:
        """Windows that have less than half a chunk left, and what they lack of one; those that are over are dropped."""
        now, short = time.monotonic(), []
        with self._lock:
            # By the clock, not by the highest number seen: a clock that was ahead for a moment would end them all.
            asked_at = self._asked_at
            self._leases = {key: one for key, one in self._leases.items() if key[2] >= asked_at // key[1]}
            self._kept = {
                thread: kept
                for thread, kept in self._kept.items()
                if any(number >= asked_at // length for length, number in kept.items())
            }
            for window, lease in self._leases.items():
                chunk = max(1, int(self._limits[window[1]] * self._chunk_fraction))
                if 2 * lease.left <= chunk and now >= lease.ask_from:
                    short.append((window, chunk - lease.left))
        return short

    def _receive(self, asked: Sequence[tuple[_Window, int]], granted: Sequence[int]) -> None:
        with self._lock:
            for (window, tokens), given in zip(asked, granted, strict=True):
                # Over meanwhile: another window has begun.
                if (lease := self._leases.get(window)) is not None:
                    lease.left += given
                    if given < tokens:
                        lease.ask_from = time.monotonic() + _ASK_AGAIN_S

    def _unspent(self) -> Counter[_Window]:
        """All tokens left, which are no longer this process's."""
        with self._lock:
            unspent = Counter({window: lease.left for window, lease in self._leases.items() if lease.left})
            for (camera, _), kept in self._kept.items():
                unspent.update((camera, length, number) for length, number in kept.items())
            self._leases.clear()
            self._kept.clear()
        return unspent

    def _key(self, window: _Window) -> str:
        camera, length, number = window
        return f"{self._prefix}{length}:{number}:{camera}"

    def _begin(self) -> None:
        """Without tokens and thread; also in a forked child, which would spend its parent's a second time."""
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._leases, self._kept, self._asked_at = {}, {}, 0.0
        self._standstill: Standstill | None = None

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._keep_leased, name="collection-quota", daemon=True
                )
                self._thread.start()

    def _keep_leased(self) -> None:
        while not self._stop.is_set():
            try:
                self.refresh()
                self._standstill = None
            # A thread has nobody to raise to, and production must go on: said once, then tried again.
            except Exception as error:
                if self._standstill is None:
                    logger.warning(
                        "The strategy takes nothing once the leased quota is used up; the audit arm goes on: %s",
                        error,
                        exc_info=None if isinstance(error, RetrainError) else error,
                    )
                    self._standstill = Standstill(self._clock(), str(error))
            self._stop.wait(self._refresh_s)


_alive: "weakref.WeakSet[RedisQuota]" = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for quota in list(_alive):
        quota._begin()


def _close(quota: "weakref.ref[RedisQuota]") -> None:
    if (alive := quota()) is not None:
        alive.close()


os.register_at_fork(after_in_child=_after_fork_in_child)
