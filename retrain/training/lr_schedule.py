"""Learning rate, momentum and accumulation as pure functions of step and scores: there is no state to restore."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from retrain.errors import BadInput, ConfigError

SHAPES = ("linear", "cosine", "onecycle", "step", "plateau")
# Relative, as torch has it: a score that is better by less than this is not better.
_PLATEAU_THRESHOLD = 1e-4


class _Setting(NamedTuple):
    shape: str
    kind: type[int] | type[float]
    allows: Callable[[float], bool]
    rule: str
    default: Callable[[int], float]
    """For a number of epochs."""


_SETTINGS: Mapping[str, _Setting] = {
    "onecycle_peak": _Setting(
        "onecycle", float, lambda value: 0 < value < 1, "a number in (0, 1)", lambda _: 0.3
    ),
    "onecycle_start": _Setting(
        "onecycle", float, lambda value: 0 <= value <= 1, "a number in [0, 1]", lambda _: 0.04
    ),
    "step_epochs": _Setting(
        "step",
        int,
        lambda value: value >= 1,
        "a whole number of at least 1",
        lambda epochs: math.ceil(epochs / 3),
    ),
    "step_factor": _Setting("step", float, lambda value: 0 < value < 1, "a number in (0, 1)", lambda _: 0.1),
    "plateau_patience": _Setting(
        "plateau", int, lambda value: value >= 0, "a whole number of at least 0", lambda _: 5
    ),
    "plateau_factor": _Setting(
        "plateau", float, lambda value: 0 < value < 1, "a number in (0, 1)", lambda _: 0.5
    ),
}


class Warmup(NamedTuple):
    """Where a batch is in the warm-up; in the last of its `steps` everything has reached what it rises or falls to."""

    step: int
    steps: int
    bias_start: float

    def between(self, start: float, end: float) -> float:
        return float(np.interp(self.step, [0, self.steps], [start, end]))


@dataclass(frozen=True)
class StepSettings:
    """What the optimizer uses for one batch.

    Attributes:
        initial: the learning rate that was asked for.
        factor: share of its initial learning rate that a group of parameters has, or is warmed up to.
        momentum: for optimizers that have one (SGD, MuSGD); the betas of Adam never change.
        accumulate: batches whose gradients are summed before one optimizer step.
    """

    initial: float
    factor: float
    momentum: float
    accumulate: int
    warmup: Warmup | None = None

    def rate(self, initial: float, *, bias: bool = False) -> float:
        """Learning rate of a group that began with `initial`."""
        target = initial * self.factor
        return (
            target
            if self.warmup is None
            else self.warmup.between(self.warmup.bias_start if bias else 0.0, target)
        )

    @property
    def learning_rate(self) -> float:
        """Of weights."""
        return self.rate(self.initial)

    @property
    def bias_learning_rate(self) -> float:
        """Differs from `learning_rate` only while warming up."""
        return self.rate(self.initial, bias=True)


@dataclass(frozen=True, kw_only=True)
class LearningRateScheduler:
    """How the learning rate falls from `learning_rate`, its highest value, over a training.

    `linear` and `cosine` change once an epoch, exactly as Ultralytics does it, `step` as torch's StepLR, `plateau` as
    ReduceLROnPlateau. These four start with Ultralytics' per-batch warm-up. `onecycle` changes with every batch as
    OneCycleLR does; rising is part of it, so it takes no other warm-up, and it leaves momentum and accumulation alone.

    Attributes:
        final_fraction: share of `learning_rate` that is left at the end; `step` and `plateau` do not go below it.
        batches: in one epoch.
        warmup_epochs: fractions allowed; the last epoch is never part of the warm-up.
        warmup_bias_lr: where the learning rate of biases starts (other weights start at 0).
        accumulate: batches per optimizer step after the warm-up, which ramps from 1.
        onecycle_peak: share of all batches after which the rate is highest; None is 0.3.
        onecycle_start: share of `learning_rate` in the first batch; None is 0.04.
        step_epochs: epochs between two falls; None is a third of all.
        step_factor: what each multiplies the rate by; None is 0.1.
        plateau_patience: epochs in a row without a better score that are put up with before a fall; None is 5.
        plateau_factor: what each multiplies the rate by; None is 0.5.
        bigger_is_better: of the scores that `plateau` is given.

    Raises:
        ConfigError: a value is out of range, or one is given that `shape` does not read.
    """

    shape: str
    learning_rate: float
    final_fraction: float
    epochs: int
    batches: int
    warmup_epochs: float = 0.0
    warmup_bias_lr: float = 0.0
    warmup_momentum: float = 0.8
    momentum: float = 0.937
    accumulate: int = 1
    onecycle_peak: float | None = None
    onecycle_start: float | None = None
    step_epochs: int | None = None
    step_factor: float | None = None
    plateau_patience: int | None = None
    plateau_factor: float | None = None
    bigger_is_better: bool = True

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise ConfigError(f"scheduler must be one of {', '.join(SHAPES)}, got {self.shape!r}.")
        problems = [
            f"{name} must be {rule}, got {value!r}."
            for name, value, rule, fits in (
                ("learning_rate", self.learning_rate, "a number > 0", 0 < self.learning_rate < math.inf),
                ("final_fraction", self.final_fraction, "a number in [0, 1]", 0 <= self.final_fraction <= 1),
                ("warmup_epochs", self.warmup_epochs, "a number >= 0", 0 <= self.warmup_epochs < math.inf),
                ("epochs", self.epochs, "at least 1", self.epochs >= 1),
                ("batches", self.batches, "at least 1", self.batches >= 1),
                ("accumulate", self.accumulate, "at least 1", self.accumulate >= 1),
            )
            if not fits
        ]
        for name, setting in _SETTINGS.items():
            value = getattr(self, name)
            if value is None:
                continue
            if setting.shape != self.shape:
                problems.append(
                    f"{name} is {value!r}, but only the {setting.shape} scheduler reads it, not {self.shape}."
                )
            elif type(value) not in {int, setting.kind} or not setting.allows(value):
                problems.append(f"{name} must be {setting.rule}, got {value!r}.")
        if self.shape == "onecycle":
            problems += [
                f"{name} is {value}, but the onecycle scheduler warms up by itself; leave it out."
                for name, value in (
                    ("warmup_epochs", self.warmup_epochs),
                    ("warmup_bias_lr", self.warmup_bias_lr),
                )
                if value
            ]
        if problems:
            raise ConfigError(" ".join(problems))

    @property
    def resolved(self) -> dict[str, Any]:
        """What the shape reads beside what all read, by name, with defaults filled in."""
        return {
            name: setting.kind(self._setting(name))
            for name, setting in _SETTINGS.items()
            if setting.shape == self.shape
        }

    @property
    def warmup_steps(self) -> int:
        return round(min(self.warmup_epochs, max(self.epochs - 1, 0)) * self.batches)

    def at(self, step: int, history: Sequence[float] = ()) -> StepSettings:
        """Settings for the batch with this global number (from 0).

        Args:
            step: of the whole training.
            history: one score per finished epoch; only `plateau` reads it, up to the epoch before that of `step`.

        Raises:
            BadInput: `plateau` lacks the score of an earlier epoch.
        """
        factor = self._factor(step, history)
        nominal = min(self.accumulate, self.batches * self.epochs)
        if not self.warmup_steps or step > self.warmup_steps:
            return StepSettings(self.learning_rate, factor, self.momentum, nominal)
        warmup = Warmup(step, self.warmup_steps, self.warmup_bias_lr)
        return StepSettings(
            self.learning_rate,
            factor,
            momentum=warmup.between(self.warmup_momentum, self.momentum),
            accumulate=max(1, round(warmup.between(1, nominal))),
            warmup=warmup,
        )

    def _factor(self, step: int, history: Sequence[float]) -> float:
        epoch = step // self.batches
        match self.shape:
            case "linear":
                return max(1 - epoch / self.epochs, 0) * (1.0 - self.final_fraction) + self.final_fraction
            case "cosine":
                return _cosine(1, self.final_fraction, epoch / self.epochs)
            case "onecycle":
                return self._one_cycle(step)
            case "step":
                falls, factor = epoch // int(self._setting("step_epochs")), self._setting("step_factor")
            case _:
                falls, factor = self._plateaus(epoch, history), self._setting("plateau_factor")
        return max(factor**falls, self.final_fraction)

    def _one_cycle(self, step: int) -> float:
        last = self.epochs * self.batches - 1
        # As torch has it: not a whole number, and below 0 where the first batch is past the peak.
        peak = self._setting("onecycle_peak") * (last + 1) - 1
        if step <= peak:
            return _cosine(self._setting("onecycle_start"), 1, step / peak if peak else 1)
        return _cosine(1, self.final_fraction, min((step - peak) / (last - peak), 1))

    def _plateaus(self, epoch: int, history: Sequence[float]) -> int:
        if len(history) < epoch:
            raise BadInput(
                f"The plateau scheduler needs one score for each of {epoch} finished epochs, got {len(history)}."
            )
        sign = 1 if self.bigger_is_better else -1
        best, waited, falls = -sign * math.inf, 0, 0
        for score in history[:epoch]:
            # A score that is not a number is never better.
            if sign * score > sign * best * (1 + sign * _PLATEAU_THRESHOLD):
                best, waited = score, 0
            else:
                waited += 1
            if waited > self._setting("plateau_patience"):
                falls, waited = falls + 1, 0
        return falls

    def _setting(self, name: str) -> float:
        given: float | None = getattr(self, name)
        return _SETTINGS[name].default(self.epochs) if given is None else given


def _cosine(start: float, end: float, share: float) -> float:
    """Half a wave from `start` to `end`."""
    return max((1 - math.cos(share * math.pi)) / 2, 0) * (end - start) + start
