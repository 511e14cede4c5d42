"""Is the challenger better than the champion? A paired bootstrap over recordings, with four possible answers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.special import ndtr, stdtrit

from retrain.boxes import FloatArray, IntArray
from retrain.errors import BadInput
from retrain.evaluation.evaluation import Evaluation
from retrain.evaluation.matching import IOU_THRESHOLDS

Verdict = Literal["better", "worse", "inconclusive", "invalid"]
Metric = Literal["map50", "map50_95"]

MIN_GROUPS = 5
"""Fewer recordings cannot show how much recordings differ."""
RESAMPLING = "paired group bootstrap, expanded percentiles"
_THRESHOLDS: dict[str, FloatArray] = {"map50": IOU_THRESHOLDS[:1], "map50_95": IOU_THRESHOLDS}
_UNDEFINED_SHARE = 0.01


@dataclass(frozen=True)
class Comparison:
    """Challenger minus champion on the same images.

    Attributes:
        low: lower end of the interval of `difference` at `level`; NaN, like `high`, when the verdict is invalid.
        reason: the verdict in words.
    """

    metric: str
    champion: float
    challenger: float
    difference: float
    low: float
    high: float
    level: float
    n_images: int
    n_groups: int
    resamples: int
    resampling: str
    verdict: Verdict
    reason: str

    def to_json(self) -> dict[str, Any]:
        """NaN becomes null; `from_json` gives back equal values."""
        return {
            name: None if isinstance(value, float) and np.isnan(value) else value
            for name, value in vars(self).items()
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Comparison":
        numbers = ("champion", "challenger", "difference", "low", "high")
        return cls(
            **{**data, **{name: float("nan") if data[name] is None else data[name] for name in numbers}}
        )


def compare(
    champion: Evaluation,
    challenger: Evaluation,
    metric: Metric = "map50",
    *,
    seed: int = 0,
    resamples: int = 1000,
    level: float = 0.95,
) -> Comparison:
    """Bootstrap the difference over groups (recordings): frames of one recording are not independent.

    Each resample draws recordings with replacement and recomputes both models' mAP on the same draw. Percentiles
    are expanded for the number of groups (Hesterberg 2015, "What Teachers Should Know About the Bootstrap"),
    because plain percentiles are too narrow below about 50 groups.

    Raises:
        BadInput: the two were not evaluated on the same images, groups and objects, or not asked in the same way.
    """
    _check_pair(champion, challenger)
    if metric not in _THRESHOLDS:
        raise BadInput(f"metric must be one of {', '.join(_THRESHOLDS)}, got {metric!r}.")
    if not 0.5 < level < 1 or resamples < 200:
        raise BadInput(f"level must be in (0.5, 1) and resamples at least 200, got {level} and {resamples}.")
    units = champion.truth.group_of
    n_groups = int(units.max()) + 1
    curves = [each.average_precision(units) for each in (champion, challenger)]
    before, after = (float(curve.mean(_once(n_groups), _THRESHOLDS[metric])[0]) for curve in curves)

    low = high = float("nan")
    problem = _problem(before, after, n_groups)
    if problem is None:
        weights = np.random.default_rng(seed).multinomial(
            n_groups, np.full(n_groups, 1 / n_groups), resamples
        )
        drawn = [curve.mean(weights, _THRESHOLDS[metric]) for curve in curves]
        low, high, problem = _interval(drawn[1] - drawn[0], level, n_groups)
    verdict, reason = _verdict(after - before, low, high, metric, level, problem)
    return Comparison(
        metric, before, after, after - before, low, high, level,
        len(champion.truth.images), n_groups, resamples, RESAMPLING, verdict, reason,
    )  # fmt: skip


def _check_pair(champion: Evaluation, challenger: Evaluation) -> None:
    if champion.truth.digest != challenger.truth.digest:
        raise BadInput(
            f"Champion and challenger were evaluated on different images, groups, classes or objects "
            f"({len(champion.truth.images)} and {len(challenger.truth.images)} images, digests "
            f"{champion.truth.digest[:12]} and {challenger.truth.digest[:12]}); evaluate both on the same frozen set."
        )
    mine, other = champion.protocol.to_json(), challenger.protocol.to_json()
    if different := [name for name in mine if mine[name] != other[name]]:
        raise BadInput(
            f"Champion and challenger were not asked in the same way: {', '.join(different)} differ; evaluate both "
            "with one protocol."
        )


def _once(n_groups: int) -> IntArray:
    return np.ones((1, n_groups), dtype=np.int64)


def _problem(before: float, after: float, n_groups: int) -> str | None:
    if n_groups < MIN_GROUPS:
        return f"Only {n_groups} recordings; at least {MIN_GROUPS} are needed to judge a difference."
    if not np.isfinite([before, after]).all():
        return "The images contain no object, so there is no score to compare."
    return None


def _interval(differences: FloatArray, level: float, n_groups: int) -> tuple[float, float, str | None]:
    defined = differences[np.isfinite(differences)]
    if len(defined) < (1 - _UNDEFINED_SHARE) * len(differences):
        missing = len(differences) - len(defined)
        return (
            float("nan"),
            float("nan"),
            f"{missing} of {len(differences)} resamples hold no object; too few recordings have any.",
        )
    reach = np.sqrt(n_groups / (n_groups - 1)) * stdtrit(n_groups - 1, (1 + level) / 2)
    tail = float(ndtr(-reach))
    low, high = np.quantile(defined, [tail, 1 - tail])
    return float(low), float(high), None


def _verdict(
    difference: float, low: float, high: float, metric: str, level: float, problem: str | None
) -> tuple[Verdict, str]:
    if problem is not None:
        return "invalid", problem
    said = f"{metric} changed by {difference:+.3f}, {level:.0%} interval {low:+.3f} to {high:+.3f}"
    if low > 0:
        return "better", f"{said}: better."
    if high < 0:
        return "worse", f"{said}: worse."
    if low <= 0 <= high:
        return "inconclusive", f"{said}: it contains zero, so no difference is shown."
    return "invalid", f"{said}: not a usable interval."
