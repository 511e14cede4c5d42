"""Is a detection with confidence 0.8 right in 8 of 10 cases? Right is: it found an object at IoU 0.5."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from retrain.errors import BadInput
from retrain.evaluation.evaluation import Evaluation
from retrain.evaluation.json_ready import json_ready
from retrain.evaluation.ranked import Ranked, all_classes, ranked_by_class


@dataclass(frozen=True)
class ReliabilityBin:
    """Detections with a confidence in [low, high), the last bin including 1.

    Attributes:
        confidence: mean; NaN, as is `precision`, when there are none.
        precision: share that is right.
    """

    low: float
    high: float
    confidence: float
    precision: float
    count: int


@dataclass(frozen=True)
class Calibration:
    """Attributes:
    ece: expected calibration error: mean distance of confidence from precision over bins, weighted by their detections
        (Naeini et al. 2015, "Obtaining Well Calibrated Probabilities Using Bayesian Binning"); NaN without detections.
    mce: the largest of those distances.
    bias: mean confidence minus precision; positive is overconfident.
    """

    ece: float
    mce: float
    bias: float
    count: int
    bins: tuple[ReliabilityBin, ...]


@dataclass(frozen=True)
class CalibrationReport:
    """Attributes:
    overall: of all detections together.
    classes: by name.
    at_least: lowest confidence that was looked at.
    """

    overall: Calibration
    classes: Mapping[str, Calibration]
    at_least: float

    def to_json(self) -> dict[str, Any]:
        result: dict[str, Any] = json_ready(self)
        return result


def calibration(evaluation: Evaluation, *, bins: int = 10, at_least: float = 0.0) -> CalibrationReport:
    """Bins of equal width.

    Args:
        at_least: leave out detections with less confidence; there are many near 0, and they hide the rest.

    Raises:
        BadInput: no bin.
    """
    if bins < 1:
        raise BadInput(f"bins must be at least 1, got {bins}.")
    each = ranked_by_class(evaluation)
    classes = {
        name: _calibration(one, bins, at_least)
        for name, one in zip(evaluation.truth.classes, each, strict=True)
    }
    return CalibrationReport(_calibration(all_classes(each), bins, at_least), classes, at_least)


def _calibration(ranked: Ranked, bins: int, at_least: float) -> Calibration:
    keep = ranked.scores >= at_least
    scores, hits = ranked.scores[keep], ranked.hits[keep]
    place = np.minimum((scores * bins).astype(np.int64), bins - 1)
    count = np.bincount(place, minlength=bins)
    undefined = np.full(bins, np.nan)
    confidence, precision = (
        np.divide(np.bincount(place, values, bins), count, out=undefined.copy(), where=count > 0)
        for values in (scores, hits)
    )
    edges = np.arange(bins + 1) / bins
    rows = tuple(
        ReliabilityBin(float(low), float(high), float(mean), float(right), int(number))
        for low, high, mean, right, number in zip(
            edges[:-1], edges[1:], confidence, precision, count, strict=True
        )
    )
    if not len(scores):
        return Calibration(float("nan"), float("nan"), float("nan"), 0, rows)
    distance = np.abs(confidence - precision)[count > 0]
    return Calibration(
        ece=float(distance @ count[count > 0] / len(scores)),
        mce=float(distance.max()),
        bias=float(scores.mean() - hits.mean()),
        count=len(scores),
        bins=rows,
    )
