"""What a model gets wrong, one by one: errors ordered by what they cost, how boxes are off, and the worst images."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from retrain.boxes import FloatArray, IntArray
from retrain.errors import BadInput
from retrain.evaluation.arguments import checked_evaluation
from retrain.evaluation.error_costs import cost_of_false_positives, cost_of_missing
from retrain.evaluation.evaluation import Evaluation
from retrain.evaluation.json_ready import json_ready
from retrain.evaluation.tide import CLASSIFICATION, ERROR_TYPES, LOCALISATION, Tide, TideErrors

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class ErrorRow:
    """One wrong detection, or one object that is not found.

    Attributes:
        box: xyxy in pixels, of the detection or the missed object.
        class_name: the detection's, or the missed object's.
        score: of the detection; of a missed object that of the detection which found it below the served confidence, or
            was nearest to finding it; NaN without one.
        type: of `ERROR_TYPES`, or `low score` for an object that is found below the served confidence only.
        cost: what mAP50, taken without interpolation, gains without the detection, or if the object were found before
            all others.
        other_box, other_class: of the object a wrong detection is about, or of the detection a missed object was
            nearest to; None without one.
    """

    image_id: str
    box: tuple[float, float, float, float]
    class_name: str
    score: float
    type: str
    cost: float
    other_box: tuple[float, float, float, float] | None
    other_class: str | None


@dataclass(frozen=True)
class ImageErrors:
    """Of one image at the served confidence and IoU 0.5; `f1` is NaN without objects and detections."""

    image_id: str
    f1: float
    true_positives: int
    false_positives: int
    false_negatives: int


@dataclass(frozen=True, eq=False)
class Localisation:
    """How the boxes of right detections with at least the served confidence are off, shape (n,) each.

    Attributes:
        iou: at least 0.5.
        offset_x, offset_y: centre of the detection minus centre of the object, in widths and heights of the object;
            positive is right and down.
        width_ratio, height_ratio: detection by object.
    """

    iou: FloatArray
    offset_x: FloatArray
    offset_y: FloatArray
    width_ratio: FloatArray
    height_ratio: FloatArray

    def quantiles(self) -> Mapping[str, Mapping[str, float]]:
        """Of each of these at `QUANTILES`; NaN without detections."""
        return {
            name: {
                f"{level:g}": float(np.quantile(values, level)) if len(values) else float("nan")
                for level in QUANTILES
            }
            for name, values in vars(self).items()
        }

    def to_json(self) -> dict[str, Any]:
        """Quantiles, and how many pairs have an IoU in each twentieth from 0.5 to 1."""
        histogram = np.histogram(self.iou, bins=10, range=(0.5, 1.0))[0]
        return {
            "count": len(self.iou),
            "quantiles": json_ready(self.quantiles()),
            "iou_histogram": histogram.tolist(),
        }


class ErrorAnalyzer:
    """Errors of one evaluation, at IoU 0.5 and the confidence that the model is served with, but for `tide`.

    Raises:
        BadInput: given something else than an evaluation.
    """

    def __init__(self, evaluation: Evaluation) -> None:
        self.evaluation = checked_evaluation(evaluation)
        self._truth, self._predictions = evaluation.truth, evaluation.predictions
        self._served = evaluation.served

    @cached_property
    def types(self) -> Tide:
        """What is wrong with each detection, and which objects nothing came near to."""
        return Tide(self.evaluation)

    @property
    def tide(self) -> TideErrors:
        """Count and cost of each type of error, over detections of any confidence, as for average precision."""
        return self.types.errors

    def false_positives(self, limit: int | None = None) -> list[ErrorRow]:
        """Wrong detections with at least the served confidence, the costliest first."""
        rows = np.flatnonzero(self._served & (self.types.kind >= 0))
        cost = cost_of_false_positives(self.evaluation)[rows]
        chosen = _first(cost, rows, limit)
        return [self._wrong(int(rows[at]), float(cost[at])) for at in chosen]

    def false_negatives(self, limit: int | None = None) -> list[ErrorRow]:
        """Objects not found with at least the served confidence, the costliest first.

        Objects of one class cost the same unless they are found with a low score; of those the largest come first.
        """
        finder = self._finders()
        lost = (finder < 0) | ~self._served[np.maximum(finder, 0)] if len(self._predictions) else finder < 0
        rows = np.flatnonzero(lost & ~self._truth.crowd)
        cost = cost_of_missing(self.evaluation, finder)[rows]
        area = self._truth.area[rows]
        chosen = np.lexsort((rows, -area, -cost))[:limit]
        near = self._nearest()
        return [self._missed(int(rows[at]), finder, near, float(cost[at])) for at in chosen]

    def localisation(self, class_name: str | None = None) -> Localisation:
        """Of one class, or of all.

        Raises:
            BadInput: no such class.
        """
        keep = self._served & self.evaluation.matches.hits[:, 0]
        if class_name is not None:
            if class_name not in self._truth.classes:
                raise BadInput(f"No class {class_name!r}; there are {', '.join(self._truth.classes)}.")
            keep &= self._predictions.label == self._truth.classes.index(class_name)
        rows = np.flatnonzero(keep)
        objects = self.evaluation.matches.object_of[rows, 0]
        found, true = self._predictions.boxes[rows], self._truth.boxes[objects]
        size, true_size = found[:, 2:] - found[:, :2], true[:, 2:] - true[:, :2]
        offset = (found[:, :2] + found[:, 2:] - true[:, :2] - true[:, 2:]) / 2 / true_size
        ratio = size / true_size
        return Localisation(
            self.types.pairs.iou_of(rows, objects), offset[:, 0], offset[:, 1], ratio[:, 0], ratio[:, 1]
        )

    def worst_images(self, limit: int | None = 20) -> list[ImageErrors]:
        """Images with errors, the lowest F1 first, and of equal ones that with most errors."""
        right, wrong, missed = per_image_counts(self.evaluation).T
        errors = wrong + missed
        whole = 2 * right + errors
        f1 = np.divide(2 * right, whole, out=np.full(len(whole), np.nan), where=whole > 0)
        rows = np.flatnonzero(errors > 0)
        order = rows[np.lexsort((rows, -errors[rows], f1[rows]))][:limit]
        return [
            ImageErrors(
                self._truth.images[row], float(f1[row]), int(right[row]), int(wrong[row]), int(missed[row])
            )
            for row in order
        ]

    def to_json(self, limit: int = 100) -> dict[str, Any]:
        """With at most so many rows of each kind."""
        return {
            "tide": self.tide.to_json(),
            "localisation": self.localisation().to_json(),
            "false_positives": json_ready(self.false_positives(limit)),
            "false_negatives": json_ready(self.false_negatives(limit)),
            "worst_images": json_ready(self.worst_images(limit)),
        }

    def _finders(self) -> IntArray:
        """Row of the detection that found each object, whatever its score, or -1."""
        hit = np.flatnonzero(self.evaluation.matches.hits[:, 0])
        finder = np.full(len(self._truth), -1, dtype=np.int64)
        finder[self.evaluation.matches.object_of[hit, 0]] = hit
        return finder

    def _nearest(self) -> IntArray:
        """Best scored detection of wrong class or place that is about each object, or -1."""
        about = np.flatnonzero(np.isin(self.types.kind, [CLASSIFICATION, LOCALISATION]))[::-1]
        nearest = np.full(len(self._truth), -1, dtype=np.int64)
        nearest[self.types.target[about]] = about  # Of several, the last assignment stays: the best score.
        return nearest

    def _wrong(self, row: int, cost: float) -> ErrorRow:
        target = int(self.types.target[row])
        return ErrorRow(
            image_id=self._truth.images[self._predictions.image[row]],
            box=_box(self._predictions.boxes[row]),
            class_name=self._truth.classes[self._predictions.label[row]],
            score=float(self._predictions.scores[row]),
            type=ERROR_TYPES[self.types.kind[row]],
            cost=cost,
            other_box=_box(self._truth.boxes[target]) if target >= 0 else None,
            other_class=self._truth.classes[self._truth.label[target]] if target >= 0 else None,
        )

    def _missed(self, row: int, finder: IntArray, near: IntArray, cost: float) -> ErrorRow:
        other = int(finder[row] if finder[row] >= 0 else near[row])
        near_miss = ERROR_TYPES[self.types.kind[other]] if other >= 0 else "missed"
        kind = "low score" if finder[row] >= 0 else near_miss
        return ErrorRow(
            image_id=self._truth.images[self._truth.image[row]],
            box=_box(self._truth.boxes[row]),
            class_name=self._truth.classes[self._truth.label[row]],
            score=float(self._predictions.scores[other]) if other >= 0 else float("nan"),
            type=kind,
            cost=cost,
            other_box=_box(self._predictions.boxes[other]) if other >= 0 else None,
            other_class=self._truth.classes[self._predictions.label[other]] if other >= 0 else None,
        )


def per_image_counts(evaluation: Evaluation) -> IntArray:
    """True positives, false positives and false negatives of each image at the served confidence, shape (images, 3)."""
    truth, predictions, matches = evaluation.truth, evaluation.predictions, evaluation.matches
    n_images = len(truth.images)
    keep = evaluation.served & ~matches.ignored[:, 0]
    hits = matches.hits[:, 0]
    right = np.bincount(predictions.image[keep & hits], minlength=n_images)
    wrong = np.bincount(predictions.image[keep & ~hits], minlength=n_images)
    objects = np.bincount(truth.image[~truth.crowd], minlength=n_images)
    return np.column_stack([right, wrong, objects - right]).astype(np.int64)


def _first(cost: FloatArray, rows: IntArray, limit: int | None) -> IntArray:
    return np.lexsort((rows, -cost))[:limit]


def _box(values: FloatArray) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = (float(value) for value in values)
    return x1, y1, x2, y2
