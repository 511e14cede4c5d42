"""Single boxes that cannot be right, or are unlike all others of their class; for all images at once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import SupportsIndex

import numpy as np
from numpy.typing import NDArray

from retrain.boxes import FloatArray, IntArray
from retrain.dataset.quality.report import Issue, QualityLimits
from retrain.dataset.version import DatasetItem, LabelledObject

_LEAST_SPREAD = 0.1
"""Least standard deviation of a log area or log aspect: a class that is always the same size varies by 10 %."""
_NORMAL = 1.4826
"""Standard deviations of a normal distribution in one median absolute deviation."""


@dataclass(frozen=True)
class BoxTable:
    """The boxes of many images in columns, image by image.

    Attributes:
        items: the images.
        objects: all their objects, one for each row.
        image: place in `items`, rising, shape (n,).
        classes: class indices, shape (n,).
        boxes: xyxy in pixels, shape (n, 4).
        sizes: width and height of each box's image, shape (n, 2).
    """

    items: Sequence[DatasetItem]
    objects: Sequence[LabelledObject]
    image: IntArray
    classes: IntArray
    boxes: FloatArray
    sizes: FloatArray

    @classmethod
    def of(cls, items: Sequence[DatasetItem]) -> "BoxTable":
        objects = [o for item in items for o in item.objects]
        image = np.repeat(np.arange(len(items)), [len(item.objects) for item in items])
        sizes = np.array([(item.width, item.height) for item in items], np.float64).reshape(-1, 2)
        return cls(
            items=items,
            objects=objects,
            image=image.astype(np.int64),
            classes=np.fromiter((o.class_index for o in objects), np.int64, len(objects)),
            boxes=np.array([o.box for o in objects], np.float64).reshape(-1, 4),
            sizes=sizes[image],
        )

    @property
    def sides(self) -> FloatArray:
        """Width and height of each box, shape (n, 2)."""
        sides: FloatArray = self.boxes[:, 2:] - self.boxes[:, :2]
        return sides

    @property
    def usable(self) -> NDArray[np.bool_]:
        """Finite boxes with an area, shape (n,): others have no size, aspect or overlap."""
        # A comparison with NaN is False, and inf minus inf is NaN.
        with np.errstate(invalid="ignore"):
            fine = np.isfinite(self.boxes).all(axis=1) & (self.sides > 0).all(axis=1)
        usable: NDArray[np.bool_] = np.asarray(fine)
        return usable

    def issue(self, kind: str, rows: IntArray, message: str, value: float | None = None) -> Issue:
        """About objects of one image."""
        item = self.items[self.image[rows[0]]]
        return Issue.of(kind, message, item.image, tuple(self.objects[row].id for row in rows), value)


def box_issues(table: BoxTable, classes: Sequence[str], limits: QualityLimits) -> Iterator[Issue]:
    """What is wrong with each box by itself."""
    yield from _impossible(table, classes)
    usable = np.flatnonzero(table.usable)
    yield from _tiny(table, usable, limits)
    yield from _covering(table, usable, limits)
    # An image of an impossible size is no measure for its boxes.
    usable = usable[(table.sizes[usable] > 0).all(axis=1)]
    sides = table.sides[usable]
    area = np.log(np.prod(sides / table.sizes[usable], axis=1))
    aspect = np.log(sides[:, 0] / sides[:, 1])
    z = robust_z(area, table.classes[usable], limits.min_class_boxes)
    z[_cut_off(table, usable) & (z < 0)] = 0
    for row, score in _beyond(usable, z, limits.size_z):
        how = "larger" if score > 0 else "smaller"
        name = _name(classes, int(table.classes[row]))
        message = f"{_text(table, row)} is far {how} than other {name!r} (robust z {score:+.1f})."
        yield table.issue("implausible-size", np.array([row]), message, score)
    yield from _odd_aspects(table, usable, aspect, classes, limits)


def robust_z(values: FloatArray, groups: IntArray, least: int) -> FloatArray:
    """Distance from the group's median in robust standard deviations (median absolute deviation, Hampel 1974).

    Args:
        values: shape (n,).
        groups: shape (n,); values of one group are compared with each other.
        least: groups with fewer values get 0.

    Returns:
        Shape (n,), signed.
    """
    z = np.zeros(len(values))
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order], prepend=np.min(groups, initial=0) - 1))
    for rows in np.split(order, starts[1:]):
        if len(rows) >= least:
            off = values[rows] - np.median(values[rows])
            z[rows] = off / max(_NORMAL * float(np.median(np.abs(off))), _LEAST_SPREAD)
    return z


def _impossible(table: BoxTable, classes: Sequence[str]) -> Iterator[Issue]:
    finite = np.isfinite(table.boxes).all(axis=1)
    with np.errstate(invalid="ignore"):
        flat = finite & (table.sides <= 0).any(axis=1)
        outside = finite & ((table.boxes[:, :2] < 0) | (table.boxes[:, 2:] > table.sizes)).any(axis=1)
    beyond = np.maximum(-table.boxes[:, :2], table.boxes[:, 2:] - table.sizes).max(axis=1, initial=-np.inf)
    for row in np.flatnonzero(~finite):
        yield table.issue(
            "not-finite", np.array([row]), f"{_text(table, row)} has an edge that is no number."
        )
    for row in np.flatnonzero(flat):
        yield table.issue("zero-area", np.array([row]), f"{_text(table, row)} has no area.", 0.0)
    for row in np.flatnonzero(outside):
        width, height = table.sizes[row]
        far = float(beyond[row])
        message = f"{_text(table, row)} leaves its image of {width:g} x {height:g} by {far:g} px."
        yield table.issue("out-of-bounds", np.array([row]), message, far)
    for row in np.flatnonzero((table.classes < 0) | (table.classes >= len(classes))):
        index = int(table.classes[row])
        message = f"{_text(table, row)} has class {index}, but there are {len(classes)} classes."
        yield table.issue("unknown-class", np.array([row]), message, float(index))


def _tiny(table: BoxTable, usable: IntArray, limits: QualityLimits) -> Iterator[Issue]:
    shorter = table.sides[usable].min(axis=1, initial=np.inf)
    for place in np.flatnonzero(shorter < limits.min_side_px):
        row, side = usable[place], float(shorter[place])
        message = f"{_text(table, row)} has a side of {side:g} px, less than {limits.min_side_px:g}."
        yield table.issue("tiny-box", np.array([row]), message, side)


def _covering(table: BoxTable, usable: IntArray, limits: QualityLimits) -> Iterator[Issue]:
    boxes, sizes = table.boxes[usable], table.sizes[usable]
    inside = np.clip(np.minimum(boxes[:, 2:], sizes) - np.maximum(boxes[:, :2], 0), 0, None)
    total = np.prod(sizes, axis=1)
    share = np.divide(np.prod(inside, axis=1), total, out=np.zeros(len(usable)), where=total > 0)
    for place in np.flatnonzero(share >= limits.image_share):
        row, part = usable[place], float(share[place])
        message = f"{_text(table, row)} covers {part:.0%} of its image."
        yield table.issue("covers-image", np.array([row]), message, part)


def _odd_aspects(
    table: BoxTable, usable: IntArray, aspect: FloatArray, classes: Sequence[str], limits: QualityLimits
) -> Iterator[Issue]:
    """`aspect`: log (width / height) of the usable rows."""
    z = robust_z(aspect, table.classes[usable], limits.min_class_boxes)
    z[_cut_off(table, usable)] = 0
    absolute = np.exp(np.abs(aspect)) > limits.max_aspect
    for place in np.flatnonzero(absolute | (np.abs(z) > limits.aspect_z)):
        row, score = int(usable[place]), float(z[place])
        width, height = table.sides[row]
        name = _name(classes, int(table.classes[row]))
        message = (
            f"{_text(table, row)} is {width:g} x {height:g} px, odd for {name!r} (robust z {score:+.1f})."
        )
        yield table.issue("implausible-aspect", np.array([row]), message, float(np.exp(aspect[place])))


def _cut_off(table: BoxTable, rows: IntArray) -> NDArray[np.bool_]:
    """Whether a box ends at the border of its image, give or take a pixel: its object may go on beyond."""
    boxes, sizes = table.boxes[rows], table.sizes[rows]
    ends = (boxes[:, :2] <= 1) | (boxes[:, 2:] >= sizes - 1)
    at_border: NDArray[np.bool_] = np.asarray(ends.any(axis=1))
    return at_border


def _beyond(rows: IntArray, z: FloatArray, limit: float) -> Iterator[tuple[int, float]]:
    for place in np.flatnonzero(np.abs(z) > limit):
        yield int(rows[place]), float(z[place])


def _text(table: BoxTable, row: SupportsIndex) -> str:
    edges = ", ".join(f"{edge:g}" for edge in table.boxes[row])
    return f"Box {table.objects[int(row)].id!r} ({edges})"


def _name(classes: Sequence[str], index: int) -> str:
    return classes[index] if 0 <= index < len(classes) else f"class {index}"
