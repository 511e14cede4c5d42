"""When another policy would have fired: the stored history, looked at again with other thresholds and waits.

A watcher's look is replayed at each of the history's `looks`. What the replay cannot know is how a cycle would
have gone that never ran. A crossing replayed at the moment of a recorded one gets that one's cycle as it was;
any other is assumed to select and to finish as long after its crossing as the median recorded cycle.
"""

import heapq
import itertools
import math
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median

from retrain.data_collection.triggers.policy import Level, TriggerFacts, TriggerPolicy, Waiting, evaluate


@dataclass(frozen=True)
class PastSample:
    """A sample that was stored, and every scope it counts for; `seq` grows in the order of storage."""

    seq: int
    stored_at: float
    scopes: frozenset[str]


@dataclass(frozen=True)
class PastCrossing:
    id: str
    crossed_at: float


@dataclass(frozen=True)
class PastCycle:
    """A cycle, started by a crossing or by hand.

    Attributes:
        selected_at: when it claimed samples; None if it never did.
        claimed_until: it claimed the waiting samples up to this `seq`; infinity: all of them.
        finished_at: None while it has not.
        gave_back: it was abandoned before its dataset version, and what it had claimed waited again.
    """

    trigger_id: str
    selected_at: float | None
    claimed_until: float
    finished_at: float | None
    gave_back: bool = False


@dataclass(frozen=True)
class History:
    """What the state knows about a model's past; times are seconds since the epoch.

    Attributes:
        samples: by rising `stored_at`.
        looks: rising moments at which a watcher looks; crossings before the first are taken as they were.
    """

    samples: Sequence[PastSample]
    crossings: Sequence[PastCrossing]
    cycles: Sequence[PastCycle]
    looks: Sequence[float]


@dataclass(frozen=True)
class ReplayedCrossing:
    """A crossing the policy would have recorded; `recorded` names the real one of the same moment, if any."""

    crossed_at: float
    scope: str
    count: int
    threshold: int
    recorded: str | None


@dataclass(frozen=True)
class CycleDelays:
    """Seconds from a crossing until its cycle selects and finishes: the median of `cycles` recorded ones.

    Without any they are 0, as if every crossing were answered at once.
    """

    select_s: float
    finish_s: float
    cycles: int


def replay(history: History, policy: TriggerPolicy) -> list[ReplayedCrossing]:
    """The crossings that a policy would have recorded, oldest first."""
    world, found = _World(history), []
    for look in history.looks:
        facts = world.facts_at(look)
        decision = evaluate(facts, policy, look)
        if decision.fires and decision.crossed is not None:
            found.append(world.cross(look, decision.crossed))
    return found


def cycle_delays(history: History) -> CycleDelays:
    """What an unrecorded cycle is assumed to take."""
    crossed = {crossing.id: crossing.crossed_at for crossing in history.crossings}
    delays = [
        (cycle.selected_at - crossed[cycle.trigger_id], cycle.finished_at - crossed[cycle.trigger_id])
        for cycle in history.cycles
        if cycle.trigger_id in crossed and cycle.selected_at is not None and cycle.finished_at is not None
    ]
    if not delays:
        return CycleDelays(0.0, 0.0, 0)
    selects, finishes = zip(*delays, strict=True)
    return CycleDelays(median(selects), median(finishes), len(delays))


class _World:
    """The state as it would be at one moment of the replay; time only goes forward."""

    def __init__(self, history: History) -> None:
        self._coming = deque(history.samples)
        self._waiting: list[PastSample] = []
        self._claimed: dict[str, list[PastSample]] = {}
        self._newest = self._counted_until = 0
        self._counted: Counter[str] = Counter()
        self._new: Counter[str] = Counter()
        self._unanswered: str | None = None
        self._last_crossing_at: float | None = None
        self._last_finished_at: float | None = None
        self._order = itertools.count()
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._delays = cycle_delays(history)
        self._cycles = {cycle.trigger_id: cycle for cycle in history.cycles}
        start = history.looks[0] if history.looks else math.inf
        self._recorded = {one.crossed_at: one.id for one in history.crossings if one.crossed_at >= start}
        self._plan(history.crossings, start)

    def facts_at(self, now: float) -> TriggerFacts:
        """What a watcher would count."""
        while self._events and self._events[0][0] <= now:
            at, _, happen = heapq.heappop(self._events)
            self._store_until(at)
            happen(at)
        self._store_until(now)
        scopes = self._counted.keys() | self._new.keys()
        waiting = {scope: Waiting(self._counted[scope], self._new[scope]) for scope in scopes}
        return TriggerFacts(waiting, self._unanswered, self._last_crossing_at, self._last_finished_at)

    def cross(self, now: float, level: Level) -> ReplayedCrossing:
        """Record a crossing and plan the cycle that answers it."""
        recorded = self._recorded.get(now)
        trigger_id = recorded or f"replayed at {now}"
        self._begin(trigger_id, now)
        if recorded is None:
            selected_at, finished_at = now + self._delays.select_s, now + self._delays.finish_s
            self._run(PastCycle(trigger_id, selected_at, math.inf, finished_at))
        elif recorded in self._cycles:
            self._run(self._cycles[recorded])
        return ReplayedCrossing(now, level.scope, level.waiting.total, level.threshold, recorded)

    def _plan(self, crossings: Sequence[PastCrossing], start: float) -> None:
        """What happens whatever the policy: cycles started by hand, and all that came of crossings before the start."""
        replayed = {one.id for one in crossings if one.crossed_at >= start}
        for cycle in self._cycles.values():
            if cycle.trigger_id not in replayed:
                self._run(cycle)
        for one in crossings:
            if one.crossed_at < start:
                self._at(one.crossed_at, partial(self._begin, one.id))

    def _run(self, cycle: PastCycle) -> None:
        if cycle.selected_at is not None:
            self._at(cycle.selected_at, partial(self._claim, cycle))
        if cycle.finished_at is not None:
            self._at(cycle.finished_at, partial(self._finish, cycle))

    def _at(self, moment: float, happen: Callable[[float], None]) -> None:
        heapq.heappush(self._events, (moment, next(self._order), happen))

    def _store_until(self, now: float) -> None:
        while self._coming and self._coming[0].stored_at <= now:
            self._waiting.append(sample := self._coming.popleft())
            self._newest = max(self._newest, sample.seq)
            self._kind(sample).update(sample.scopes)

    def _begin(self, trigger_id: str, now: float) -> None:
        self._unanswered, self._last_crossing_at = trigger_id, now
        self._counted.update(self._new)
        self._new.clear()
        self._counted_until = self._newest

    def _claim(self, cycle: PastCycle, _now: float) -> None:
        claimed = [sample for sample in self._waiting if sample.seq <= cycle.claimed_until]
        self._waiting = [sample for sample in self._waiting if sample.seq > cycle.claimed_until]
        for sample in claimed:
            self._kind(sample).subtract(sample.scopes)
        if cycle.gave_back:
            self._claimed[cycle.trigger_id] = claimed

    def _finish(self, cycle: PastCycle, now: float) -> None:
        self._last_finished_at = now
        if self._unanswered == cycle.trigger_id:
            self._unanswered = None
        for sample in self._claimed.pop(cycle.trigger_id, ()):
            self._waiting.append(sample)
            self._kind(sample).update(sample.scopes)

    def _kind(self, sample: PastSample) -> Counter[str]:
        """Where a waiting sample is counted."""
        return self._counted if sample.seq <= self._counted_until else self._new
