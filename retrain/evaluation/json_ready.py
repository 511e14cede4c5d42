"""Results as plain JSON values."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np


def json_ready(value: Any) -> Any:
    """Dataclasses become mappings, arrays lists, and NaN null, because JSON has none."""
    if is_dataclass(value):
        return {each.name: json_ready(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): json_ready(each) for key, each in value.items()}
    if isinstance(value, np.ndarray):
        if value.dtype.kind != "f" or np.isfinite(value).all():
            return value.tolist()
        return json_ready(value.tolist())
    if isinstance(value, np.generic):
        return json_ready(value.item())
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [json_ready(each) for each in value]
    return value


def spread(count: int, points: int) -> slice | np.ndarray[Any, np.dtype[np.int64]]:
    """Indices of at most so many of `count` points, with the first and the last."""
    if count <= points:
        return slice(None)
    return np.unique(np.linspace(0, count - 1, points).round().astype(np.int64))
