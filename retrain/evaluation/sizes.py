"""Widths and heights of boxes as they were stated.

`(x + w) - x` may differ from `w` in its last bit, and so may an overlap that meets a threshold exactly.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrain.boxes import FloatArray


def own_sizes(boxes: FloatArray) -> FloatArray:
    """Differences of the corners, shape (n, 2)."""
    sizes: FloatArray = boxes[:, 2:] - boxes[:, :2]
    return sizes


def are_own(boxes: FloatArray, sizes: FloatArray) -> bool:
    """Whether nothing else was stated."""
    return np.array_equal(sizes, own_sizes(boxes))


def may_be_sizes(boxes: FloatArray, sizes: FloatArray) -> NDArray[np.bool_]:
    """Which are finite, not negative, and as near to those of the corners as `x + w` is rounded, shape (n,)."""
    with np.errstate(invalid="ignore"):
        own = own_sizes(boxes)
        largest = np.maximum(np.maximum(np.abs(boxes[:, :2]), np.abs(boxes[:, 2:])), own)
        near = np.abs(sizes - own) <= np.finfo(np.float64).eps * largest
    return np.asarray((near & np.isfinite(own) & (sizes >= 0)).all(axis=1))


def sizes_to_json(boxes: FloatArray, sizes: FloatArray) -> dict[str, Any]:
    """What is stored beside `boxes`: nothing where the sizes are their own."""
    return {} if are_own(boxes, sizes) else {"sizes": sizes.tolist()}


def sizes_from_json(data: Mapping[str, Any], boxes: FloatArray) -> FloatArray:
    if "sizes" not in data:
        return own_sizes(boxes)
    return np.asarray(data["sizes"], dtype=np.float64).reshape(-1, 2)
