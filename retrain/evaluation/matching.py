"""Which detection finds which object: greedy COCO matching, done once per image.

Rules are those of pycocotools (area "all", no crowds): Lin et al. 2014, "Microsoft COCO: Common Objects in
Context".
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrain.boxes import Annotations, Detections, FloatArray, IntArray, iou_matrix
from retrain.errors import BadInput

BoolArray = NDArray[np.bool_]

IOU_THRESHOLDS: FloatArray = np.linspace(0.5, 0.95, 10)
MAX_DETECTIONS = 100
"""Per image and class, as in COCO."""


@dataclass(frozen=True)
class ImageMatch:
    """What one image adds to the metrics.

    Attributes:
        classes: of the detections that count, shape (n,), grouped by class and best score first in each.
        scores: of the same detections, shape (n,).
        hits: whether detection i found an object at `IOU_THRESHOLDS[t]`, shape (n, 10).
        truth_classes: class of each true object, shape (m,).
    """

    classes: IntArray
    scores: FloatArray
    hits: BoolArray
    truth_classes: IntArray

    def to_json(self) -> dict[str, Any]:
        """Hits become one 10-bit number per detection; `from_json` gives back equal values."""
        bits = self.hits @ (1 << np.arange(len(IOU_THRESHOLDS)))
        return {
            "classes": self.classes.tolist(),
            "scores": self.scores.tolist(),
            "hits": bits.tolist(),
            "truth": self.truth_classes.tolist(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "ImageMatch":
        bits = np.asarray(data["hits"], dtype=np.int64)
        return cls(
            classes=np.asarray(data["classes"], dtype=np.int64),
            scores=np.asarray(data["scores"], dtype=np.float64),
            hits=(bits[:, None] >> np.arange(len(IOU_THRESHOLDS)) & 1).astype(bool),
            truth_classes=np.asarray(data["truth"], dtype=np.int64),
        )


def match(detections: Detections, truth: Annotations) -> ImageMatch:
    """Greedy COCO matching: best score first, each takes the free object of its class with the highest IoU.

    Raises:
        BadInput: a box or score that is not a number, which would poison every later sum.
    """
    if not (np.isfinite(detections.boxes).all() and np.isfinite(detections.scores).all()):
        raise BadInput(
            "A detection has a box or score that is not finite; the model's output cannot be scored."
        )
    kept, hits = [np.zeros(0, dtype=np.int64)], [np.zeros((0, len(IOU_THRESHOLDS)), dtype=bool)]
    for class_index in np.unique(detections.classes):
        found = np.flatnonzero(detections.classes == class_index)
        best_first = np.argsort(-detections.scores[found], kind="stable")[:MAX_DETECTIONS]
        found = found[best_first]
        objects = truth.boxes[truth.classes == class_index]
        kept.append(found)
        hits.append(_greedy(iou_matrix(detections.boxes[found], objects)))
    index = np.concatenate(kept)
    return ImageMatch(
        detections.classes[index], detections.scores[index], np.concatenate(hits), truth.classes
    )


def _greedy(iou: FloatArray) -> BoolArray:
    """Hits of shape (detections, thresholds) for one image and class."""
    n_detections, n_objects = iou.shape
    hits = np.zeros((n_detections, len(IOU_THRESHOLDS)), dtype=bool)
    free = np.ones((len(IOU_THRESHOLDS), n_objects), dtype=bool)
    if n_objects == 0:
        return hits
    floor = np.minimum(IOU_THRESHOLDS, 1 - 1e-10)
    for index in np.flatnonzero(iou.max(axis=1) >= floor[0]):
        candidates = np.where(free, iou[index], -1.0)
        # pycocotools gives equal IoUs to the object that comes last.
        choice = n_objects - 1 - np.argmax(candidates[:, ::-1], axis=1)
        found = candidates[np.arange(len(floor)), choice] >= floor
        hits[index] = found
        free[found, choice[found]] = False
    return hits
