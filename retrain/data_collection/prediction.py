"""What a caller's model said about a frame, in any of the forms callers have it."""

from collections.abc import Mapping, Sequence
from typing import Any

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


def _class_index(label: Any, classes: Sequence[str]) -> int:
    if isinstance(label, int):
        return label
    if label not in classes:
        raise BadInput(
            f"Unknown class {label!r}. Known: {', '.join(classes) or 'none; pass classes= to the service'}."
        )
    return classes.index(label)
