"""Scores of parts of the images: by an attribute, by how crowded they are, and of objects by their size."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from numbers import Real
from typing import Any

import numpy as np

from retrain.boxes import FloatArray, IntArray
from retrain.errors import BadInput
from retrain.evaluation.average_precision import mean_defined
from retrain.evaluation.errors_analysis import per_image_counts
from retrain.evaluation.evaluation import Evaluation
from retrain.evaluation.json_ready import json_ready
from retrain.evaluation.matching import IOU_THRESHOLDS
from retrain.evaluation.protocol import AREAS
from retrain.evaluation.truth import BoolArray

CROWDING = "objects per image"
SIZE = "object size"
_MOST = 1e300
MAX_VALUES = 50
"""Of an attribute that is no number; the rarer ones are one slice together."""


@dataclass(frozen=True)
class Slicing:
    """Which slice each image is in.

    Attributes:
        attribute: that images are told apart by.
        values: names of the slices, in order.
        slice_of: index into `values` of each image, or -1 where the attribute is not known, shape (images,).
    """

    attribute: str
    values: tuple[str, ...]
    slice_of: IntArray


@dataclass(frozen=True)
class SliceScore:
    """Of the images or objects of one slice; NaN where nothing defines a value.

    Attributes:
        map50, map50_95: over the classes that have objects in the slice.
        precision, recall, f1: at the served confidence and IoU 0.5, over all classes together. Precision and F1 of
            objects by size are NaN: a wrong detection has no object whose size it could have.
    """

    attribute: str
    value: str
    n_images: int
    n_groups: int
    n_objects: int
    map50: float
    map50_95: float
    precision: float
    recall: float
    f1: float

    def to_json(self) -> dict[str, Any]:
        result: dict[str, Any] = json_ready(self)
        return result


def by_attribute(evaluation: Evaluation, name: str, *, bins: int = 4) -> Slicing:
    """Slices of an attribute of `truth.attributes`, or of `CROWDING`.

    Args:
        bins: of a numeric attribute with more values than that: this many with about equally many images (quantiles);
            fewer if values repeat.

    Raises:
        BadInput: no image has the attribute, or there is no bin.
    """
    if bins < 1:
        raise BadInput(f"bins must be at least 1, got {bins}.")
    truth = evaluation.truth
    if name == CROWDING:
        counts = np.bincount(truth.image[~truth.crowd], minlength=len(truth.images))
        return _slicing(name, counts.tolist(), bins)
    values = [each.get(name) for each in truth.attributes]
    slicing = _slicing(name, values, bins)
    if not slicing.values:
        known = sorted({key for each in truth.attributes for key in each})
        raise BadInput(f"No image has the attribute {name!r}; there are {', '.join(known) or 'none'}.")
    return slicing


def attributes(evaluation: Evaluation) -> list[str]:
    """All attributes that are known of any image, and crowding."""
    known = {key for each in evaluation.truth.attributes for key, value in each.items() if _is_known(value)}
    return [*sorted(known), CROWDING]


def slice_scores(evaluation: Evaluation, slicing: Slicing) -> list[SliceScore]:
    """Of each slice, as if only its images had been evaluated."""
    member = slicing.slice_of == np.arange(len(slicing.values))[:, None]
    scores = evaluation.average_precision().resampled(member.astype(np.int64), IOU_THRESHOLDS)
    map50, map50_95 = mean_defined(scores[:, :, 0]), mean_defined(scores.mean(axis=2))
    counts = member @ per_image_counts(evaluation)
    groups = [len(np.unique(evaluation.truth.group_of[one])) for one in member]
    return [
        _score(
            slicing.attribute, value, int(member[at].sum()), groups[at], counts[at], map50[at], map50_95[at]
        )
        for at, value in enumerate(slicing.values)
    ]


def size_scores(evaluation: Evaluation) -> list[SliceScore]:
    """Of small, medium and large objects, in COCO's areas; `map50` by area is not one of COCO's numbers, so NaN."""
    truth, matches, coco = evaluation.truth, evaluation.matches, evaluation.summary.coco
    found = matches.found(len(truth), keep=evaluation.served)
    nan = float("nan")
    result = []
    for name, (low, high) in list(AREAS.items())[1:]:
        # An object on the border is in both ranges, as in pycocotools.
        own = ~truth.crowd & (truth.area >= low) & (truth.area <= high)
        images = np.unique(truth.image[own])
        result.append(
            SliceScore(
                SIZE, name, len(images), len(np.unique(truth.group_of[images])), int(own.sum()),
                nan, coco[f"map_{name}"], nan, _ratio(int(found[own].sum()), int(own.sum())), nan,
            )
        )  # fmt: skip
    return result


def all_slices(evaluation: Evaluation, *, bins: int = 4) -> list[SliceScore]:
    """Of every attribute, of crowding, and of sizes of objects."""
    slicings = [by_attribute(evaluation, name, bins=bins) for name in attributes(evaluation)]
    by_image = [score for slicing in slicings for score in slice_scores(evaluation, slicing)]
    return by_image + size_scores(evaluation)


def _slicing(name: str, values: Sequence[Any], bins: int) -> Slicing:
    known = [value for value in values if _is_known(value)]
    distinct = set(map(_name, known))
    numeric = bool(known) and all(map(_is_number, known))
    if numeric and len(distinct) > bins:
        numbers = np.array([float(value) if _is_known(value) else np.nan for value in values])
        return _quantiles(name, numbers, bins)
    order = sorted(distinct, key=float) if numeric else sorted(distinct)
    names = {value: value for value in order}
    if len(order) > MAX_VALUES:
        common = {value for value, _ in Counter(sorted(map(_name, known))).most_common(MAX_VALUES - 1)}
        rest = f"other ({len(order) - len(common)} values)"
        names = {value: value if value in common else rest for value in order}
    places: Mapping[str, int] = {each: at for at, each in enumerate(dict.fromkeys(names.values()))}
    slice_of = [places[names[_name(value)]] if _is_known(value) else -1 for value in values]
    return Slicing(name, tuple(places), np.array(slice_of, dtype=np.int64))


def _is_known(value: Any) -> bool:
    return value is not None and not (isinstance(value, float) and not np.isfinite(value))


def _is_number(value: Any) -> bool:
    """Of those that a float can hold; a whole number of hundreds of digits is a name."""
    real = isinstance(value, Real) and not isinstance(value, bool)
    return real and bool(abs(value) < _MOST)


def _name(value: Any) -> str:
    return f"{value:.10g}" if _is_number(value) else str(value)


def _quantiles(name: str, values: FloatArray, bins: int) -> Slicing:
    known: BoolArray = ~np.isnan(values)
    edges = np.unique(np.quantile(values[known], np.arange(bins + 1) / bins))
    # Bins are [low, high), the last one with its end; equal values are never told apart.
    place = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, max(len(edges) - 2, 0))
    ends = [f"{low} to {high}" for low, high in pairwise(_told_apart(edges))]
    names = [f"[{one})" for one in ends[:-1]] + [f"[{one}]" for one in ends[-1:]]
    return Slicing(name, tuple(names), np.where(known, place, -1).astype(np.int64))


def _told_apart(edges: FloatArray) -> list[str]:
    """With as few digits, but at least three, as make all of them differ."""
    for digits in range(3, 17):
        named = [f"{edge:.{digits}g}" for edge in edges]
        if len(set(named)) == len(edges):
            return named
    return [str(edge) for edge in edges]


def _score(
    attribute: str, value: str, images: int, groups: int, counts: IntArray, map50: float, map50_95: float
) -> SliceScore:
    right, wrong, missed = (int(number) for number in counts)
    return SliceScore(
        attribute, value, images, groups, right + missed, float(map50), float(map50_95),
        _ratio(right, right + wrong), _ratio(right, right + missed), _ratio(2 * right, 2 * right + wrong + missed),
    )  # fmt: skip


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")
