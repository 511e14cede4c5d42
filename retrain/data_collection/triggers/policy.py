"""When enough new samples wait for a retraining: a pure rule over facts that somebody else counted."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

from retrain.data_collection.checks import check_count, check_fraction, check_known
from retrain.data_collection.triggers.freeze import FreezeCalendar
from retrain.errors import ConfigError

ALL = "samples"
"""The scope of the threshold that counts every sample; others are "class <name>" and "camera <name>"."""


@dataclass(frozen=True)
class TriggerPolicy:
    """How many samples start a retraining, and when it has to wait nevertheless.

    **Hysteresis.** A cycle claims the samples it selects, so after a normal cycle none is left and the count
    starts at 0. A cycle that was abandoned before its dataset version gives them all back, and the same samples
    would fire again at once. So what the last crossing counted and still waits (`counted`) counts for at most
    `rearm_fraction * threshold`, rounded down; samples stored since (`new`) count in full:

        fires when min(counted, rearm_fraction * threshold) + new >= threshold

    that is, once the old ones fell to the re-arm level (selected or deleted) as if they were new, and otherwise
    after the count grew by (1 - rearm_fraction) * threshold. 1 switches this off; 0 wants `threshold` new ones.

    Attributes:
        threshold: waiting samples, whatever they show; a sample is one distinct image, stored and not selected.
        class_thresholds: waiting samples that show the class, by its name; any one of them suffices.
        camera_thresholds: waiting samples of the camera, by its name; any one of them suffices.
        rearm_fraction: in [0, 1], see above.
        cooldown_s: nothing fires this long after a cycle of the model finished, however it ended.
        min_interval_s: nothing fires this long after the last crossing.
        freeze: nothing fires inside these, see `FreezeCalendar`; what was reached fires at their end.
        timezone: of `freeze`, an IANA name.

    Raises:
        ConfigError: a value is out of range.
    """

    threshold: int
    class_thresholds: Mapping[str, int] = field(default_factory=dict)
    camera_thresholds: Mapping[str, int] = field(default_factory=dict)
    rearm_fraction: float = 0.5
    cooldown_s: float = 0.0
    min_interval_s: float = 0.0
    freeze: tuple[str, ...] = ()
    timezone: str = "UTC"

    def __post_init__(self) -> None:
        check_count("threshold", self.threshold)
        for name in ("class_thresholds", "camera_thresholds"):
            if not isinstance(thresholds := getattr(self, name), Mapping):
                raise ConfigError(f"{name} must map names to numbers of samples, got {thresholds!r}.")
            for key, count in thresholds.items():
                check_count(f"{name}.{key}", count)
        check_fraction("rearm_fraction", self.rearm_fraction)
        for name in ("cooldown_s", "min_interval_s"):
            if not isinstance(value := getattr(self, name), int | float) or not 0 <= value < math.inf:
                raise ConfigError(f"{name} must be a number of seconds, at least 0, got {value!r}.")
        if not isinstance(self.freeze, tuple | list) or not all(isinstance(one, str) for one in self.freeze):
            raise ConfigError(f"freeze must be a list of windows, got {self.freeze!r}.")
        self.calendar  # noqa: B018 - reads the windows, so that a bad one fails here

    @cached_property
    def calendar(self) -> FreezeCalendar:
        return FreezeCalendar(tuple(self.freeze), self.timezone)

    @cached_property
    def limits(self) -> Mapping[str, int]:
        """Every threshold by its scope, in the order in which they are asked."""
        classes = {f"class {name}": count for name, count in self.class_thresholds.items()}
        cameras = {f"camera {name}": count for name, count in self.camera_thresholds.items()}
        return {ALL: self.threshold, **classes, **cameras}

    def check_classes(self, classes: Sequence[str]) -> None:
        """Raises: ConfigError: a class threshold names none of the model's classes, so it could never be reached."""
        for name in self.class_thresholds:
            check_known("class in class_thresholds", name, classes)

    def changed(self, settings: Mapping[str, Any]) -> "TriggerPolicy":
        """The policy with some attributes replaced.

        Raises:
            ConfigError: an unknown name, or a value out of range.
        """
        for name in settings:
            check_known("trigger setting", name, [one.name for one in fields(self)])
        return replace(self, **settings)


