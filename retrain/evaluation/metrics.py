"""The one metric kernel: COCO average precision, from match records that bootstrap resamples can share.

After matching, everything is counting with a weight per image, so a bootstrap resample costs a few array
operations and no IoU. Interpolation and means are those of pycocotools (area "all").
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrain.boxes import FloatArray, IntArray
from retrain.errors import BadInput
from retrain.evaluation.matching import IOU_THRESHOLDS, BoolArray, ImageMatch

_RECALL_LEVELS: FloatArray = np.linspace(0.0, 1.0, 101)
_CELLS_AT_ONCE = 4_000_000
"""Detections times resamples held in memory together (about 100 MB of working arrays)."""


@dataclass(frozen=True)
class MetricSummary:
    """Scores in [0, 1]; NaN where nothing defines the value (no object of a class, no detection at all).

    Attributes:
        per_class_ap50: NaN for a class without objects; such classes do not enter the means (as in COCO).
        precision: at IoU 0.5 and `confidence`, over all classes together, like `recall` and `f1`.
    """

    map50: float
    map50_95: float
    per_class_ap50: tuple[float, ...]
    precision: float
    recall: float
    f1: float
    confidence: float
    n_images: int
    n_objects: int
    n_detections: int

    def to_json(self) -> dict[str, Any]:
        """NaN becomes null, because JSON has no NaN."""
        values = {name: _null_if_nan(value) for name, value in vars(self).items() if name != "per_class_ap50"}
        return values | {"per_class_ap50": [_null_if_nan(value) for value in self.per_class_ap50]}


@dataclass(frozen=True)
class PrCurve:
    """One point per detection at IoU 0.5, falling score; empty when the class has no objects or detections."""

    recall: FloatArray
    precision: FloatArray
    scores: FloatArray


def summarise(
    matches: Sequence[ImageMatch], n_classes: int, weights: IntArray | None = None, confidence: float = 0.25
) -> MetricSummary:
    """All metrics of one model.

    Args:
        weights: how often each image counts, shape (len(matches),); each once when not given.
        confidence: detections below it do not enter precision, recall and F1 (they do enter mAP).
    """
    times = (
        np.ones(len(matches), dtype=np.int64) if weights is None else _checked_weights(weights, len(matches))
    )
    ap = AveragePrecision(matches, n_classes).resampled(times[None, :], IOU_THRESHOLDS)[0]
    true_positives, made, objects = _counts(matches, times, confidence)
    return MetricSummary(
        map50=float(_mean_defined(ap[:, 0])),
        map50_95=float(_mean_defined(ap.mean(axis=1))),
        per_class_ap50=tuple(ap[:, 0].tolist()),
        precision=_ratio(true_positives, made),
        recall=_ratio(true_positives, objects),
        f1=_ratio(2 * true_positives, made + objects),
        confidence=confidence,
        n_images=int(times.sum()),
        n_objects=objects,
        n_detections=made,
    )


def pr_curve(matches: Sequence[ImageMatch], class_index: int) -> PrCurve:
    """Precision against recall of one class, for plots."""
    pool = _pool(matches, class_index, np.arange(len(matches)))
    n_objects = int(pool.truth_per_unit.sum())
    if n_objects == 0:
        return PrCurve(np.zeros(0), np.zeros(0), np.zeros(0))
    hits = np.cumsum(pool.hits[:, 0])
    return PrCurve(hits / n_objects, hits / np.arange(1, len(hits) + 1), pool.scores)


@dataclass(frozen=True)
class _ClassPool:
    """All detections of one class over all images, best score first."""

    scores: FloatArray
    hits: BoolArray
    unit: IntArray
    truth_per_unit: IntArray


class AveragePrecision:
    """Average precision of one set of matches under many weightings; scores are sorted once.

    Weights are per *unit*: an image by default, or the group (recording) an image belongs to. A weight of k
    gives what k copies of the unit's images would, except for the order of equal scores within one image.

    Args:
        units: index of each image's unit from 0, shape (len(matches),).
    """

    def __init__(self, matches: Sequence[ImageMatch], n_classes: int, units: IntArray | None = None) -> None:
        _check_classes(matches, n_classes)
        units = np.arange(len(matches)) if units is None else units
        self._pools = [_pool(matches, index, units) for index in range(n_classes)]

    def resampled(self, weights: IntArray, thresholds: FloatArray) -> FloatArray:
        """Average precision of every class.

        Args:
            weights: shape (resamples, units), whole numbers from 0.
            thresholds: members of `IOU_THRESHOLDS`, shape (t,).

        Returns:
            Shape (resamples, classes, t); NaN where a resample has no object of the class.
        """
        columns = np.searchsorted(IOU_THRESHOLDS, thresholds)
        result = np.full((len(weights), len(self._pools), len(columns)), np.nan)
        for class_index, pool in enumerate(self._pools):
            step = max(1, _CELLS_AT_ONCE // max(1, len(pool.scores)))
            for start in range(0, len(weights), step):
                part = slice(start, start + step)
                result[part, class_index] = _class_ap(pool, weights[part], columns)
        return result

    def mean(self, weights: IntArray, thresholds: FloatArray) -> FloatArray:
        """Mean over classes and thresholds, shape (resamples,); NaN for a resample without any object."""
        return _mean_defined(self.resampled(weights, thresholds).mean(axis=2))


def _pool(matches: Sequence[ImageMatch], class_index: int, units: IntArray) -> _ClassPool:
    empty = np.zeros(0)
    chosen = [item.classes == class_index for item in matches]
    scores = np.concatenate([empty, *(item.scores[own] for item, own in zip(matches, chosen, strict=True))])
    hits = np.concatenate(
        [
            np.zeros((0, len(IOU_THRESHOLDS)), dtype=bool),
            *(item.hits[own] for item, own in zip(matches, chosen, strict=True)),
        ]
    )
    unit = np.repeat(units, [int(own.sum()) for own in chosen]).astype(np.int64)
    truths = np.array(
        [np.count_nonzero(item.truth_classes == class_index) for item in matches], dtype=np.int64
    )
    n_units = int(units.max()) + 1 if len(units) else 0
    # COCO sorts with mergesort, so equal scores keep the order of the images.
    order = np.argsort(-scores, kind="stable")
    per_unit = np.bincount(units, weights=truths, minlength=n_units).astype(np.int64)
    return _ClassPool(scores[order], hits[order], unit[order], per_unit)


def _class_ap(pool: _ClassPool, weights: IntArray, columns: IntArray) -> FloatArray:
    """Shape (resamples, thresholds).

    Only true positives move recall, and between two of them precision only falls, so the interpolated curve is
    fixed by the points at true positives: detections are counted once, then read off there per threshold.
    """
    n_objects = weights @ pool.truth_per_unit
    each = weights.T[pool.unit].astype(np.int32)
    made = np.cumsum(each, axis=0, dtype=np.int32)
    result = np.zeros((len(weights), len(columns)))
    for position, column in enumerate(columns):
        at = np.flatnonzero(pool.hits[:, column])
        if len(at):
            result[:, position] = _interpolated(
                np.cumsum(each[at], axis=0, dtype=np.int32), made[at], n_objects
            )
    result[n_objects == 0] = np.nan
    return result


def _interpolated(found: NDArray[np.int32], made: NDArray[np.int32], n_objects: IntArray) -> FloatArray:
    """101-point average precision from counts at each true positive, shape (points, resamples) each."""
    precision = found / np.maximum(made, 1)
    precision = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    recall = found / np.maximum(n_objects, 1)
    # How many of the 101 recall levels are reached; a point owns the levels the point before it did not reach.
    reached = np.minimum((recall * 100 + 1e-6).astype(np.int64), 100)
    reached -= _RECALL_LEVELS[reached] > recall
    owned = np.diff(reached, axis=0, prepend=-1)
    return (precision * owned).sum(axis=0) / len(_RECALL_LEVELS)


def _counts(matches: Sequence[ImageMatch], times: IntArray, confidence: float) -> tuple[int, int, int]:
    """True positives at IoU 0.5, detections, and objects, each weighted."""
    hits = [np.count_nonzero(item.hits[item.scores >= confidence, 0]) for item in matches]
    made = [np.count_nonzero(item.scores >= confidence) for item in matches]
    objects = [len(item.truth_classes) for item in matches]
    return (
        int(times @ np.array(hits, int)),
        int(times @ np.array(made, int)),
        int(times @ np.array(objects, int)),
    )


def _mean_defined(values: FloatArray) -> FloatArray:
    """Mean over the last axis without NaN; NaN where nothing is left."""
    defined = ~np.isnan(values)
    count = defined.sum(axis=-1)
    total = np.where(defined, values, 0.0).sum(axis=-1)
    return np.asarray(np.where(count > 0, total / np.maximum(count, 1), np.nan))


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")


def _null_if_nan(value: Any) -> Any:
    return None if isinstance(value, float) and np.isnan(value) else value


def _checked_weights(weights: IntArray, n_images: int) -> IntArray:
    array = np.asarray(weights)
    if array.shape != (n_images,) or not np.issubdtype(array.dtype, np.integer) or (array < 0).any():
        raise BadInput(f"Weights must be {n_images} whole numbers from 0, got {array.tolist()}.")
    return array.astype(np.int64)


def _check_classes(matches: Sequence[ImageMatch], n_classes: int) -> None:
    for item in matches:
        highest = max(item.classes.max(initial=-1), item.truth_classes.max(initial=-1))
        if highest >= n_classes:
            raise BadInput(f"There are {n_classes} classes, indices from 0, but a box has class {highest}.")
