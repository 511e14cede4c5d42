"""Pictures of real handwritten digits, several to a scene, with exact boxes.

The digits are scikit-learn's bundled copy of the UCI optical recognition set: 1797 scans of 8 x 8 pixels. The
file has no writer ids, but its labels repeat one dictated sequence of about 130 digits 14 times over: one
filled form after the other. `DigitPool` cuts between forms and leaves one form out in between, so no form, and
(as neighbouring forms are the only ones likely to share a hand) hardly a hand, is in both pools.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from retrain.boxes import Annotations
from retrain.errors import BadInput
from retrain.simulation.backgrounds import TURN, CameraStyle, Canvas, render_background, turn
from retrain.simulation.stable_random import Rng, noise_field

CLASSES = ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")

Split = Literal["train", "test"]

_FORMS = {"train": (0, 1287), "test": (1415, 1797)}
"""First and one-past-last row of each pool; rows 1287 to 1414 are the form between, used by neither."""
_FINE = 32
"""Side of the smooth copy that every digit is drawn from."""
_PLACE_ATTEMPTS = 30
_MAX_OVERLAP = 0.1
"""Largest share of the smaller of two boxes that the other may cover."""
_INK_VISIBLE = 80
"""A pixel belongs to the box when ink covers it by more than this many 256ths."""


@dataclass(frozen=True)
class Scene:
    """A picture and what is in it.

    Attributes:
        image: uint8 RGB, shape (size, size, 3).
        annotations: tight boxes around the ink, classes as in `CLASSES`.
    """

    image: NDArray[np.uint8]
    annotations: Annotations


class DigitPool:
    """The handwritten digits that one side may draw from; `train` and `test` share no digit."""

    def __init__(self, split: Split) -> None:
        if split not in _FORMS:
            raise BadInput(f"split must be train or test, got {split!r}.")
        first, last = _FORMS[split]
        self.split = split
        self.rows = range(first, last)
        self.labels: NDArray[np.int64] = _labels()[first:last]
        self._fields: NDArray[np.int32] = _fine_fields()[first:last]

    def __len__(self) -> int:
        return len(self.labels)

    def field(self, index: int) -> NDArray[np.int32]:
        """Ink density 0 to 255 of one digit, shape (34, 34): 32 x 32 with a margin of one."""
        field: NDArray[np.int32] = self._fields[index]
        return field


def render_scene(
    rng: Rng,
    pool: DigitPool,
    size: int = 160,
    *,
    style: CameraStyle | None = None,
    background: Canvas | None = None,
) -> Scene:
    """Three to seven digits (fewer when there is no room), 22 to 44 px high at size 160, in proportion at others.

    Args:
        rng: from `stable_rng`; the same stream gives the same bytes on every machine.
        pool: where the digits come from.
        size: side of the picture, 160 to 320.
        style: the camera; its paper, inks and grain.
        background: the page to write on, from `render_background`; None makes one.

    Raises:
        BadInput: a size outside 160 to 320, or a background of another size.
    """
    if not 160 <= size <= 320:
        raise BadInput(f"size must be 160 to 320, got {size}.")
    style = style or CameraStyle()
    canvas = render_background(rng, style, size) if background is None else background.copy()
    if canvas.shape != (size, size, 3):
        raise BadInput(f"The background must have shape ({size}, {size}, 3), got {canvas.shape}.")
    boxes: list[tuple[int, int, int, int]] = []
    classes: list[int] = []
    for _ in range(rng.randint(3, 8)):
        index = int(rng.randint(len(pool)))
        cover = _write(rng, pool.field(index), size)
        corner = _free_corner(rng, cover.shape, boxes, size)
        if corner is None:
            continue
        x, y = corner
        _stain_with_ink(rng, canvas[y : y + cover.shape[0], x : x + cover.shape[1]], cover, style)
        boxes.append(_visible_box(cover, x, y))
        classes.append(int(pool.labels[index]))
    _specks(rng, canvas)
    canvas += noise_field(rng, size)[:, :, None] * style.grain // 32
    return Scene(np.clip(canvas, 0, 255).astype(np.uint8), Annotations.of(boxes, classes))


def _write(rng: Rng, field: NDArray[np.int32], size: int) -> NDArray[np.int64]:
    """One digit scaled, turned and inked: cover 0 to 256 per pixel, cropped to its ink."""
    height = int(rng.randint(22, 45)) * size // 160
    width = height * int(rng.randint(90, 111)) // 100
    cos, sin = turn(int(rng.randint(-10, 11)))
    side = (max(height, width) * 5) // 4 + 2
    offset = 2 * np.arange(side) - (side - 1)
    across, down = offset[None, :], offset[:, None]
    u = (across * cos + down * sin) * (_FINE * 128 // width) // TURN + _FINE * 128 + 128
    v = (down * cos - across * sin) * (_FINE * 128 // height) // TURN + _FINE * 128 + 128
    density = _sample(field, u, v)
    # The pen's edge: about one and a half pixels wide whatever the scale, and a stroke of varying thickness.
    threshold, sharpness = int(rng.randint(80, 125)), height * 256 // 12
    cover = np.clip((density - threshold) * sharpness // 256 + 128, 0, 256)
    rows, columns = np.flatnonzero(cover.any(axis=1)), np.flatnonzero(cover.any(axis=0))
    return cover[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _sample(field: NDArray[np.int32], u: NDArray[np.int64], v: NDArray[np.int64]) -> NDArray[np.int64]:
    """Bilinear look-up at `u`, `v` in 256ths of a cell; outside is 0."""
    last = (_FINE + 1) * 256 - 1
    u, v = np.clip(u, 0, last), np.clip(v, 0, last)
    column, right, row, low = u >> 8, u & 255, v >> 8, v & 255
    flat, at, stride = field.ravel(), row * (_FINE + 2) + column, _FINE + 2
    upper = flat[at] * (256 - right) + flat[at + 1] * right
    lower = flat[at + stride] * (256 - right) + flat[at + stride + 1] * right
    density: NDArray[np.int64] = (upper * (256 - low) + lower * low) >> 16
    return density


def _free_corner(
    rng: Rng, shape: tuple[int, ...], boxes: list[tuple[int, int, int, int]], size: int
) -> tuple[int, int] | None:
    """Top-left corner where a patch fits and hardly covers what is there; None when there is no room."""
    height, width = shape
    for _ in range(_PLACE_ATTEMPTS):
        x, y = int(rng.randint(0, size - width + 1)), int(rng.randint(0, size - height + 1))
        if all(_overlap((x, y, x + width, y + height), box) <= _MAX_OVERLAP for box in boxes):
            return x, y
    return None


def _overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> float:
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    smaller = min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]))
    return max(wide, 0) * max(high, 0) / smaller


def _stain_with_ink(rng: Rng, patch: Canvas, cover: NDArray[np.int64], style: CameraStyle) -> None:
    ink = np.array(style.inks[rng.randint(len(style.inks))]) + rng.randint(-16, 33, 3)
    strength = int(rng.randint(215, 257))
    patch += ((ink - patch) * (cover * strength // 256)[:, :, None] // 256).astype(np.int32)


def _visible_box(cover: NDArray[np.int64], x: int, y: int) -> tuple[int, int, int, int]:
    visible = cover > _INK_VISIBLE
    rows, columns = np.flatnonzero(visible.any(axis=1)), np.flatnonzero(visible.any(axis=0))
    return x + int(columns[0]), y + int(rows[0]), x + int(columns[-1]) + 1, y + int(rows[-1]) + 1


def _specks(rng: Rng, canvas: Canvas) -> None:
    """Dust: single darker or lighter pixels."""
    x, y = rng.randint(0, len(canvas), (2, 24))
    canvas[y, x] += rng.randint(-90, 40, (24, 1)).astype(np.int32)


@lru_cache(maxsize=1)
def _digits() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    bundle = load_digits()
    return bundle.images.astype(np.int64), bundle.target.astype(np.int64)


def _labels() -> NDArray[np.int64]:
    return _digits()[1]


@lru_cache(maxsize=1)
def _fine_fields() -> NDArray[np.int32]:
    """Every digit enlarged from 8 x 8 to 32 x 32 by cubic interpolation, density 0 to 255, margin of one."""
    images, _ = _digits()
    kernel = _cubic_kernel()
    fine = np.einsum("ip,npq,jq->nij", kernel, images, kernel, optimize=True)
    density = np.clip(fine * 255 // (16 * 1024 * 1024), 0, 255).astype(np.int32)
    return np.pad(density, ((0, 0), (1, 1), (1, 1)))


def _cubic_kernel() -> NDArray[np.int64]:
    """Catmull-Rom weights from 8 cells to 32, in 1024ths (exact: positions are eighths of a cell)."""
    weights = np.zeros((_FINE, 8), dtype=np.int64)
    for target in range(_FINE):
        cell, eighth = divmod(2 * target + 1 - 4, 8)
        t, full = eighth, 8
        taps = (
            -t * full * full + 2 * t * t * full - t**3,
            2 * full**3 - 5 * t * t * full + 3 * t**3,
            t * full * full + 4 * t * t * full - 3 * t**3,
            -t * t * full + t**3,
        )
        for tap, weight in enumerate(taps, start=cell - 1):
            if 0 <= tap < 8:
                weights[target, tap] += weight
    return weights
