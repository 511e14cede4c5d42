"""Detections in the order of their scores, with which of them are right: what curves and thresholds are read off."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from retrain.boxes import FloatArray, IntArray
from retrain.evaluation.average_precision import pools
from retrain.evaluation.evaluation import Evaluation
from retrain.evaluation.matching import iou_of_pairs
from retrain.evaluation.truth import BoolArray


@dataclass(frozen=True, eq=False)
class Ranked:
    """Detections that count at IoU 0.5, best score first; what was found in crowds is left out.

    Attributes:
        rows: of the detections in `Predictions`, shape (n,).
        scores: falling, shape (n,).
        hits: it found an object, shape (n,).
        iou: with the object it found, else 0, shape (n,).
        objects: to be found, crowds left out.
    """

    rows: IntArray
    scores: FloatArray
    hits: BoolArray
    iou: FloatArray
    objects: int

    @cached_property
    def last(self) -> IntArray:
        """The last detection of each distinct score: a confidence takes all of that score or none."""
        return np.flatnonzero(np.diff(self.scores, append=-1.0))

    @property
    def confidence(self) -> FloatArray:
        """Distinct scores, falling."""
        return self.scores[self.last]

    @property
    def made(self) -> IntArray:
        """Detections with at least each `confidence`."""
        return self.last + 1

    @property
    def right(self) -> IntArray:
        """Those of them that found an object."""
        return np.cumsum(self.hits, dtype=np.int64)[self.last]

    @property
    def f1(self) -> FloatArray:
        """At each `confidence`."""
        return np.asarray(2 * self.right / (self.made + self.objects))


def ranked_by_class(evaluation: Evaluation) -> list[Ranked]:
    """One for each class."""
    truth, predictions, matches = evaluation.truth, evaluation.predictions, evaluation.matches
    hit = np.flatnonzero(matches.hits[:, 0])
    found = matches.object_of[hit, 0]
    iou = np.zeros(len(predictions))
    iou[hit] = iou_of_pairs(predictions, truth, hit, found)
    result = []
    for pool in pools(truth, predictions, matches):
        keep = ~pool.ignored[:, 0]
        rows = pool.rows[keep]
        result.append(Ranked(rows, pool.scores[keep], pool.hits[keep, 0], iou[rows], int(pool.objects.sum())))
    return result


def all_classes(each: list[Ranked]) -> Ranked:
    """Of all classes together."""
    rows = np.concatenate([one.rows for one in each])
    scores = np.concatenate([one.scores for one in each])
    order = np.lexsort((rows, -scores))
    return Ranked(
        rows[order],
        scores[order],
        np.concatenate([one.hits for one in each])[order],
        np.concatenate([one.iou for one in each])[order],
        sum(one.objects for one in each),
    )
