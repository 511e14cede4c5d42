"""What became of the frames offered to one process: counted on the hot path, readable from any other process."""

import os
import secrets
import threading
import time
import weakref
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

DROPPED_OLDEST = "dropped: oldest"
BINS = 20
"""Of the confidence histogram, each 0.05 wide; one more counts frames without any box."""
_NOTES = 4096
_KEYS = 50_000
"""Cameras times outcomes times bins counted one by one; what comes later is counted without its camera."""
_OTHERS = "(others)"
SUFFIX = ".counts"
_ALMOST_BINS = BINS - 1e-9  # a confidence of 1 belongs to the last bin


class Standstill(msgspec.Struct, frozen=True):
    """Since when something does not go on, and why."""

    since: float
    why: str


class Counts(msgspec.Struct, frozen=True):
    """Frames by camera and outcome, and how sure the model was of those offered.

    Attributes:
        since: when counting began.
        at: when this was read.
        outcomes: camera -> outcome -> frames. Outcomes are "taken", "rejected", "dropped: …" and the strategy's reasons
            for frames it did not want; they add up to the frames offered.
        histogram: frames per confidence bin, `BINS` of them, then those without a confidence.
        standstills: what of the process does not go on: "storing", "quota".
    """

    since: float
    at: float
    outcomes: dict[str, dict[str, int]]
    histogram: list[int]
    standstills: dict[str, Standstill] = {}

    @property
    def offered(self) -> int:
        # Frames dropped from a full spool were counted as taken before.
        return sum(frames for outcome, frames in self.by_outcome().items() if outcome != DROPPED_OLDEST)

    def by_outcome(self) -> Counter[str]:
        total: Counter[str] = Counter()
        for counts in self.outcomes.values():
            total.update(counts)
        return total


class OutcomeCounters:
    """Counts of this process. Safe for threads; a forked child counts from nothing."""

    def __init__(self) -> None:
        self._begin()
        _alive.add(self)

    def count(self, camera: str, outcome: str, confidence: float | None = None) -> None:
        """One frame offered."""
        # Only noted here and summed later: appending needs no lock and takes a fifth of the time.
        self._notes.append((camera, outcome, confidence))
        if len(self._notes) >= _NOTES:
            self._sum_up()

    def add(self, outcome: str, frames: int) -> None:
        """Frames counted as taken before that were dropped since."""
        with self._lock:
            key = (_OTHERS, outcome, BINS)
            self._counts[key] = self._counts.get(key, 0) + frames

    def read(self, standstills: Mapping[str, Standstill] | None = None) -> Counts:
        """What was counted so far."""
        self._sum_up()
        with self._lock:
            counts, since = dict(self._counts), self._since
        outcomes: dict[str, dict[str, int]] = {}
        histogram = [0] * (BINS + 1)
        for (camera, outcome, bin_), frames in counts.items():
            by_outcome = outcomes.setdefault(camera, {})
            by_outcome[outcome] = by_outcome.get(outcome, 0) + frames
            histogram[bin_] += frames
        return Counts(since, time.time(), outcomes, histogram, dict(standstills or {}))

    def publish(self, folder: Path, standstills: Mapping[str, Standstill] | None = None) -> None:
        """Write them where `read_published` finds them; a kill loses only what was counted since the last time."""
        target = folder / (self._name + SUFFIX)
        partial = folder / f".{self._name}.{threading.get_ident()}.partial"
        partial.write_bytes(msgspec.json.encode(self.read(standstills)))
        partial.replace(target)

    def _sum_up(self) -> None:
        with self._lock:
            for _ in range(len(self._notes)):
                camera, outcome, confidence = self._notes.popleft()
                key = (camera, outcome, BINS if confidence is None else int(confidence * _ALMOST_BINS))
                if key not in self._counts and len(self._counts) >= _KEYS:
                    key = (_OTHERS, *key[1:])
                self._counts[key] = self._counts.get(key, 0) + 1

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._since = time.time()
        self._name = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._counts: dict[tuple[str, str, int], int] = {}
        self._notes: deque[tuple[str, str, float | None]] = deque()


def total(parts: Iterable[Counts]) -> Counts:
    """The sum of counts."""
    outcomes: dict[str, Counter[str]] = {}
    histogram, since, at = [0] * (BINS + 1), float("inf"), 0.0
    for part in parts:
        for camera, counts in part.outcomes.items():
            outcomes.setdefault(camera, Counter()).update(counts)
        histogram = [one + other for one, other in zip(histogram, part.histogram, strict=True)]
        since, at = min(since, part.since), max(at, part.at)
    plain: dict[str, dict[str, int]] = {camera: dict(counts) for camera, counts in outcomes.items()}
    return Counts(since, at, plain, histogram)


_alive: "weakref.WeakSet[OutcomeCounters]" = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for counters in list(_alive):
        counters._begin()


os.register_at_fork(after_in_child=_after_fork_in_child)
