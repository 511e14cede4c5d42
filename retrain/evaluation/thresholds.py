"""The confidence that each class is best served with, fitted on the `val` split."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from retrain.errors import BadInput
from retrain.evaluation.arguments import checked_evaluation
from retrain.evaluation.evaluation import Evaluation
from retrain.evaluation.json_ready import json_ready
from retrain.evaluation.ranked import Ranked, all_classes, ranked_by_class

Rule = Literal["f1", "lrp"]

_IOU = 0.5


@dataclass(frozen=True)
class ClassThreshold:
    """Best confidences of one class at IoU 0.5; NaN where there is no object, or no detection to choose from.

    Attributes:
        f1_confidence: gives the highest F1, `f1`; of equal ones the highest confidence, as for `lrp_confidence`.
        lrp_confidence: gives the least localisation-recall-precision error, `lrp`, in [0, 1], 1 being the worst. It
            also counts how badly boxes fit (Oksuz et al. 2021, "One Metric to Measure them All").
        lrp_localisation: mean 1 - IoU of right detections there; NaN without any.
        lrp_false_positives: share of detections that is wrong there; NaN without any.
        lrp_false_negatives: share of objects that is missed there.
    """

    f1_confidence: float
    f1: float
    lrp_confidence: float
    lrp: float
    lrp_localisation: float
    lrp_false_positives: float
    lrp_false_negatives: float
    n_objects: int
    n_detections: int


@dataclass(frozen=True)
class Thresholds:
    """Attributes:
    overall: one confidence for all classes.
    classes: by name.
    split: that they were fitted on.
    truth_digest: of the images and objects they were fitted on.
    """

    overall: ClassThreshold
    classes: Mapping[str, ClassThreshold]
    split: str
    truth_digest: str

    def confidences(
        self, rule: Rule = "f1", *, fewest: int = 1, otherwise: float | None = None
    ) -> dict[str, float]:
        """By class; a class that nothing was fitted for has that of all classes together.

        Args:
            fewest: objects without which nothing counts as fitted.
            otherwise: of every class, where nothing was fitted for all together.

        Raises:
            BadInput: nothing was fitted for all together and nothing is given otherwise, or there is no such rule.
        """
        own = self.own(rule, fewest=fewest)
        together = _chosen(self.overall, rule, fewest)
        if np.isnan(together):
            if otherwise is None:
                raise BadInput("No threshold can be fitted: there are no objects, or no detections of them.")
            together = otherwise
        return {name: own.get(name, together) for name in self.classes}

    def own(self, rule: Rule = "f1", *, fewest: int = 1) -> dict[str, float]:
        """Of the classes alone that something was fitted for; otherwise as for `confidences`."""
        if rule not in ("f1", "lrp"):
            raise BadInput(f"rule must be 'f1' or 'lrp', got {rule!r}.")
        each = {name: _chosen(one, rule, fewest) for name, one in self.classes.items()}
        return {name: value for name, value in each.items() if not np.isnan(value)}

    def to_json(self) -> dict[str, Any]:
        result: dict[str, Any] = json_ready(self)
        return result


def fit_thresholds(evaluation: Evaluation, split: str) -> Thresholds:
    """Choose confidences by what a model found.

    Args:
        split: that the evaluation is of, as the caller knows; only `val` may be fitted on.

    Raises:
        BadInput: another split, or no evaluation.
    """
    if split != "val":
        why = {
            "test": "its scores would then be too good, and no longer say how the model does on new images",
            "train": "a model is surer of images that it was trained on than of new ones",
        }.get(split, "only that split is kept for choices like this")
        raise BadInput(f"Thresholds are fitted on the val split, got {split!r}: {why}. Evaluate on val.")
    each = ranked_by_class(checked_evaluation(evaluation))
    classes = {name: _best(one) for name, one in zip(evaluation.truth.classes, each, strict=True)}
    return Thresholds(_best(all_classes(each)), classes, split, evaluation.truth.digest)


def _best(ranked: Ranked) -> ClassThreshold:
    nan = float("nan")
    if not ranked.objects or not len(ranked.scores):
        nothing = 1.0 if ranked.objects else nan
        return ClassThreshold(nan, nan, nan, nothing, nan, nan, nothing, ranked.objects, len(ranked.scores))
    right, made, confidence = ranked.right, ranked.made, ranked.confidence
    badness = np.cumsum(np.where(ranked.hits, 1 - ranked.iou, 0.0))[ranked.last]
    # Every false positive and every missed object costs 1, a right detection what its overlap lacks.
    lrp = (badness / (1 - _IOU) + made + ranked.objects - 2 * right) / (made + ranked.objects - right)
    by_f1, by_lrp = int(ranked.f1.argmax()), int(lrp.argmin())
    return ClassThreshold(
        f1_confidence=float(confidence[by_f1]),
        f1=float(ranked.f1[by_f1]),
        lrp_confidence=float(confidence[by_lrp]),
        lrp=float(lrp[by_lrp]),
        lrp_localisation=float(badness[by_lrp] / right[by_lrp]) if right[by_lrp] else nan,
        lrp_false_positives=float(1 - right[by_lrp] / made[by_lrp]),
        lrp_false_negatives=float(1 - right[by_lrp] / ranked.objects),
        n_objects=ranked.objects,
        n_detections=len(ranked.scores),
    )


def _chosen(threshold: ClassThreshold, rule: Rule, fewest: int) -> float:
    if threshold.n_objects < fewest:
        return float("nan")
    return threshold.f1_confidence if rule == "f1" else threshold.lrp_confidence
