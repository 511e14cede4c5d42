"""One reading of data collection, as numbers: what the monitor returns and its views show."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from retrain.data_collection.spool.reader import SpoolDepth
from retrain.data_collection.statistics.counter_files import Producer
from retrain.data_collection.statistics.records import Rejection, Stored

_EVICTED = "oldest"
"""Reason of the drops that were counted as taken first, so they were not offered a second time."""


@dataclass(frozen=True)
class Flow:
    """Frames offered, and what was decided about each.

    Attributes:
        skipped, dropped: frames by reason. `evicted` were taken, and dropped from a full spool later.
    """

    taken: int
    skipped: Mapping[str, int]
    rejected: int
    dropped: Mapping[str, int]
    evicted: int = 0

    @property
    def offered(self) -> int:
        return self.taken + sum(self.skipped.values()) + self.rejected + sum(self.dropped.values())

    @property
    def accept_ratio(self) -> float | None:
        return self.taken / self.offered if self.offered else None


@dataclass(frozen=True)
class CollectionSnapshot:
    """One reading. None means not known, which is never shown as 0.

    Attributes:
        at: when it was read, seconds since the epoch.
        flow, cameras: frames offered on this machine since counting began; by camera.
        offered_per_s, taken_per_s: over the last minute; not known before two readings, and while nobody publishes.
        histogram: frames by confidence, bins of equal width from 0 to 1.
        without_confidence: frames in which the model saw nothing, so that there is no confidence.
        published_at: when anybody last published counts.
        producers: who published counts, the last heard of first.
        damaged: files of counts that cannot be read, so their frames are missing here.
        queue: what waits in the spool; None if there is no spool.
        draws: what became of the taken frames: strategy -> stored, duplicate, near-duplicate or rejected -> frames.
        strategy_ratios, class_ratios: part of all frames that a strategy takes, or of the frames showing a class that
            is taken; estimated from the last 2000 draws by their inclusion probability (Hájek 1971). The audit arm
            makes that possible: not known where it drew fewer than 10 of them.
        classes: of the samples stored among those draws, how many show the class; `audit_draws` of them all.
        stored: the store's samples and packs.
        rejections: the last ones.
    """

    at: float
    flow: Flow | None
    cameras: Mapping[str, Flow]
    offered_per_s: float | None
    taken_per_s: float | None
    histogram: tuple[int, ...] | None
    without_confidence: int | None
    published_at: float | None
    producers: tuple[Producer, ...]
    damaged: tuple[str, ...]
    queue: SpoolDepth | None
    draws: Mapping[str, Mapping[str, int]]
    audit_draws: int
    strategy_ratios: Mapping[str, float | None]
    class_ratios: Mapping[str, float | None]
    classes: Mapping[str, int]
    stored: Stored
    rejections: tuple[Rejection, ...]

    @property
    def oldest_wait_s(self) -> float | None:
        """For how long the oldest record in the spool may have waited; None if none waits."""
        if self.queue is None or self.queue.oldest_at is None:
            return None
        return max(self.at - self.queue.oldest_at, 0.0)

    def outcomes(self) -> Counter[str]:
        """Taken frames by outcome, over all strategies."""
        found: Counter[str] = Counter()
        for counts in self.draws.values():
            found.update(counts)
        return found


def read_flow(parts: Iterable[Mapping[str, int]]) -> Flow:
    """What the outcomes of counters mean."""
    kinds: dict[str, Counter[str]] = {"taken": Counter(), "rejected": Counter(), "dropped": Counter()}
    skipped: Counter[str] = Counter()
    for part in parts:
        for outcome, frames in part.items():
            kind, _, reason = outcome.partition(": ")
            if kind in kinds:
                kinds[kind][reason] += frames
            else:
                skipped[outcome] += frames
    evicted = kinds["dropped"].pop(_EVICTED, 0)
    return Flow(
        kinds["taken"].total(), dict(skipped), kinds["rejected"].total(), dict(kinds["dropped"]), evicted
    )
