"""When to stop and which epoch to keep, decided from the whole history so that a resumed run decides the same."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from retrain.errors import ConfigError, PostConditionFailed
from retrain.training.result import EpochReport

# Whether bigger is better.
METRICS: Mapping[str, bool] = {
    "map50_95": True,
    "map50": True,
    "precision": True,
    "recall": True,
    "loss": False,
}


@dataclass(frozen=True)
class EarlyStopping:
    """Stop when the metric has not improved for `patience` epochs; `None` never stops.

    Histories have one value per epoch. One that is not finite is never an improvement and never the best.

    Attributes:
        metric: also what the best epoch is chosen by; `loss` is the sum of the training loss terms.
        min_delta: an epoch counts as better only if it is by more than this.
    """

    patience: int | None
    metric: str = "map50_95"
    min_delta: float = 0.0

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise ConfigError(f"stop_metric must be one of {', '.join(METRICS)}, got {self.metric!r}.")
        if self.patience is not None and self.patience < 1:
            raise ConfigError(f"patience must be at least 1, or None to never stop, got {self.patience}.")
        if not 0 <= self.min_delta < math.inf:
            raise ConfigError(f"min_delta must be a number >= 0, got {self.min_delta}.")
        if self.min_delta and self.patience is None:
            raise ConfigError(f"min_delta is {self.min_delta}, but only patience reads it; set patience.")

    @property
    def bigger_is_better(self) -> bool:
        return METRICS[self.metric]

    def metric_of(self, report: EpochReport) -> float:
        return sum(report.losses.values()) if self.metric == "loss" else float(getattr(report, self.metric))

    def score(self, value: float) -> float:
        """The metric so that more is better."""
        return value if self.bigger_is_better else -value

    def should_stop(self, history: Sequence[float]) -> bool:
        """Whether to stop after the last epoch in `history`.

        A best value of 0 counts as no result yet: a detector from scratch scores 0 for its first epochs. Epochs whose
        value is not finite count as waited, also when there was never another.
        """
        if self.patience is None:
            return False
        best, improved = math.nan, -1
        for epoch, value in enumerate(history):
            if math.isfinite(value) and self._improves(value, best):
                best, improved = value, epoch
        return len(history) - 1 - improved >= self.patience

    def best_epoch(self, history: Sequence[float]) -> int:
        """Index of the best value; the latest of equals, which has trained longest.

        Raises:
            PostConditionFailed: no value is finite.
        """
        return best_epoch(history, bigger_is_better=self.bigger_is_better)

    def is_best(self, history: Sequence[float]) -> bool:
        """Whether the last epoch in `history` is the one to keep so far."""
        return math.isfinite(history[-1]) and self.best_epoch(history) == len(history) - 1

    def _improves(self, value: float, best: float) -> bool:
        if math.isnan(best):
            return True
        if self.bigger_is_better:
            return best <= 0 or value > best + self.min_delta
        return value < best - self.min_delta


def best_epoch(history: Sequence[float], *, bigger_is_better: bool = True) -> int:
    """Index of the best value; the latest of equals, which has trained longest.

    Raises:
        PostConditionFailed: no value is finite.
    """
    usable = [epoch for epoch, value in enumerate(history) if math.isfinite(value)]
    if not usable:
        raise PostConditionFailed(
            f"No epoch is the best: the metric is {list(history)}; lower learning_rate."
        )
    sign = 1 if bigger_is_better else -1
    return max(usable, key=lambda epoch: (sign * history[epoch], epoch))
