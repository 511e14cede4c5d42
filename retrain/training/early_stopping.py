"""When to stop and which epoch to keep, decided from the whole history so that a resumed run decides the same."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class EarlyStopping:
    """Stop when the metric has not improved for `patience` epochs; `None` never stops."""

    patience: int | None

    def should_stop(self, history: Sequence[float]) -> bool:
        """Whether to stop after the last epoch in `history`.

        A best value of 0 counts as no result yet: a detector from scratch scores 0 for its first epochs.
        """
        if self.patience is None or not history or max(history) <= 0:
            return False
        best = max(range(len(history)), key=lambda epoch: history[epoch])
        return len(history) - 1 - best >= self.patience


def best_epoch(history: Sequence[float]) -> int:
    """Index of the highest value; the latest of equals, which has trained longest."""
    return max(range(len(history)), key=lambda epoch: (history[epoch], epoch))
