"""Learning rate, momentum and accumulation as pure functions of the global step: there is no state to restore."""

import math
from dataclasses import dataclass

import numpy as np

from retrain.errors import ConfigError

SHAPES = ("linear", "cosine")


@dataclass(frozen=True)
class StepSettings:
    """What the optimizer uses for one batch.

    Attributes:
        learning_rate: of weights.
        bias_learning_rate: of biases; differs from `learning_rate` only while warming up.
        momentum: for optimizers that have one (SGD).
        accumulate: batches whose gradients are summed before one optimizer step.
    """

    learning_rate: float
    bias_learning_rate: float
    momentum: float
    accumulate: int


@dataclass(frozen=True, kw_only=True)
class LearningRateScheduler:
    """Per-epoch decay after a per-batch warm-up, as Ultralytics does it.

    Attributes:
        shape: `linear` or `cosine` decay from `learning_rate` to `learning_rate * final_fraction`.
        batches: batches in one epoch.
        warmup_epochs: fractions allowed; the last epoch is never part of the warm-up.
        warmup_bias_lr: where the learning rate of biases starts (other weights start at 0).
        accumulate: batches per optimizer step after the warm-up, which ramps from 1.
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

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise ConfigError(f"scheduler must be one of {', '.join(SHAPES)}, got {self.shape!r}.")

    @property
    def warmup_steps(self) -> int:
        return round(min(self.warmup_epochs, max(self.epochs - 1, 0)) * self.batches)

    def factor(self, epoch: int) -> float:
        """Share of `learning_rate` used in `epoch` (from 0)."""
        if self.shape == "cosine":
            falling = max((1 - math.cos(epoch * math.pi / self.epochs)) / 2, 0)
            return falling * (self.final_fraction - 1) + 1
        return max(1 - epoch / self.epochs, 0) * (1.0 - self.final_fraction) + self.final_fraction

    def at(self, step: int) -> StepSettings:
        """Settings for the batch with this global number (from 0)."""
        target = self.learning_rate * self.factor(step // self.batches)
        nominal = min(self.accumulate, self.batches * self.epochs)
        warmup = self.warmup_steps
        if not warmup or step > warmup:
            return StepSettings(target, target, self.momentum, nominal)
        span = [0, warmup]
        return StepSettings(
            learning_rate=float(np.interp(step, span, [0.0, target])),
            bias_learning_rate=float(np.interp(step, span, [self.warmup_bias_lr, target])),
            momentum=float(np.interp(step, span, [self.warmup_momentum, self.momentum])),
            accumulate=max(1, int(np.interp(step, span, [1, nominal]).round())),
        )
