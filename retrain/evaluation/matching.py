"""Which detection finds which object: greedy COCO matching, done once for all images, classes and overlaps.

Rules are those of pycocotools for area "all": Lin et al. 2014, "Microsoft COCO: Common Objects in Context".
"""

from dataclasses import dataclass

import numpy as np

from retrain.boxes import FloatArray, IntArray
from retrain.evaluation.predictions import Predictions
from retrain.evaluation.truth import BoolArray, Truth

IOU_THRESHOLDS: FloatArray = np.linspace(0.5, 0.95, 10)
MAX_DETECTIONS = 100
"""Per image and class, as in COCO."""


@dataclass(frozen=True, eq=False)
class Matches:
    """What became of each detection at each of `IOU_THRESHOLDS`.

    Attributes:
        counted: whether a detection is among the best `MAX_DETECTIONS` of its image and class, shape (detections,).
        object_of: row of the object in `Truth` that it found, or -1, shape (detections, 10).
        hits: it found an object that is no crowd, shape (detections, 10).
        ignored: it found a crowd, so it counts neither as right nor as wrong, shape (detections, 10).
    """

    counted: BoolArray
    object_of: IntArray
    hits: BoolArray
    ignored: BoolArray

    def found(self, objects: int, threshold: int = 0, keep: BoolArray | None = None) -> BoolArray:
        """Which of so many objects were found, shape (objects,).

        Args:
            threshold: index into `IOU_THRESHOLDS`.
            keep: detections that are looked at; all when not given.
        """
        rows = self.object_of[:, threshold] if keep is None else self.object_of[keep, threshold]
        found = np.zeros(objects, dtype=bool)
        found[rows[rows >= 0]] = True
        return found


def match(truth: Truth, predictions: Predictions, limit: int = MAX_DETECTIONS) -> Matches:
    """Best score first, each detection takes the free object of its image and class with the highest IoU.

    Of equal overlaps the last object is taken, and a crowd, which stays free, only where no other object is left; as in
    pycocotools.

    Args:
        limit: detections that are looked at of one image and class.
    """
    n_classes = len(truth.classes)
    own, true = (side.image * n_classes + side.label for side in (predictions, truth))
    rank = _rank_within(own)
    counted = rank < limit
    detection, obj, iou = overlapping(predictions, truth, own, true, counted)
    keep = iou >= IOU_THRESHOLDS[0]
    detection, obj, iou = detection[keep], obj[keep], iou[keep]
    # In the order in which a detection would take them.
    order = np.lexsort((-obj, -iou, truth.crowd[obj], detection))
    detection, obj, iou = detection[order], obj[order], iou[order]
    object_of = np.full((len(predictions), len(IOU_THRESHOLDS)), -1, dtype=np.int64)
    free = np.ones((len(truth), len(IOU_THRESHOLDS)), dtype=bool)
    enough = iou[:, None] >= np.minimum(IOU_THRESHOLDS, 1 - 1e-10)
    # Detections of different images or classes do not compete: all that are next in theirs choose at once.
    turns = _rank_within(own[np.unique(detection)])
    turn = np.repeat(turns, np.unique(detection, return_counts=True)[1])
    for now in range(int(turns.max()) + 1 if len(turns) else 0):
        pairs = np.flatnonzero(turn == now)
        possible = enough[pairs] & free[obj[pairs]]
        choosing, starts = np.unique(detection[pairs], return_index=True)
        place = np.where(possible, np.arange(len(pairs))[:, None], len(pairs))
        first = np.minimum.reduceat(place, starts, axis=0)
        row, column = np.nonzero(first < len(pairs))
        taken = obj[pairs][first[row, column]]
        object_of[choosing[row], column] = taken
        free[taken, column] = truth.crowd[taken]
    matched = object_of >= 0
    crowd = matched & truth.crowd[np.maximum(object_of, 0)] if len(truth) else matched
    return Matches(counted, object_of, matched & ~crowd, crowd)


def overlapping(
    predictions: Predictions, truth: Truth, own: IntArray, true: IntArray, keep: BoolArray
) -> tuple[IntArray, IntArray, FloatArray]:
    """All pairs of a detection and an object with the same key, and their IoU: rows, rows and values, each (pairs,).

    Args:
        own: key of each detection; pairs come in the order of the detections.
        true: key of each object.
        keep: detections that are looked at.
    """
    by_key = np.argsort(true, kind="stable")
    first, last = (np.searchsorted(true[by_key], own, side) for side in ("left", "right"))  # type: ignore[call-overload]
    count = np.where(keep, last - first, 0)
    detection = np.repeat(np.arange(len(own)), count)
    offset = np.arange(len(detection)) - np.repeat(np.cumsum(count) - count, count)
    obj = by_key[first[detection] + offset]
    return detection, obj, iou_of_pairs(predictions, truth, detection, obj)


def iou_of_pairs(predictions: Predictions, truth: Truth, detection: IntArray, obj: IntArray) -> FloatArray:
    """Of pairs of a detection and an object, by rows; of a crowd, the share of the detection that lies in it."""
    # To the last bit as pycocotools, which is given corner and size: a threshold may be met exactly.
    (corner_a, size_a), (corner_b, size_b) = (
        (side.boxes[rows, :2], side.sizes[rows]) for side, rows in ((predictions, detection), (truth, obj))
    )
    sides = np.minimum(corner_a + size_a, corner_b + size_b) - np.maximum(corner_a, corner_b)
    shared = np.where((sides > 0).all(axis=1), sides[:, 0] * sides[:, 1], 0.0)
    area_a, area_b = size_a[:, 0] * size_a[:, 1], size_b[:, 0] * size_b[:, 1]
    union = np.where(truth.crowd[obj], area_a, area_a + area_b - shared)
    shares: FloatArray = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return shares


def _rank_within(keys: IntArray) -> IntArray:
    """How many rows before each have the same key."""
    order = np.argsort(keys, kind="stable")
    starts = np.flatnonzero(np.diff(keys[order], prepend=keys[order][:1] - 1))
    ranks = np.empty(len(keys), dtype=np.int64)
    ranks[order] = np.arange(len(keys)) - np.repeat(starts, np.diff(starts, append=len(keys)))
    return ranks
