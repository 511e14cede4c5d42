"""Which objects the challenger loses and gains: what a difference of scores is made of, to look at one by one."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from retrain.boxes import FloatArray, IntArray
from retrain.evaluation.evaluation import Evaluation
from retrain.evaluation.matching import IOU_THRESHOLDS, overlapping
from retrain.evaluation.paired_draws import check_pair
from retrain.evaluation.truth import BoolArray, Truth

Kind = Literal["newly_missed", "newly_found", "class_lost", "class_corrected"]
KINDS: tuple[Kind, ...] = ("newly_missed", "newly_found", "class_lost", "class_corrected")
"""Found before and not now; the other way round; found before and now with another class; the other way round."""
_MISSED, _OTHER_CLASS, _FOUND = 0, 1, 2
_KIND_OF: Mapping[tuple[int, int], Kind] = {
    (_FOUND, _MISSED): "newly_missed",
    (_MISSED, _FOUND): "newly_found",
    (_FOUND, _OTHER_CLASS): "class_lost",
    (_OTHER_CLASS, _FOUND): "class_corrected",
}


@dataclass(frozen=True)
class Seen:
    """A detection at an object."""

    class_name: str
    score: float
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class ObjectChange:
    """One object that the two models see differently.

    Attributes:
        box: xyxy in pixels.
        champion, challenger: what found it, or saw it as another class; None where nothing did.
    """

    kind: Kind
    image_id: str
    class_name: str
    box: tuple[float, float, float, float]
    champion: Seen | None
    challenger: Seen | None


@dataclass(frozen=True)
class ObjectCounts:
    """Of one class or slice; crowds left out."""

    n_objects: int
    newly_missed: int
    newly_found: int
    class_lost: int
    class_corrected: int


@dataclass(frozen=True)
class ObjectChanges:
    """All objects that are seen differently, surest detection first within each of `KINDS`."""

    changes: tuple[ObjectChange, ...]
    overall: ObjectCounts
    classes: Mapping[str, ObjectCounts]
    slices: Mapping[str, ObjectCounts]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def object_changes(
    champion: Evaluation, challenger: Evaluation, slices: Mapping[str, Collection[str]] | None = None
) -> ObjectChanges:
    """Compare object by object, at IoU 0.5 and the confidence that each model is served with.

    An object is found by the detection that COCO matching gives it. Where there is none, the surest detection of
    another class that overlaps it counts, unless that one found an object of its own class.

    Args:
        slices: image ids by name.

    Raises:
        BadInput: not the same images and objects, or not asked in the same way.
        NotFound: an image of a slice was not evaluated.
    """
    check_pair(champion, challenger)
    truth = champion.truth
    (before, at_before), (after, at_after) = _looked_at(champion), _looked_at(challenger)
    kinds = np.full(len(truth), -1)
    for (was, now), kind in _KIND_OF.items():
        kinds[(before == was) & (after == now)] = KINDS.index(kind)
    scores = np.maximum(_score(champion, at_before), _score(challenger, at_after))
    rows = np.flatnonzero(kinds >= 0)
    rows = rows[np.lexsort((rows, -scores[rows], kinds[rows]))]
    real = ~truth.crowd
    return ObjectChanges(
        tuple(
            ObjectChange(
                KINDS[kinds[row]],
                truth.images[truth.image[row]],
                truth.classes[truth.label[row]],
                _box(truth.boxes[row]),
                _seen(champion, at_before[row]),
                _seen(challenger, at_after[row]),
            )
            for row in rows
        ),
        _counts(kinds, real),
        {name: _counts(kinds, real & (truth.label == index)) for index, name in enumerate(truth.classes)},
        {name: _counts(kinds, real & _within(truth, ids)) for name, ids in (slices or {}).items()},
    )


def _looked_at(one: Evaluation) -> tuple[IntArray, IntArray]:
    """Of each object, whether it was found, and by which detection; -1 where by none. A crowd is never found."""
    truth, predictions, matches, served = one.truth, one.predictions, one.matches, one.served
    state, by = np.full(len(truth), _MISSED), np.full(len(truth), -1)
    # Other classes first, so that finding overrules.
    free = served & (matches.object_of[:, 0] < 0)
    detection, obj, iou = overlapping(predictions, truth, predictions.image, truth.image, free)
    keep = iou >= IOU_THRESHOLDS[0]
    keep &= predictions.label[detection] != truth.label[obj]
    detection, obj = detection[keep], obj[keep]
    surest_last = np.lexsort((-detection, predictions.scores[detection]))
    state[obj], by[obj[surest_last]] = _OTHER_CLASS, detection[surest_last]
    hits = np.flatnonzero(served & matches.hits[:, 0])
    found = matches.object_of[hits, 0]
    state[found], by[found] = _FOUND, hits
    return state, by


def _score(one: Evaluation, by: IntArray) -> FloatArray:
    scores = np.zeros(len(by))
    scores[by >= 0] = one.predictions.scores[by[by >= 0]]
    return scores


def _seen(one: Evaluation, row: int) -> Seen | None:
    if row < 0:
        return None
    predictions = one.predictions
    return Seen(
        one.truth.classes[predictions.label[row]],
        float(predictions.scores[row]),
        _box(predictions.boxes[row]),
    )


def _box(row: FloatArray) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = (float(value) for value in row)
    return x1, y1, x2, y2


def _within(truth: Truth, ids: Collection[str]) -> BoolArray:
    return np.isin(truth.image, truth.rows_of(ids))


def _counts(kinds: IntArray, keep: BoolArray) -> ObjectCounts:
    found = np.bincount(kinds[keep & (kinds >= 0)], minlength=len(KINDS))
    return ObjectCounts(int(keep.sum()), *(int(count) for count in found))
