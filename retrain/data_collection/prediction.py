"""What a caller's model said about a frame, in any of the forms callers have it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from retrain.boxes import Detections
from retrain.errors import BadInput

Prediction = Detections | Mapping[str, Any] | Sequence[Mapping[str, Any]]


def read_prediction(
    prediction: Prediction | None, confidence: float | None, classes: Sequence[str] = ()
) -> Detections:
    """Detections from what the caller has: detections, one box as a mapping, or a list of such mappings.

    Args:
        confidence: the score of boxes that bring none of their own.
        classes: names in index order, for boxes whose class is a name.

    Raises:
        BadInput: a box cannot be read.
    """
    if prediction is None:
        return Detections.empty()
    if isinstance(prediction, Detections):
        return Detections.of(prediction.boxes, prediction.classes, prediction.scores)
    found = [prediction] if isinstance(prediction, Mapping) else list(prediction)
    try:
        if len(found) == 1 and "boxes" in found[0]:
            return Detections.from_json(found[0])
        return Detections.of(
            [list(box["bbox"]) for box in found],
            [_class_index(box["class"], classes) for box in found],
            [float(box.get("score", 1.0 if confidence is None else confidence)) for box in found],
        )
    except BadInput:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadInput(
            f"A prediction needs `class` and `bbox` for each box ({error!r}), got {prediction!r}."
        ) from error


def has_class_names(prediction: Any) -> bool:
    """Whether a prediction of plain mappings may name its classes, so that reading it needs their names."""
    if isinstance(prediction, Mapping):
        return isinstance(prediction.get("class"), str)
    return any(isinstance(box, Mapping) and isinstance(box.get("class"), str) for box in prediction or ())


def inside(detections: Detections, width: int, height: int, classes: int = 0) -> Detections:
    """Detections with their boxes clipped to the image.

    Args:
        classes: how many there are; 0 when nobody has said.

    Raises:
        BadInput: a box lies outside the image altogether, which means that image and prediction do not belong together,
            or a class is not known.
    """
    if not len(detections):
        return detections
    edges = np.array([width, height, width, height], dtype=np.float64)
    clipped = np.clip(detections.boxes, 0.0, edges)
    moved_out = (clipped[:, 2:] <= clipped[:, :2]).any(axis=1) & (
        (detections.boxes[:, :2] >= edges[:2]) | (detections.boxes[:, 2:] <= 0)
    ).any(axis=1)
    if moved_out.any():
        raise BadInput(
            f"The box {detections.boxes[moved_out][0].tolist()} is outside its image of {width} x {height} pixels."
        )
    if classes and (highest := int(detections.classes.max())) >= classes:
        raise BadInput(f"Class {highest} is unknown; there are {classes}, counted from 0.")
    return Detections(clipped, detections.classes, detections.scores)


def _class_index(label: Any, classes: Sequence[str]) -> int:
    if isinstance(label, int):
        return label
    if label not in classes:
        raise BadInput(
            f"Unknown class {label!r}. Known: {', '.join(classes) or 'none; pass classes= to the service'}."
        )
    return classes.index(label)
