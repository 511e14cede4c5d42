"""How many frames a strategy may take per camera and minute, hour or day."""

from collections import Counter
from collections.abc import Mapping
from typing import Literal, Protocol

from retrain.data_collection.locks import ForkSafeLock
from retrain.data_collection.statistics.counters import Standstill
from retrain.errors import ConfigError

Period = Literal["minute", "hour", "day"]
PERIOD_S: Mapping[str, int] = {"minute": 60, "hour": 3600, "day": 86_400}


class Quota(Protocol):
    """Asked before the coin is flipped, so that the inclusion probability of every kept frame is known exactly."""

    @property
    def standstill(self) -> Standstill | None:
        """Since when no more room can be had from those it is shared with, and why."""
        ...

    def room(self, camera: str, now: float) -> bool:
        """Whether another frame of this camera may be taken; never waits for a server."""
        ...

    def take(self, camera: str, now: float) -> None:
        """Count one taken."""
        ...


def checked_limits(limits: Mapping[str, int]) -> dict[str, int]:
    """Limits by period.

    Raises:
        ConfigError: an unknown period or a limit below 1.
    """
    for period, limit in limits.items():
        if period not in PERIOD_S:
            raise ConfigError(f"A quota is per minute, hour or day, got {period!r}.")
        if limit < 1:
            raise ConfigError(f"The quota per {period} must be at least 1 frame, got {limit}.")
    return dict(limits)


def local_quota(limits: Mapping[str, int | None]) -> "LocalQuota | None":
    """A quota for those of the limits that are set; None when none is."""
    given = {period: limit for period, limit in limits.items() if limit is not None}
    return LocalQuota(given) if given else None


_WINDOWS = 4
"""Remembered per period: a clock that steps back over the edge of one, or far ahead and back, goes on where it was."""


class LocalQuota:
    """Counts of this process, in calendar windows of UTC. Threads that ask at one instant may all be let through."""

    standstill = None

    def __init__(self, limits: Mapping[str, int]) -> None:
        """Set up.

        Args:
            limits: period → frames per camera, e.g. `{"minute": 10, "day": 2000}`.

        Raises:
            ConfigError: an unknown period or a limit below 1.
        """
        self._limits = [(PERIOD_S[period], limit) for period, limit in checked_limits(limits).items()]
        # Length of windows -> number of one -> frames by camera in it; memory is bounded by the cameras of a window.
        self._taken: dict[int, dict[int, Counter[str]]] = {length: {} for length, _ in self._limits}
        self._lock = ForkSafeLock()

    def room(self, camera: str, now: float) -> bool:
        for length, limit in self._limits:
            taken = self._taken[length].get(int(now // length))
            if taken is not None and taken[camera] >= limit:
                return False
        return True

    def take(self, camera: str, now: float) -> None:
        with self._lock:
            for length, _ in self._limits:
                windows, current = self._taken[length], int(now // length)
                if current not in windows:
                    windows[current] = Counter()
                    if len(windows) > _WINDOWS:
                        del windows[next(iter(windows))]
                windows[current][camera] += 1
