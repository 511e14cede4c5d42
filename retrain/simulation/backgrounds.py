"""What a simulated camera looks at before anything is written on it: paper, light, stains, ruled lines.

Everything is integer arithmetic, so the same random stream gives the same bytes on every machine.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from retrain.simulation.stable_random import Rng

Colour = tuple[int, int, int]
Canvas = NDArray[np.int32]
"""RGB, shape (size, size, 3), nominally 0 to 255 but not clipped yet."""

TURN = 16384
"""Fixed-point one of `turn`."""
_PATCHES = 8


@dataclass(frozen=True)
class CameraStyle:
    """How one camera's pictures look.

    Attributes:
        paper: mean background colour.
        inks: the pens in use; each is far darker than `paper`.
        pattern: print on the paper.
        shading: peak-to-peak brightness change across the picture, in grey levels.
        grain: standard deviation of the sensor noise, in grey levels.
        strokes: most stray lines in one picture.
    """

    paper: Colour = (232, 228, 216)
    inks: tuple[Colour, ...] = ((28, 32, 48), (24, 52, 140), (150, 28, 32), (20, 92, 56))
    pattern: Literal["plain", "ruled", "grid"] = "plain"
    shading: int = 40
    grain: int = 5
    strokes: int = 3


@lru_cache(maxsize=512)
def turn(degrees: int) -> tuple[int, int]:
    """Cosine and sine in fixed point; rounding hides the last bits in which maths libraries differ."""
    radians = math.radians(degrees)
    return round(math.cos(radians) * TURN), round(math.sin(radians) * TURN)


def render_background(rng: Rng, style: CameraStyle, size: int) -> Canvas:
    """An empty page as this camera sees it: uneven light, blotches, printed lines, stains, stray strokes."""
    light = _shading(rng, style.shading, size) + _blotches(rng, 14, size)
    if style.pattern != "plain":
        light -= _printed_lines(rng, style.pattern == "grid", size)
    for _ in range(rng.randint(0, 3)):
        light -= _stain(rng, size)
    paper = np.array(style.paper, dtype=np.int32) + rng.randint(-8, 9, 3).astype(np.int32)
    canvas = paper + light[:, :, None]
    for _ in range(rng.randint(0, style.strokes + 1)):
        _draw_stroke(rng, canvas, style)
    return canvas


@lru_cache(maxsize=8)
def _axes(size: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Column and row offsets from the centre, in half pixels."""
    offset = 2 * np.arange(size, dtype=np.int32) - (size - 1)
    return offset[None, :], offset[:, None]


def _shading(rng: Rng, depth: int, size: int) -> NDArray[np.int32]:
    x, y = _axes(size)
    cos, sin = turn(int(rng.randint(0, 360)))
    slope = int(rng.randint(depth // 4, depth + 1))
    return ((x * cos + y * sin) // size * slope) // (2 * TURN)


def _blotches(rng: Rng, depth: int, size: int) -> NDArray[np.int32]:
    """Smooth unevenness: a coarse random grid, interpolated."""
    coarse = rng.randint(-depth, depth + 1, (_PATCHES, _PATCHES)).astype(np.int32)
    weights = _interpolation(size)
    return (weights @ coarse @ weights.T) // (size * size)


@lru_cache(maxsize=8)
def _interpolation(size: int) -> NDArray[np.int32]:
    """Linear weights from `_PATCHES` knots to `size` pixels; each row sums to `size`."""
    position = np.arange(size) * (_PATCHES - 1)
    knot, rest = np.minimum(position // size, _PATCHES - 2), position % size
    weights = np.zeros((size, _PATCHES), dtype=np.int32)
    weights[np.arange(size), knot] = size - rest
    weights[np.arange(size), knot + 1] += rest
    return weights


def _printed_lines(rng: Rng, with_columns: bool, size: int) -> NDArray[np.int32]:
    pitch, depth = int(rng.randint(16, 29)) * size // 160, int(rng.randint(12, 36))
    rows = (np.arange(size) + int(rng.randint(0, pitch))) % pitch == 0
    lines = np.repeat(rows[:, None], size, axis=1)
    if with_columns:
        lines |= ((np.arange(size) + int(rng.randint(0, pitch))) % pitch == 0)[None, :]
    return lines.astype(np.int32) * depth


def _stain(rng: Rng, size: int) -> NDArray[np.int32]:
    """A soft-edged ellipse, at most 40 levels deep."""
    x, y = _axes(size)
    at_x, at_y = rng.randint(-size, size + 1, 2)
    wide, high = rng.randint(size // 8, size // 2 + 1, 2)
    inside = 256 - ((x - at_x) ** 2 * 256) // (wide * wide) - ((y - at_y) ** 2 * 256) // (high * high)
    depth: NDArray[np.int32] = np.clip(inside, 0, 96).astype(np.int32) * int(rng.randint(10, 41)) // 96
    return depth


def _draw_stroke(rng: Rng, canvas: Canvas, style: CameraStyle) -> None:
    """A faint straight line in one of the inks: clutter that a detector must not take for a 1."""
    size = len(canvas)
    x, y = _axes(size)
    at_x, at_y = rng.randint(-size, size + 1, 2)
    cos, sin = turn(int(rng.randint(0, 180)))
    across = np.abs((y - at_y) * cos - (x - at_x) * sin) // 64
    along = np.abs((x - at_x) * cos + (y - at_y) * sin) // TURN
    # 512 is one pixel in this scale (half pixels times TURN / 64).
    half_width = int(rng.randint(250, 500)) * size // 160
    cover = np.clip(half_width - across, 0, 512) * (along < int(rng.randint(size // 4, 2 * size)))
    ink = np.array(style.inks[rng.randint(len(style.inks))], dtype=np.int32)
    strength = int(rng.randint(64, 140))
    canvas += (ink - canvas) * (cover * strength // 512)[:, :, None] // 256
