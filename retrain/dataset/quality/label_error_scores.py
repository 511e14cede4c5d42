"""How well the labels of one image agree with a model's predictions: three scores in [0, 1], low = likely wrong.

The definitions follow ObjectLab (Tkachenko, Thyagarajan & Mueller 2023) with the class thresholds and the margin of
confident learning (Northcutt, Jiang & Chuang 2021); where they depart from the papers, the functions say so.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retrain.boxes import Annotations, Detections, FloatArray, IntArray, iou_matrix

_OVERLAP = 0.9
"""Share of the overlap in the similarity of two boxes; the rest is how close their centres are."""
_SAME_OBJECT = 0.5
"""IoU from which a prediction is about a label's object."""
_TOUCHING = 0.1
"""IoU below which a label is not a badly placed version of a predicted box but about something else."""
_EVIDENCE = 0.5
"""A prediction is evidence from this share of its class's threshold. ObjectLab asks for a confidence of 0.5 or 0.95,
and labels below go unranked; here the confidence weighs in the score instead, and more errors are found."""
_TEMPERATURE = 0.1
"""Of the softmin: small lets the worst label decide, large their mean."""
_NO_EVIDENCE = 0.5
"""Threshold where no prediction of any class agrees with a label."""


@dataclass(frozen=True)
class Scores:
    """Of one image with n labels and m predictions.

    Attributes:
        swap: shape (n,).
        swap_by: the prediction of another class behind it, -1 for none, shape (n,).
        badly_placed: shape (n,).
        placed_by: the prediction of the same class behind it, -1 for none, shape (n,).
        overlooked: shape (m,).
    """

    swap: FloatArray
    swap_by: IntArray
    badly_placed: FloatArray
    placed_by: IntArray
    overlooked: FloatArray


def similarity(iou: FloatArray, a: FloatArray, b: FloatArray, diagonal: float) -> FloatArray:
    """ObjectLab's similarity of boxes: 0.9 IoU + 0.1 (1 - distance of the centres in image diagonals).

    The distance tells near from far where boxes do not overlap.

    Args:
        iou: `iou_matrix(a, b)`, shape (n, m).
        a, b: xyxy in pixels, shapes (n, 4) and (m, 4).
        diagonal: of the image, in pixels.

    Returns:
        Shape (n, m), in [0, 1]; 1 for equal boxes.
    """
    apart = (a[:, None, :2] + a[:, None, 2:] - b[None, :, :2] - b[None, :, 2:]) / 2
    distance = np.clip(np.hypot(apart[..., 0], apart[..., 1]) / diagonal, 0, 1)
    alike: FloatArray = _OVERLAP * iou + (1 - _OVERLAP) * (1 - distance)
    return alike


def class_thresholds(pairs: Iterable[tuple[Annotations, Detections]], classes: int) -> FloatArray:
    """Confidence from which a prediction of each class counts: its mean where the label agrees, shape (classes,).

    Equation 2 of Northcutt et al. (2021), over labels that a prediction of their class overlaps by an IoU of 0.5;
    the best one counts. So a model that is never surer than 0.6 is believed as one that is always at 0.99. A class
    without such a label gets the mean of all; without any at all it is 0.5.
    """
    total, count = np.zeros(classes), np.zeros(classes)
    for labels, predicted in pairs:
        agree = iou_matrix(labels.boxes, predicted.boxes) >= _SAME_OBJECT
        agree &= labels.classes[:, None] == predicted.classes
        confidence = np.max(agree * predicted.scores, axis=1, initial=0.0)
        found = agree.any(axis=1)
        np.add.at(total, labels.classes[found], confidence[found])
        np.add.at(count, labels.classes[found], 1)
    overall = total.sum() / count.sum() if count.any() else _NO_EVIDENCE
    thresholds: FloatArray = np.where(count > 0, total / np.maximum(count, 1), overall)
    return thresholds


