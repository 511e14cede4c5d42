"""Curves over confidence: precision, recall and F1, two kinds of ROC, and FROC; at IoU 0.5."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from retrain.boxes import FloatArray, IntArray
from retrain.evaluation.evaluation import Evaluation
from retrain.evaluation.json_ready import json_ready, spread
from retrain.evaluation.ranked import Ranked, all_classes, ranked_by_class
from retrain.evaluation.truth import BoolArray

FROC_LEVELS = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""False positives per image whose sensitivities are averaged (LUNA16, CAMELYON16)."""

RocKind = Literal["image presence", "box correctness"]


@dataclass(frozen=True, eq=False)
class OperatingCurve:
    """One point per distinct score, falling: what a model served with that confidence would do.

    Attributes:
        recall: NaN without objects. With `precision`, the precision-recall curve.
    """

    confidence: FloatArray
    precision: FloatArray
    recall: FloatArray
    f1: FloatArray

    @property
    def interpolated(self) -> FloatArray:
        """The highest precision at the recall of each point or more, which average precision is the mean of."""
        return np.asarray(np.maximum.accumulate(self.precision[::-1])[::-1])


@dataclass(frozen=True, eq=False)
class RocCurve:
    """From (0, 0) to (1, 1), one point per distinct score; empty, with `auc` NaN, unless there are both kinds of cases.

    Attributes:
        kind: `image presence`: does an image hold an object of the class, by the best score in the image? Images
            without detection rank last, and those with only crowds of the class are left out.
            `box correctness`: did a detection find an object, by its score? It says how well scores sort detections;
            missed objects do not enter.
        confidence: of each point; the first, which takes nothing, has 1 or the best score.
        auc: area under it: how often a positive case scores higher than a negative one, ties counting half.
        positives, negatives: cases.
    """

    kind: RocKind
    confidence: FloatArray
    false_positive_rate: FloatArray
    true_positive_rate: FloatArray
    auc: float
    positives: int
    negatives: int


@dataclass(frozen=True, eq=False)
class FrocCurve:
    """Share of objects found over false positives per image, one point per distinct score, falling."""

    confidence: FloatArray
    false_positives_per_image: FloatArray
    sensitivity: FloatArray

    def at(self, levels: Sequence[float]) -> FloatArray:
        """Sensitivity with at most so many false positives per image; 0 where no confidence gives so few."""
        points = np.searchsorted(self.false_positives_per_image, np.asarray(levels), side="right")
        return np.asarray(np.concatenate([[0.0], self.sensitivity])[points])

    @property
    def score(self) -> float:
        """Mean sensitivity at `FROC_LEVELS`; NaN without objects."""
        return float(self.at(FROC_LEVELS).mean())


@dataclass(frozen=True, eq=False)
class ClassCurves:
    """Of one class, or of all together."""

    operating: OperatingCurve
    image_presence_roc: RocCurve
    box_correctness_roc: RocCurve
    froc: FrocCurve

    def to_json(self, points: int = 200) -> dict[str, Any]:
        """With at most so many points of each curve, the first and last among them."""
        return {
            "operating": _thinned(self.operating, points),
            "image_presence_roc": _thinned(self.image_presence_roc, points),
            "box_correctness_roc": _thinned(self.box_correctness_roc, points),
            "froc": {**_thinned(self.froc, points), "score": json_ready(self.froc.score)},
        }


@dataclass(frozen=True, eq=False)
class Curves:
    """Attributes:
    overall: all detections together; image presence asks about every pair of an image and a class.
    classes: by name.
    """

    overall: ClassCurves
    classes: Mapping[str, ClassCurves]

    def to_json(self, points: int = 200) -> dict[str, Any]:
        return {
            "overall": self.overall.to_json(points),
            "classes": {name: each.to_json(points) for name, each in self.classes.items()},
        }


def curves(evaluation: Evaluation) -> Curves:
    """Of one evaluation, whatever confidence it is served with."""
    each = ranked_by_class(evaluation)
    n_images = len(evaluation.truth.images)
    best, present, known = _presence(evaluation)
    by_class = {
        name: _class_curves(ranked, n_images, best[known[:, index], index], present[known[:, index], index])
        for index, (name, ranked) in enumerate(zip(evaluation.truth.classes, each, strict=True))
    }
    return Curves(_class_curves(all_classes(each), n_images, best[known], present[known]), by_class)


def _class_curves(ranked: Ranked, n_images: int, best: FloatArray, present: BoolArray) -> ClassCurves:
    recall = ranked.right / ranked.objects if ranked.objects else np.full(len(ranked.last), np.nan)
    return ClassCurves(
        OperatingCurve(ranked.confidence, ranked.right / ranked.made, recall, ranked.f1),
        _roc("image presence", best, present),
        _roc("box correctness", ranked.scores, ranked.hits),
        FrocCurve(
            ranked.confidence,
            (ranked.made - ranked.right) / n_images,
            np.asarray(recall),
        ),
    )


def _presence(evaluation: Evaluation) -> tuple[FloatArray, BoolArray, BoolArray]:
    """Best score of a class in an image, whether it is there, and whether that is known; (images, classes) each."""
    truth, predictions, matches = evaluation.truth, evaluation.predictions, evaluation.matches
    shape = len(truth.images), len(truth.classes)
    best = np.zeros(shape)
    kept = np.flatnonzero(matches.counted)
    np.maximum.at(best, (predictions.image[kept], predictions.label[kept]), predictions.scores[kept])
    present, crowded = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    present[truth.image[~truth.crowd], truth.label[~truth.crowd]] = True
    crowded[truth.image[truth.crowd], truth.label[truth.crowd]] = True
    return best, present, present | ~crowded


def _roc(kind: RocKind, scores: FloatArray, positive: BoolArray) -> RocCurve:
    positives = int(positive.sum())
    negatives = len(positive) - positives
    if not positives or not negatives:
        none = np.zeros(0)
        return RocCurve(kind, none, none, none, float("nan"), positives, negatives)
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    last: IntArray = np.flatnonzero(np.diff(ordered, append=-1.0))
    right = np.cumsum(positive[order])[last]
    true_rate = np.concatenate([[0.0], right / positives])
    false_rate = np.concatenate([[0.0], (last + 1 - right) / negatives])
    auc = float(np.trapezoid(true_rate, false_rate))
    confidence = np.concatenate([[max(1.0, ordered[0])], ordered[last]])
    return RocCurve(kind, confidence, false_rate, true_rate, auc, positives, negatives)


def _thinned(curve: OperatingCurve | RocCurve | FrocCurve, points: int) -> dict[str, Any]:
    keep = spread(len(curve.confidence), points)
    return {
        name: json_ready(value[keep] if isinstance(value, np.ndarray) else value)
        for name, value in vars(curve).items()
    }
