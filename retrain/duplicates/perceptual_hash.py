"""What a picture looks like, in few bytes: two 64-bit hashes to search by, and a thumbnail to be sure with.

Hashes alone call two frames of one fixed camera the same when only something small changed, which is what matters
most. `first_same` therefore looks for the most different spot. It sees grey only: a colour that changes into another
one equally bright is not noticed.
"""

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from retrain.boxes import FloatArray
from retrain.errors import BadInput
from retrain.images import read_image

SIDE = 32
"""Side of a thumbnail in cells."""
ENTRY = np.dtype([("p", "<u8"), ("d", "<u8"), ("thumbnail", "u1", (SIDE, SIDE))])
"""One hash in an array or a file: 1040 bytes."""

# Rounded to whole numbers, so that every sum is exact in float64 and no machine can come to another bit.
_COSINES: FloatArray = np.round(
    4096 * np.cos(np.pi / (2 * SIDE) * np.outer(np.arange(8), 2 * np.arange(SIDE) + 1))
)
# A cell is 9 ninths wide and each of the 9 columns of a dHash 32 ninths: how many they share.
_NINTHS: FloatArray = np.eye(9).repeat(SIDE, axis=0).reshape(SIDE, 9, 9).sum(axis=1, dtype=np.float64)

_CELLS: FloatArray = np.arange(SIDE, dtype=np.float64) - (SIDE - 1) / 2
"""Centres of the cells, from the middle of the picture."""

_SATURATED = 250
_GAIN, _OFFSET = (0.8, 1.25), 12.0
"""A copy is at most this much darker or brighter. Beyond, it is another light, hence worth having."""
_EDGE, _CROPPED_EDGE = 50.0, 20.0
"""A contrast of this many grey levels doubles the difference allowed there: resampling moves edges within a cell."""
_EXPLAINED = 0.81
"""Scale and shift explain a fifth or more of the squared difference of most crops, hardly any of a changed scene's."""
_ALIGNED, _STEPS = 4, 6
"""Pictures aligned per search, nearest first, and steps for each."""
_SMALLEST_CROP, _BEYOND = 0.9, 0.35
"""Least share of each side that a crop keeps, and cells by which its window may seem to stick out."""


@dataclass(frozen=True)
class PerceptualHash:
    """A picture's thumbnail and the two hashes that follow from it, bit for bit the same on every machine.

    Attributes:
        p: pHash, 64 bits: which of the 8 x 8 lowest cosine frequencies are above their median (Zauner 2010).
        d: dHash, 64 bits: whether brightness rises from cell to cell, 8 rows of 9 (Krawetz 2013).
        thumbnail: 32 x 32 mean grey levels, row by row.
    """

    p: int
    d: int
    thumbnail: bytes

    @cached_property
    def mirrored(self) -> "PerceptualHash":
        """The hash of the picture flipped left to right."""
        return _hash(self.cells[:, ::-1])

    @property
    def cells(self) -> NDArray[np.uint8]:
        """The thumbnail, shape (32, 32)."""
        return np.frombuffer(self.thumbnail, np.uint8).reshape(SIDE, SIDE)

    def distance(self, other: "PerceptualHash") -> int:
        """Bits in which the two differ, pHash and dHash together: 0 to 128."""
        return (self.p ^ other.p).bit_count() + (self.d ^ other.d).bit_count()

    def to_bytes(self) -> bytes:
        """1040 bytes for a database column; an array of them has the type `ENTRY`."""
        return self.p.to_bytes(8, "little") + self.d.to_bytes(8, "little") + self.thumbnail

    @classmethod
    def from_bytes(cls, data: bytes) -> "PerceptualHash":
        """Inverse of `to_bytes`.

        Raises:
            BadInput: another length.
        """
        if len(data) != ENTRY.itemsize:
            raise BadInput(f"A stored hash has {ENTRY.itemsize} bytes, got {len(data)}.")
        return cls(int.from_bytes(data[:8], "little"), int.from_bytes(data[8:16], "little"), data[16:])


