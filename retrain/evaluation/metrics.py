"""The one metric kernel: every number that says how good a model is comes from here."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from retrain.boxes import FloatArray, IntArray
from retrain.errors import PostConditionFailed
from retrain.evaluation.average_precision import AveragePrecision, ClassPool, mean_defined, pools
from retrain.evaluation.coco import CocoNumbers, coco_numbers
from retrain.evaluation.matching import IOU_THRESHOLDS, Matches
from retrain.evaluation.predictions import Predictions
from retrain.evaluation.served_confidence import ServedConfidence, limits
from retrain.evaluation.truth import BoolArray, Truth

_AGREEMENT = 1e-6


@dataclass(frozen=True)
class ClassScores:
    """Of one class, at IoU 0.5 but for `ap50_95`; NaN where nothing defines the value.

    Attributes:
        confidence: from which the class is served.
        precision, recall, f1: of detections with at least that.
        best_f1: the highest at any confidence, and `best_confidence` that one.
    """

    ap50: float
    ap50_95: float
    confidence: float
    precision: float
    recall: float
    f1: float
    best_f1: float
    best_confidence: float
    n_objects: int
    n_detections: int


@dataclass(frozen=True)
class MetricSummary:
    """Scores in [0, 1]; NaN where nothing defines the value (no object of a class, no detection at all).

    Attributes:
        coco: the twelve COCO numbers by name, such as `map_small` and `ar100`.
        precision: at IoU 0.5 and `confidence`, over all classes together, like `recall` and `f1`.
        best_f1: over all classes together, at the one confidence that gives most, `best_confidence`.
        classes: by name.
        n_objects: crowds left out.
        n_detections: with at least `confidence`.
    """

    coco: Mapping[str, float]
    precision: float
    recall: float
    f1: float
    confidence: ServedConfidence
    best_f1: float
    best_confidence: float
    classes: Mapping[str, ClassScores]
    n_images: int
    n_groups: int
    n_objects: int
    n_detections: int

    @property
    def map50(self) -> float:
        return self.coco["map50"]

    @property
    def map50_95(self) -> float:
        return self.coco["map50_95"]

    def to_json(self) -> dict[str, Any]:
        """NaN becomes null, because JSON has no NaN; the COCO numbers stand beside the others."""
        rest = {name: value for name, value in vars(self).items() if name not in {"coco", "classes"}}
        classes = {name: _without_nan(vars(scores)) for name, scores in self.classes.items()}
        return {**_without_nan(self.coco), **_without_nan(rest), "classes": classes}


@dataclass(frozen=True)
class PrCurve:
    """One point per detection at IoU 0.5, falling score; empty when the class has no objects or detections."""

    recall: FloatArray
    precision: FloatArray
    scores: FloatArray


class MetricCalculator:
    """Numbers of one model from what it found and what is true."""

    def __init__(self, truth: Truth, predictions: Predictions, matches: Matches) -> None:
        self._truth, self._predictions, self._matches = truth, predictions, matches

    @cached_property
    def _pools(self) -> list[ClassPool]:
        return pools(self._truth, self._predictions, self._matches)

    def average_precision(self, units: IntArray | None = None) -> AveragePrecision:
        """For weightings of images, or of the units they belong to: shape (images,), indices from 0."""
        if units is None:
            return AveragePrecision(self._pools)
        return AveragePrecision(pools(self._truth, self._predictions, self._matches, units))

    def summary(self, confidence: ServedConfidence) -> MetricSummary:
        """All numbers.

        Args:
            confidence: that the model is served with; weaker detections do not enter precision, recall and F1.

        Raises:
            PostConditionFailed: hotcoco and our own matching, which everything else rests on, disagree.
        """
        coco = coco_numbers(self._truth, self._predictions)
        self._agree(coco)
        enough = limits(confidence, self._truth.classes)
        together = [_counted(pool, limit) for pool, limit in zip(self._pools, enough, strict=True)]
        all_at_once = _Counted(
            np.concatenate([one.scores for one in together]),
            np.concatenate([one.hits for one in together]),
            np.concatenate([one.served for one in together]),
            sum(one.objects for one in together),
        )
        each = [
            _class_scores(one, ap, float(limit))
            for one, ap, limit in zip(together, coco.per_class, enough, strict=True)
        ]
        overall = _class_scores(all_at_once, np.full(len(IOU_THRESHOLDS), np.nan), float("nan"))
        return MetricSummary(
            coco=coco.stats,
            precision=overall.precision,
            recall=overall.recall,
            f1=overall.f1,
            confidence=confidence,
            best_f1=overall.best_f1,
            best_confidence=overall.best_confidence,
            classes=dict(zip(self._truth.classes, each, strict=True)),
            n_images=len(self._truth.images),
            n_groups=len(set(self._truth.groups)),
            n_objects=overall.n_objects,
            n_detections=overall.n_detections,
        )

    def pr_curve(self, class_index: int) -> PrCurve:
        """Precision over recall of one class, for plots."""
        counted = _counted(self._pools[class_index], limit=0.0)
        if not counted.objects:
            return PrCurve(np.zeros(0), np.zeros(0), np.zeros(0))
        hits = np.cumsum(counted.hits)
        return PrCurve(hits / counted.objects, hits / np.arange(1, len(hits) + 1), counted.scores)

    def _agree(self, coco: CocoNumbers) -> None:
        once = np.ones((1, len(self._truth.images)), dtype=np.int64)
        own = self.average_precision().resampled(once, IOU_THRESHOLDS)[0]
        same = np.isclose(own, coco.per_class, rtol=0, atol=_AGREEMENT, equal_nan=True)
        if not same.all():
            index, column = (int(value) for value in np.argwhere(~same)[0])
            raise PostConditionFailed(
                f"Average precision of class {self._truth.classes[index]!r} at IoU {IOU_THRESHOLDS[column]:.2f} is "
                f"{coco.per_class[index, column]} by hotcoco and {own[index, column]} by our own matching; neither can "
                "be relied on. Please report this with the two evaluations."
            )


@dataclass(frozen=True)
class _Counted:
    """Detections that count at IoU 0.5, and objects."""

    scores: FloatArray
    hits: IntArray
    served: BoolArray
    objects: int


def _counted(pool: ClassPool, limit: float) -> _Counted:
    keep = ~pool.ignored[:, 0]
    scores = pool.scores[keep]
    return _Counted(scores, pool.hits[keep, 0].astype(np.int64), scores >= limit, int(pool.objects.sum()))


def _class_scores(counted: _Counted, ap: FloatArray, confidence: float) -> ClassScores:
    right, made = int(counted.hits[counted.served].sum()), int(counted.served.sum())
    best_f1, best_confidence = _best_f1(counted)
    return ClassScores(
        ap50=float(ap[0]),
        ap50_95=float(mean_defined(ap)),
        confidence=confidence,
        precision=_ratio(right, made),
        recall=_ratio(right, counted.objects),
        f1=_ratio(2 * right, made + counted.objects),
        best_f1=best_f1,
        best_confidence=best_confidence,
        n_objects=counted.objects,
        n_detections=made,
    )


def _best_f1(counted: _Counted) -> tuple[float, float]:
    """Highest F1 over all confidences, and the confidence; of equal ones the highest."""
    if not counted.objects or not len(counted.scores):
        return float("nan"), float("nan")
    order = np.argsort(-counted.scores, kind="stable")
    scores, right = counted.scores[order], np.cumsum(counted.hits[order])
    # A confidence takes all detections of that score.
    last = np.flatnonzero(np.diff(scores, append=-1.0))
    f1 = 2 * right[last] / (last + 1 + counted.objects)
    best = int(f1.argmax())
    return float(f1[best]), float(scores[last[best]])


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")


def _without_nan(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: None if isinstance(value, float) and np.isnan(value) else value
        for name, value in values.items()
    }