def image_scores(
    labels: Annotations, predicted: Detections, thresholds: FloatArray, diagonal: float
) -> Scores:
    """The three scores of one image; `thresholds` from `class_thresholds`, `diagonal` in pixels."""
    iou = iou_matrix(labels.boxes, predicted.boxes)
    alike = similarity(iou, labels.boxes, predicted.boxes, diagonal)
    same = labels.classes[:, None] == predicted.classes
    evidence = predicted.scores >= _EVIDENCE * thresholds[predicted.classes]
    swap, swap_by = _swaps(alike * predicted.scores, same, evidence)
    badly_placed, placed_by = _misplacements(np.where(same & evidence, alike, 0.0), iou)
    overlooked = _overlooked(alike, predicted.scores, evidence)
    return Scores(swap, swap_by, badly_placed, placed_by, overlooked)


def confident_pairs(labels: Annotations, predicted: Detections, thresholds: FloatArray) -> IntArray:
    """(given class, predicted class) of each label with a confident prediction on it, shape (k, 2).

    Counted, they are the confident joint of Northcutt et al. (2021): of several confident predictions the
    surest says what the label should be.
    """
    confident = predicted.scores >= thresholds[predicted.classes]
    on_it = (iou_matrix(labels.boxes, predicted.boxes) >= _SAME_OBJECT) & confident
    rows = np.flatnonzero(on_it.any(axis=1))
    # Predictions come surest first, so that the first one on a label is the surest.
    surest = predicted.classes[on_it[rows].argmax(axis=1)] if rows.size else np.empty(0, np.int64)
    return np.stack([labels.classes[rows], surest], axis=1)


def softmin(scores: FloatArray) -> float:
    """Pools the scores of an image: a mean in which low ones weigh most; 1 without any (ObjectLab, temperature 0.1)."""
    if not scores.size:
        return 1.0
    weights = np.exp((scores.min() - scores) / _TEMPERATURE)
    return float((weights * scores).sum() / weights.sum())


def _swaps(
    support: FloatArray, same: NDArray[np.bool_], evidence: NDArray[np.bool_]
) -> tuple[FloatArray, IntArray]:
    """1 minus the margin by which a prediction of another class fits a label better than its own class.

    Fit is similarity times confidence. ObjectLab looks at the other classes alone; the margin, confident
    learning's, spares labels where the model sees both classes.
    """
    own = np.max(np.where(same, support, 0.0), axis=1, initial=0.0)
    other = np.where(~same & evidence, support, 0.0)
    score = 1 - np.clip(np.max(other, axis=1, initial=0.0) - own, 0, 1)
    return score, _source(other, score)


def _misplacements(alike: FloatArray, iou: FloatArray) -> tuple[FloatArray, IntArray]:
    """Similarity to the most similar predicted box of the same class; 1 where there is none to compare with.

    `alike` is 0 for predictions that do not count. In a crowd a prediction belongs to the label it is most
    similar to, so that a missed neighbour does not make a good label look misplaced.
    """
    best_label = np.max(alike, axis=0, initial=0.0)
    near = np.where((alike == best_label) & (iou >= _TOUCHING), alike, 0.0)
    nearest = np.max(near, axis=1, initial=0.0)
    score = np.where(nearest > 0, nearest, 1.0)
    return score, _source(near, score)


def _overlooked(alike: FloatArray, confidence: FloatArray, evidence: NDArray[np.bool_]) -> FloatArray:
    """1 minus confidence times dissimilarity to the nearest label, where the prediction is evidence; 1 elsewhere.

    Labels of any class count, unlike in ObjectLab: an object with a wrong class was seen, and is a swap.
    """
    nearest = np.max(alike, axis=0, initial=0.0)
    score: FloatArray = np.where(evidence, 1 - confidence * (1 - nearest), 1.0)
    return score


def _source(support: FloatArray, score: FloatArray) -> IntArray:
    """The column behind each row's score; -1 where the score is 1 or there are no columns."""
    if not support.shape[1]:
        return np.full(len(score), -1)
    columns: IntArray = np.where(score < 1, support.argmax(axis=1), -1)
    return columns