def perceptual_hash(image: bytes | NDArray[np.uint8]) -> PerceptualHash:
    """The hash of an encoded image, or of a grey picture that was decoded already.

    Args:
        image: the encoded bytes, or grey levels of shape (height, width). At least 64 a side are enough:
            `EncodedImage.thumbnail` gives the same hash as its bytes, for a tenth of the time.

    Raises:
        BadInput: bytes that `read_image` refuses (truncated, no image, too large) or gives no thumbnail of, or no grey
            picture.
    """
    grey = read_image(image).thumbnail if isinstance(image, bytes) else image
    if grey is None:
        raise BadInput("The image has levels of more than 8 bits, which are not compared.")
    if grey.ndim != 2 or grey.dtype != np.uint8 or grey.size == 0:
        raise BadInput(f"Give grey levels as uint8 of shape (height, width), got {grey.dtype} {grey.shape}.")
    # OpenCV averages areas only where both sides shrink, so a side below 32 is repeated first.
    for axis in (0, 1):
        if grey.shape[axis] < SIDE:
            grey = grey.repeat(-(-SIDE // grey.shape[axis]), axis)
    cells = cv2.resize(np.ascontiguousarray(grey), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return _hash(cells)


def first_same(
    stored: NDArray[np.uint8], new: NDArray[np.uint8], max_difference: float
) -> tuple[int, float] | None:
    """The first stored thumbnail that shows everything in `new`: itself, or the picture `new` was cropped from.

    Args:
        stored: shape (n, 32, 32), the likeliest first.
        new: shape (32, 32).
        max_difference: as measured by `largest_differences`, in grey levels.

    Returns:
        Its place in `stored` and the difference, or None. A picture is no crop of its own crop: the larger one
        may hold something at its border.
    """
    before, now = stored.astype(np.float64), new.astype(np.float64)
    differences = largest_differences(before, now)
    if not (differences <= max_difference).any():
        differences = _differences_as_crop(before, now)
    same = np.flatnonzero(differences <= max_difference)
    return (int(same[0]), float(differences[same[0]])) if same.size else None


def largest_differences(stored: FloatArray, new: FloatArray, edge: float = _EDGE) -> FloatArray:
    """How much `new` differs from each of `stored` in its most different spot.

    A spot is 2 x 2 cells. Overall brightness and contrast are matched first, within narrow limits, and a difference
    on an edge counts less.

    Args:
        stored: shape (n, 32, 32).
        new: shape (32, 32).
        edge: contrast in grey levels at which a difference counts half.

    Returns:
        Grey levels, shape (n,).
    """
    expected = _match_light(stored, new)
    off = new - expected
    spots = np.abs(off[:, :-1, :-1] + off[:, 1:, :-1] + off[:, :-1, 1:] + off[:, 1:, 1:]) / 4
    largest: FloatArray = (spots / (1 + _contrast(expected) / edge)).max(axis=(1, 2))
    return largest


def _hash(cells: NDArray[np.uint8]) -> PerceptualHash:
    grey = cells.astype(np.float64)
    frequencies = (_COSINES @ grey @ _COSINES.T).ravel()
    # The 32nd smallest of 64 separates the halves as their median does, and is exact.
    p = frequencies > np.partition(frequencies, 31)[31]
    columns = grey.reshape(8, 4, SIDE).sum(axis=1) @ _NINTHS
    d = columns[:, 1:] > columns[:, :-1]
    return PerceptualHash(_bits(p), _bits(d), cells.tobytes())


def _bits(flags: NDArray[np.bool_]) -> int:
    return int.from_bytes(np.packbits(flags).tobytes(), "big")


def _match_light(stored: FloatArray, new: FloatArray) -> FloatArray:
    """`stored` under the light of `new`: the gain and offset with least squared error where neither is saturated."""
    clear = (stored < _SATURATED) & (new < _SATURATED)
    count = np.maximum(clear.sum(axis=(1, 2), keepdims=True), 1)
    old_mean, new_mean = (
        (grey * clear).sum(axis=(1, 2), keepdims=True) / count
        for grey in (stored, np.broadcast_to(new, stored.shape))
    )
    old, now = (stored - old_mean) * clear, (new - new_mean) * clear
    # One grey level of noise is assumed in both, so that pictures without contrast keep a gain of 1.
    gain = ((old * now).sum(axis=(1, 2), keepdims=True) + count) / (
        (old * old).sum(axis=(1, 2), keepdims=True) + count
    )
    gain = np.clip(gain, *_GAIN)
    offset = np.clip(new_mean - gain * old_mean, -_OFFSET, _OFFSET)
    matched: FloatArray = np.clip(gain * stored + offset, 0, 255)
    return matched


def _contrast(pictures: FloatArray) -> FloatArray:
    """Highest minus lowest grey level around each spot (its 2 x 2 cells and one more on each side)."""
    around = np.pad(pictures, ((0, 0), (1, 1), (1, 1)), mode="edge")
    contrast: FloatArray = _window(np.maximum, around) - _window(np.minimum, around)
    return contrast


def _window(pick: np.ufunc, grid: FloatArray) -> FloatArray:
    """`pick` over every 4 x 4 window."""
    pairs = pick(grid[:, :-1], grid[:, 1:])
    rows = pick(pairs[:, :-2], pairs[:, 2:])
    pairs = pick(rows[:, :, :-1], rows[:, :, 1:])
    windows: FloatArray = pick(pairs[:, :, :-2], pairs[:, :, 2:])
    return windows


def _differences_as_crop(stored: FloatArray, new: FloatArray) -> FloatArray:
    """`largest_differences` after cutting from each of `stored` the window that `new` may be; infinite where none is.

    Inverse compositional alignment over scale, shift and light (Baker & Matthews 2004).
    """
    differences = np.full(len(stored), np.inf)
    basis = _crop_basis(new)
    # The small ridge keeps pictures without any contrast solvable.
    to_basis: FloatArray = np.linalg.inv(basis @ basis.T + 1e-3 * np.diag(np.ones(len(basis)))) @ basis
    likely = np.flatnonzero(_may_be_cropped(stored, basis, to_basis))[:_ALIGNED]
    if likely.size:
        windows, scale, shift = _align(stored[likely], to_basis)
        inside = np.all(SIDE / 2 * scale + np.abs(shift) <= SIDE / 2 + _BEYOND, axis=1)
        kept = inside & np.all(scale >= _SMALLEST_CROP, axis=1)
        differences[likely[kept]] = largest_differences(windows[kept], new, _CROPPED_EDGE)
    return differences


def _crop_basis(new: FloatArray) -> FloatArray:
    """How `new` changes, to first order, with x scale, x shift, y scale, y shift, gain and offset: shape (6, 1024)."""
    down, across = np.zeros_like(new), np.zeros_like(new)
    down[1:-1], across[:, 1:-1] = (new[2:] - new[:-2]) / 2, (new[:, 2:] - new[:, :-2]) / 2
    changes = (across * _CELLS, across, down * _CELLS[:, None], down, new, np.ones_like(new))
    return np.stack(changes).reshape(len(changes), -1)


def _may_be_cropped(stored: FloatArray, basis: FloatArray, to_basis: FloatArray) -> NDArray[np.bool_]:
    """Whether scale and shift explain much of the difference; cheap, so that fixed cameras cost no alignment."""
    pixels = stored.reshape(len(stored), -1)
    left = pixels - pixels @ to_basis.T @ basis
    light = basis[4:]
    left_by_light = pixels - pixels @ np.linalg.pinv(light) @ light
    may: NDArray[np.bool_] = (left * left).sum(axis=1) <= _EXPLAINED * (left_by_light * left_by_light).sum(
        axis=1
    )
    return may


def _align(stored: FloatArray, to_basis: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """The window of each of `stored` most like `new`, and its (x, y) scale and shift in cells, shapes (n, 2)."""
    scale, shift, windows = np.ones((len(stored), 2)), np.zeros((len(stored), 2)), stored
    for _ in range(_STEPS):
        step = windows.reshape(len(stored), -1) @ to_basis.T
        moves = step[:, :4] / np.clip(step[:, 4:5], 0.5, 2)
        shift = shift - scale * np.clip(moves[:, 1::2], -2, 2)
        scale = np.clip(scale / (1 + np.clip(moves[:, ::2], -0.1, 0.1)), 0.85, 1.05)
        across, down = (_interpolation(scale[:, axis], shift[:, axis]) for axis in (0, 1))
        windows = down @ stored @ across.transpose(0, 2, 1)
    return windows, scale, shift


def _interpolation(scale: FloatArray, shift: FloatArray) -> FloatArray:
    """Weights of cubic interpolation (Keys 1981) at the scaled and shifted cells, shape (n, 32, 32)."""
    at = np.clip(scale[:, None] * _CELLS + shift[:, None], _CELLS[0], _CELLS[-1])
    t = np.abs(at[:, :, None] - _CELLS)
    near, far = 1 + t * t * (1.5 * t - 2.5), 2 + t * (-4 + t * (2.5 - 0.5 * t))
    weights = np.where(t < 1, near, np.where(t < 2, far, 0.0))
    normalised: FloatArray = weights / weights.sum(axis=2, keepdims=True)
    return normalised
