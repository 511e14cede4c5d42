"""What the challenger costs beside the champion: latency and size, from what was measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import stdtrit

from retrain.errors import BadInput
from retrain.evaluation.evidence import Measured

LATENCY_RATIO = "latency_ratio"
INTERVAL = "Student t on the logarithms of the ratios of pairs"
"""How the interval of the ratio of latencies is made."""


@dataclass(frozen=True)
class Costs:
    """What was measured of champion and challenger, in this order.

    Attributes:
        bytes: of the weights.
        latency_ms: of each round, both on the same image one directly after the other; None where it was not measured.
        conditions: what the times hold for, such as the machine.
    """

    bytes: tuple[int, int]
    latency_ms: tuple[Sequence[float], Sequence[float]] | None = None
    conditions: Mapping[str, Any] | None = None

    def measured(self, level: float) -> dict[str, Measured]:
        """By name of a limit.

        Args:
            level: of the interval.
        """
        champion, challenger = self.bytes
        found = {"size_ratio": Measured(challenger / champion), "size_mb": Measured(challenger / 1e6)}
        if self.latency_ms is not None:
            found[LATENCY_RATIO] = latency_ratio(*self.latency_ms, level)
        return found

    def to_json(self, level: float) -> dict[str, Any]:
        """All that was measured, and for a reader what comes of it at this level."""
        latency = None if self.latency_ms is None else [list(each) for each in self.latency_ms]
        measured = {name: dict(vars(one)) for name, one in self.measured(level).items()}
        said = {"measured": measured, "level": level, "interval": INTERVAL}
        return {**vars(self), "bytes": list(self.bytes), "latency_ms": latency, **said}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Costs":
        champion, challenger = data["bytes"]
        latency = data["latency_ms"]
        return cls(
            (champion, challenger), None if latency is None else (latency[0], latency[1]), data["conditions"]
        )


def latency_ratio(champion_ms: Sequence[float], challenger_ms: Sequence[float], level: float) -> Measured:
    """Challenger over champion: the geometric mean of the ratios of pairs, with its interval as `INTERVAL` says.

    Pairs are of one image and one moment, so what slows both down, such as other work on the machine, drops out.

    Raises:
        BadInput: fewer than 2 pairs, one without a partner, or a time that is not above zero.
    """
    champion, challenger = (np.asarray(each, dtype=np.float64) for each in (champion_ms, challenger_ms))
    if champion.shape != challenger.shape or len(champion) < 2:
        raise BadInput(
            f"A ratio of latencies needs pairs, at least 2, got {len(champion)} and {len(challenger)} times."
        )
    if not (np.isfinite([champion, challenger]).all() and min(champion.min(), challenger.min()) > 0):
        raise BadInput("A latency is above zero; one of those measured is not.")
    logs = np.log(challenger / champion)
    mean, error = float(logs.mean()), float(logs.std(ddof=1) / np.sqrt(len(logs)))
    half = float(stdtrit(len(logs) - 1, (1 + level) / 2)) * error
    return Measured(float(np.exp(mean)), float(np.exp(mean - half)), float(np.exp(mean + half)))
