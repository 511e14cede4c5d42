"""Why detections are wrong and objects missed, and what each reason costs: TIDE at IoU 0.5, background below 0.1.

Bolya et al. 2020, "TIDE: A General Toolbox for Identifying Object Detection Errors". Types and costs are those of
tidecv, with the rest of this kernel's conventions where tidecv has its own:

- 100 detections count per image and *class*, as in COCO; tidecv takes 100 per image.
- What is found in a crowd counts neither way; tidecv leaves it out of average precision, but counts it as an error.
- A class without objects is left out of the mean, as in COCO; tidecv takes it as 0 once something is found of it.
- Equal scores keep their order when errors are fixed; tidecv puts what is wrong first.
- Recall levels are pycocotools' floats; some of tidecv's are a bit lower, which matters for 10, 20, … objects.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from retrain.boxes import FloatArray, IntArray
from retrain.evaluation.average_precision import AveragePrecision, ClassPool
from retrain.evaluation.evaluation import Evaluation
from retrain.evaluation.json_ready import json_ready
from retrain.evaluation.matching import IOU_THRESHOLDS, overlapping
from retrain.evaluation.truth import BoolArray

ErrorType = Literal["classification", "localisation", "both", "duplicate", "background", "missed"]

ERROR_TYPES: tuple[ErrorType, ...] = (
    "classification", "localisation", "both", "duplicate", "background", "missed",
)  # fmt: skip
RIGHT, CLASSIFICATION, LOCALISATION, BOTH, DUPLICATE, BACKGROUND = range(-1, 5)
"""Codes of what became of a detection: `RIGHT` also where it does not count, else an index into `ERROR_TYPES`."""

POSITIVE_IOU = float(IOU_THRESHOLDS[0])
BACKGROUND_IOU = 0.1


@dataclass(frozen=True)
class TideErrors:
    """Of one model at IoU 0.5.

    Attributes:
        counts: of errors by `ERROR_TYPES`.
        delta_ap: what mAP50 gains, in [0, 1], if all errors of one type and no others are fixed; gains do not add up. A
            detection of wrong class or place is put right where it is the best of those for a free object, else taken
            away; both, duplicate and background are taken away; a missed object is no longer asked for (NaN if then
            nothing is).
        false_positives: gain if every wrong detection were taken away.
        false_negatives: gain if no object that is not found were asked for.
        map50: what is gained upon.
    """

    counts: Mapping[str, int]
    delta_ap: Mapping[str, float]
    false_positives: float
    false_negatives: float
    map50: float

    def to_json(self) -> dict[str, Any]:
        result: dict[str, Any] = json_ready(self)
        return result


class Tide:
    """Type of every error of an evaluation.

    Attributes:
        kind: code of each detection, shape (detections,).
        target: row of the object that a detection of wrong class, wrong place or found twice is about, else -1.
        found: which objects were found, shape (objects,); crowds count as found.
        missed: objects that are not found and not the target of a detection of wrong class or place.
    """

    def __init__(self, evaluation: Evaluation) -> None:
        self._evaluation = evaluation
        self._predictions, self._truth = evaluation.predictions, evaluation.truth
        matches = evaluation.matches
        self.pairs = _Pairs.of(evaluation)
        self.found: BoolArray = matches.found(len(self._truth)) | self._truth.crowd
        self._used = matches.counted & ~matches.ignored[:, 0]
        self._wrong = self._used & ~matches.hits[:, 0]
        self.kind, self.target = self._classified()
        free = (self.target >= 0) & np.isin(self.kind, [CLASSIFICATION, LOCALISATION])
        free[free] = ~self.found[self.target[free]]
        about = np.flatnonzero(free)
        # Detections come by image and falling score, so the first of an object is its best.
        objects, first = np.unique(self.target[about], return_index=True)
        self._fixable = np.zeros(len(self._predictions), dtype=bool)
        self._fixable[about[first]] = True
        self.missed: BoolArray = ~self.found
        self.missed[objects] = False

    def _classified(self) -> tuple[IntArray, IntArray]:
        same = self.pairs.same
        own, own_object = self.pairs.best(same)
        other, other_object = self.pairs.best(~same)
        twice, twice_object = self.pairs.best(same & self.found[self.pairs.object])
        conditions = [
            (own >= BACKGROUND_IOU) & (own <= POSITIVE_IOU),
            other >= POSITIVE_IOU,
            twice >= POSITIVE_IOU,
            np.maximum(own, other) <= BACKGROUND_IOU,
        ]
        kind = np.select(conditions, [LOCALISATION, CLASSIFICATION, DUPLICATE, BACKGROUND], BOTH)
        target = np.select(conditions[:3], [own_object, other_object, twice_object], -1)
        return np.where(self._wrong, kind, RIGHT), np.where(self._wrong, target, -1)

    @cached_property
    def errors(self) -> TideErrors:
        """All numbers."""
        hits, label = self._evaluation.matches.hits[:, 0], self._predictions.label
        before = self._map50(self._used, hits, label)
        counts = [int((self.kind == code).sum()) for code in range(BACKGROUND + 1)]
        after = {}
        for code, name in enumerate(ERROR_TYPES[:-1]):
            fixed = (self.kind == code) & self._fixable
            true_label = label.copy()
            true_label[fixed] = self._truth.label[self.target[fixed]]
            after[name] = self._map50(self._used & ((self.kind != code) | fixed), hits | fixed, true_label)
        after["missed"] = self._map50(self._used, hits, label, self.missed)
        return TideErrors(
            counts=dict(zip(ERROR_TYPES, [*counts, int(self.missed.sum())], strict=True)),
            # Fewer objects may move a recall past one of the 101 levels; an error is never worth less than nothing.
            delta_ap={name: max(value - before, 0.0) for name, value in after.items()},
            false_positives=self._map50(self._used & hits, hits, label) - before,
            false_negatives=self._map50(self._used, hits, label, ~self.found) - before,
            map50=before,
        )

    def _map50(
        self, keep: BoolArray, hits: BoolArray, label: IntArray, without: BoolArray | None = None
    ) -> float:
        """Of altered detections, over classes with objects before any are left out."""
        n_classes = len(self._truth.classes)
        asked = ~self._truth.crowd if without is None else ~self._truth.crowd & ~without
        ever = np.bincount(self._truth.label[~self._truth.crowd], minlength=n_classes)
        objects = np.bincount(self._truth.label[asked], minlength=n_classes)
        rows = np.flatnonzero(keep)
        rows = rows[np.lexsort((-self._predictions.scores[rows], label[rows]))]
        bounds = np.searchsorted(label[rows], np.arange(n_classes + 1))
        by_class = [
            self._pool(rows[start:stop], hits, objects[index])
            for index, (start, stop) in enumerate(pairwise(bounds))
        ]
        once = np.ones((1, 1), dtype=np.int64)
        scores = AveragePrecision(by_class).resampled(once, IOU_THRESHOLDS[:1])[0, :, 0]
        # A class that nothing is asked of any more is worth nothing if something is found, and is left out otherwise.
        counts = (ever > 0) & ((objects > 0) | (np.diff(bounds) > 0))
        return float(np.nan_to_num(scores[counts]).mean()) if counts.any() else float("nan")

    def _pool(self, rows: IntArray, hits: BoolArray, objects: int) -> ClassPool:
        return ClassPool(
            rows,
            self._predictions.scores[rows],
            hits[rows, None],
            np.zeros((len(rows), 1), dtype=bool),
            np.zeros(len(rows), dtype=np.int64),
            np.array([objects], dtype=np.int64),
        )


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Detections and objects, crowds left out, of one image that overlap.

    Attributes:
        detection, object: rows, shape (pairs,); detections rising.
        same: they are of one class.
        start: first pair of each detection that has any, `having`.
        detections: how many there are.
    """

    detection: IntArray
    object: IntArray
    iou: FloatArray
    same: BoolArray
    having: IntArray
    start: IntArray
    detections: int

    @classmethod
    def of(cls, evaluation: Evaluation) -> "_Pairs":
        truth, predictions = evaluation.truth, evaluation.predictions
        detection, obj, iou = overlapping(
            predictions, truth, predictions.image, truth.image, evaluation.matches.counted
        )
        keep = (iou > 0) & ~truth.crowd[obj]
        detection, obj, iou = detection[keep], obj[keep], iou[keep]
        having, start = np.unique(detection, return_index=True)
        same = predictions.label[detection] == truth.label[obj]
        return cls(detection, obj, iou, same, having, start, len(predictions))

    def best(self, among: BoolArray) -> tuple[FloatArray, IntArray]:
        """Highest IoU of each detection and the object, the last of equal ones as in matching; 0 and -1 without any."""
        highest, chosen = np.zeros(self.detections), np.full(self.detections, -1, dtype=np.int64)
        if not len(self.having):
            return highest, chosen
        highest[self.having] = np.maximum.reduceat(np.where(among, self.iou, 0.0), self.start)
        is_best = among & (self.iou == highest[self.detection])
        chosen[self.having] = np.maximum.reduceat(np.where(is_best, self.object, -1), self.start)
        return highest, chosen

    def iou_of(self, detection: IntArray, obj: IntArray) -> FloatArray:
        """Of pairs that are among these, in the order of `detection`, which rises."""
        wanted = np.full(self.detections, -1, dtype=np.int64)
        wanted[detection] = obj
        return self.iou[self.object == wanted[self.detection]]
