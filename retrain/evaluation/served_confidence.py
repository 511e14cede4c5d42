"""The confidence from which a model's boxes are served: one for all classes, or one for each."""

from collections.abc import Mapping, Sequence
from numbers import Real

import numpy as np

from retrain.boxes import FloatArray
from retrain.errors import BadInput

ServedConfidence = float | Mapping[str, float]
"""In [0, 1]: for all classes, or by the name of each."""


def limits(confidence: ServedConfidence, classes: Sequence[str]) -> FloatArray:
    """Of each class, shape (classes,); further ones, which a model knows and the data does not, are left out.

    Raises:
        BadInput: one is outside [0, 1], or a class has none.
    """
    each = confidence if isinstance(confidence, Mapping) else dict.fromkeys(classes, confidence)
    if missing := [name for name in classes if name not in each]:
        raise BadInput(f"There is no served confidence for {', '.join(map(repr, missing))}.")
    values = [each[name] for name in classes]
    if not all(isinstance(value, Real) and 0 <= value <= 1 for value in values):
        raise BadInput(f"A served confidence must be in [0, 1], got {confidence!r:.200}.")
    return np.array(values, dtype=np.float64)


def plain(confidence: ServedConfidence) -> ServedConfidence:
    """One number where all classes have the same."""
    if isinstance(confidence, Mapping) and len(values := set(confidence.values())) == 1:
        return values.pop()
    return confidence


def lowest(confidence: ServedConfidence) -> float:
    """From which boxes of any class are served."""
    return min(confidence.values()) if isinstance(confidence, Mapping) else confidence


def shown_confidence(confidence: ServedConfidence) -> str:
    """As people read it."""
    if not isinstance(confidence, Mapping):
        return f"{confidence:g}"
    return f"{min(confidence.values()):.3g} to {max(confidence.values()):.3g} by class"