@dataclass(frozen=True)
class Waiting:
    """Waiting samples of one scope: those the last crossing `counted`, and those `new` since."""

    counted: int = 0
    new: int = 0

    @property
    def total(self) -> int:
        return self.counted + self.new


@dataclass(frozen=True)
class TriggerFacts:
    """What is known at one moment; times are seconds since the epoch.

    Attributes:
        waiting: by scope; a scope that is missing has no waiting sample.
        unanswered: id of a crossing whose cycle has not finished, if there is one.
        last_cycle_finished_at: of any cycle of the model, also one started by hand.
    """

    waiting: Mapping[str, Waiting]
    unanswered: str | None = None
    last_crossing_at: float | None = None
    last_cycle_finished_at: float | None = None


@dataclass(frozen=True)
class Level:
    """How far one scope is from its threshold; `counts_for` is what hysteresis leaves of the waiting samples."""

    scope: str
    waiting: Waiting
    counts_for: int
    threshold: int

    @property
    def is_reached(self) -> bool:
        return self.counts_for >= self.threshold

    def __str__(self) -> str:
        what = ALL if self.scope == ALL else f"{ALL} of {self.scope}"
        said = f"{self.waiting.total} of {self.threshold} {what} wait"
        if self.is_reached or self.counts_for == self.waiting.total:
            return said
        missing = self.threshold - self.counts_for
        return (
            f"{said}, but the last crossing counted {self.waiting.counted} of them: {missing} more are needed"
        )


@dataclass(frozen=True)
class TriggerDecision:
    """Whether to record a crossing now.

    Attributes:
        reasons: why it fires, or everything that keeps it from firing; sentences without a full stop.
        would_fire_at: the first moment from now on at which it fires if no sample and no cycle changes; None
            when time alone does not help.
        crossed: the first threshold reached, of those in the order of `TriggerPolicy.limits`; None if none is.
    """

    fires: bool
    reasons: tuple[str, ...]
    would_fire_at: float | None
    crossed: Level | None


def evaluate(facts: TriggerFacts, policy: TriggerPolicy, now: float) -> TriggerDecision:
    """Decide from the facts alone; the same facts always give the same answer."""
    levels = measure(facts, policy)
    reached = [level for level in levels if level.is_reached]
    would_fire_at = None
    if reached and facts.unanswered is None:
        would_fire_at = policy.calendar.next_open(max([now, *_holds(facts, policy).values()]))
    if fires := would_fire_at == now:
        reasons = [str(level) for level in reached]
    else:
        # The cycle that answers will take what waits, so how much that is says nothing before.
        missing = [] if reached or facts.unanswered is not None else levels
        reasons = [str(level) for level in missing] + _delays(facts, policy, now)
    return TriggerDecision(fires, tuple(reasons), would_fire_at, reached[0] if reached else None)


def measure(facts: TriggerFacts, policy: TriggerPolicy) -> list[Level]:
    """Every threshold of the policy beside what waits for it."""
    levels = []
    for scope, threshold in policy.limits.items():
        waiting = facts.waiting.get(scope, Waiting())
        # The margin keeps 0.57 * 100 at 57.
        rearm_level = math.floor(policy.rearm_fraction * threshold + 1e-9)
        counts_for = min(waiting.counted, rearm_level) + waiting.new
        levels.append(Level(scope, waiting, counts_for, threshold))
    return levels


def _holds(facts: TriggerFacts, policy: TriggerPolicy) -> dict[str, float]:
    """Until when the past forbids a crossing, by why."""
    holds = {}
    if facts.last_cycle_finished_at is not None and policy.cooldown_s:
        holds["cooling down"] = facts.last_cycle_finished_at + policy.cooldown_s
    if facts.last_crossing_at is not None and policy.min_interval_s:
        holds["too soon after the last crossing,"] = facts.last_crossing_at + policy.min_interval_s
    return holds


def _delays(facts: TriggerFacts, policy: TriggerPolicy, now: float) -> list[str]:
    delays = []
    if facts.unanswered is not None:
        delays.append(f"the cycle that answers {facts.unanswered} has not finished")
    ends = {**_holds(facts, policy), "frozen": policy.calendar.next_open(now)}
    return delays + [f"{why} until {policy.calendar.local(end)}" for why, end in ends.items() if end > now]
