"""Which class is taken for which, which objects are missed, and what is found where nothing is."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from retrain.boxes import FloatArray, IntArray
from retrain.errors import BadInput
from retrain.evaluation.evaluation import Evaluation
from retrain.evaluation.json_ready import json_ready
from retrain.evaluation.matching import IOU_THRESHOLDS, match
from retrain.evaluation.served_confidence import ServedConfidence


@dataclass(frozen=True, eq=False)
class ConfusionMatrix:
    """Rows are true classes, columns predicted ones; the last of each is background. Ultralytics plots the transpose.

    Attributes:
        classes: names, without background.
        counts: shape (classes + 1, classes + 1). The last column counts missed objects, the last row detections where
            no object is; both being background is not defined and 0.
        confidence: lowest score of a detection that was looked at.
        iou: least overlap of a detection with what it found.
    """

    classes: tuple[str, ...]
    counts: IntArray
    confidence: ServedConfidence
    iou: float

    @property
    def by_truth(self) -> FloatArray:
        """Each row as shares of the objects of its class (the diagonal is recall); NaN without objects."""
        return _shares(self.counts, axis=1)

    @property
    def by_prediction(self) -> FloatArray:
        """Each column as shares of the detections of its class (the diagonal is precision); NaN without detections."""
        return _shares(self.counts, axis=0)

    def to_json(self) -> dict[str, Any]:
        return {
            **json_ready(self),
            "axes": ["true class, then background", "predicted class, then background"],
            "by_truth": json_ready(self.by_truth),
            "by_prediction": json_ready(self.by_prediction),
        }


def confusion_matrix(
    evaluation: Evaluation, *, confidence: ServedConfidence | None = None, iou: float = 0.5
) -> ConfusionMatrix:
    """Best score first, each detection takes the free object of *any* class that it overlaps most.

    This is the rule of hotcoco's `confusion_matrix`, and of Ultralytics' since 8.4 but for its default overlap, 0.45.
    It is COCO matching with all classes taken as one, so the diagonal may be lower than the hits behind recall: a
    detection of a wrong class may have taken the object first. What COCO matching finds in a crowd of its class is left
    out, and so are crowds.

    Args:
        confidence: lowest score that counts; the served one when not given.
        iou: one of `IOU_THRESHOLDS`.

    Raises:
        BadInput: the overlap is none of those.
    """
    at = np.flatnonzero(np.isclose(IOU_THRESHOLDS, iou))
    if not len(at):
        raise BadInput(f"iou must be one of {IOU_THRESHOLDS.round(2).tolist()}, got {iou}.")
    confidence = evaluation.confidence if confidence is None else confidence
    truth, predictions = evaluation.truth, evaluation.predictions
    keep = evaluation.served_from(confidence) & ~evaluation.matches.ignored[:, at[0]]
    real = ~truth.crowd
    label, predicted = truth.label[real], predictions.label[keep]
    any_class = match(
        replace(
            truth,
            classes=("any",),
            image=truth.image[real],
            label=np.zeros_like(label),
            boxes=truth.boxes[real],
            crowd=truth.crowd[real],
            area=truth.area[real],
            sizes=truth.sizes[real],
        ),
        replace(
            predictions,
            image=predictions.image[keep],
            label=np.zeros_like(predicted),
            boxes=predictions.boxes[keep],
            scores=predictions.scores[keep],
            sizes=predictions.sizes[keep],
        ),
        limit=len(predictions) + 1,
    )
    background = len(truth.classes)
    took = any_class.object_of[:, at[0]]
    true = np.full(len(predicted), background, dtype=np.int64)
    true[took >= 0] = label[took[took >= 0]]
    missed = label[~any_class.found(len(label), int(at[0]))]
    side = background + 1
    cells = np.concatenate([true * side + predicted, missed * side + background])
    counts = np.bincount(cells, minlength=side * side).reshape(side, side).astype(np.int64)
    return ConfusionMatrix(truth.classes, counts, confidence, float(IOU_THRESHOLDS[at[0]]))


def _shares(counts: IntArray, axis: int) -> FloatArray:
    whole = counts.sum(axis=axis, keepdims=True)
    return np.divide(counts, whole, out=np.full(counts.shape, np.nan), where=whole > 0)
