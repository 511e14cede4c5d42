"""Average precision from matches, under many weightings at once.

After matching, everything is counting with a weight per image or recording, so a bootstrap resample costs a few array
operations and no overlap. Interpolation and means are those of pycocotools (area "all").
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from retrain.boxes import FloatArray, IntArray
from retrain.evaluation.matching import IOU_THRESHOLDS, Matches
from retrain.evaluation.predictions import Predictions
from retrain.evaluation.truth import BoolArray, Truth

_LEVELS = 100
_CELLS_AT_ONCE = 200_000
"""Detections times resamples worked on together: few enough to stay in a core's cache."""


@dataclass(frozen=True)
class ClassPool:
    """All counted detections of one class over all images, best score first.

    Attributes:
        rows: of the detections in `Predictions`, shape (n,).
        scores, hits, ignored: of the same, shapes (n,), (n, 10) and (n, 10).
        unit: what the image of each is drawn with, shape (n,).
        objects: of this class in each unit, crowds left out, shape (units,).
    """

    rows: IntArray
    scores: FloatArray
    hits: BoolArray
    ignored: BoolArray
    unit: IntArray
    objects: IntArray


def pools(
    truth: Truth, predictions: Predictions, matches: Matches, units: IntArray | None = None
) -> list[ClassPool]:
    """One for each class.

    Args:
        units: index of each image's unit from 0, shape (images,); each image is its own when not given.
    """
    units = np.arange(len(truth.images)) if units is None else units
    n_units, n_classes = int(units.max()) + 1, len(truth.classes)
    real = ~truth.crowd
    objects = np.bincount(
        truth.label[real] * n_units + units[truth.image[real]], minlength=n_classes * n_units
    ).reshape(n_classes, n_units)
    # COCO sorts by score with mergesort, so equal scores keep the order of the images.
    kept = np.flatnonzero(matches.counted)
    order = kept[np.lexsort((-predictions.scores[kept], predictions.label[kept]))]
    bounds = np.searchsorted(predictions.label[order], np.arange(n_classes + 1))
    parts = [order[start:stop] for start, stop in pairwise(bounds)]
    return [
        ClassPool(
            rows,
            predictions.scores[rows],
            matches.hits[rows],
            matches.ignored[rows],
            units[predictions.image[rows]],
            objects[index],
        )
        for index, rows in enumerate(parts)
    ]


class AveragePrecision:
    """Average precision of one model under many weightings; scores are sorted once.

    Weights are per *unit*: an image by default, or the group (recording) an image belongs to. A weight of k gives what
    k copies of the unit's images would, except for the order of equal scores within one image.
    """

    def __init__(self, by_class: list[ClassPool]) -> None:
        self._pools = by_class

    def resampled(self, weights: IntArray, thresholds: FloatArray) -> FloatArray:
        """Average precision of every class.

        Args:
            weights: shape (resamples, units), whole numbers from 0.
            thresholds: members of `IOU_THRESHOLDS`, shape (t,).

        Returns:
            Shape (resamples, classes, t); NaN where a resample has no object of the class.
        """
        columns = np.searchsorted(IOU_THRESHOLDS, thresholds).astype(np.int64)
        result = np.full((len(weights), len(self._pools), len(columns)), np.nan)
        for class_index, pool in enumerate(self._pools):
            step = max(1, _CELLS_AT_ONCE // max(1, len(pool.scores)))
            for start in range(0, len(weights), step):
                part = slice(start, start + step)
                result[part, class_index] = _class_ap(pool, weights[part], columns)
        return result

    def mean(self, weights: IntArray, thresholds: FloatArray) -> FloatArray:
        """Mean over classes and thresholds, shape (resamples,); NaN for a resample without any object."""
        return mean_defined(self.resampled(weights, thresholds).mean(axis=2))


def _class_ap(pool: ClassPool, weights: IntArray, columns: IntArray) -> FloatArray:
    """Shape (resamples, thresholds).

    Only true positives move recall, and between two of them precision only falls, so the interpolated curve is
    fixed by the points at true positives: detections are counted once, then read off there per threshold.
    """
    n_objects = weights @ pool.objects
    each = weights.T[pool.unit].astype(np.int32)
    made = np.cumsum(each, axis=0, dtype=np.int32)
    result = np.zeros((len(weights), len(columns)))
    for position, column in enumerate(columns):
        at = np.flatnonzero(pool.hits[:, column])
        if len(at):
            aside = pool.ignored[:, column]
            before = np.cumsum(each * aside[:, None], axis=0, dtype=np.int32)[at] if aside.any() else 0
            result[:, position] = _interpolated(
                np.cumsum(each[at], axis=0, dtype=np.int32), made[at] - before, n_objects
            )
    result[n_objects == 0] = np.nan
    return result


def _interpolated(found: NDArray[np.int32], made: NDArray[np.int32], n_objects: IntArray) -> FloatArray:
    """101-point average precision from counts at each true positive, shape (points, resamples) each."""
    precision = found / np.maximum(made, 1)
    np.maximum.accumulate(precision[::-1], axis=0, out=precision[::-1])
    recall = found / np.maximum(n_objects, 1)
    # The last of the recall levels 0.00, 0.01, ... that is reached; as floats, they may lie just above a recall.
    reached = np.floor(recall * _LEVELS + 1e-6)
    reached -= reached * (1 / _LEVELS) > recall
    # A point owns the levels that the point before it did not reach; the first owns level 0 as well.
    total = np.einsum("pr,pr->r", precision[1:], np.diff(reached, axis=0)) + precision[0] * (reached[0] + 1)
    return np.asarray(total / (_LEVELS + 1))


def mean_defined(values: FloatArray) -> FloatArray:
    """Mean over the last axis without NaN; NaN where nothing is left."""
    defined = ~np.isnan(values)
    count = defined.sum(axis=-1)
    total = np.where(defined, values, 0.0).sum(axis=-1)
    return np.asarray(np.where(count > 0, total / np.maximum(count, 1), np.nan))
