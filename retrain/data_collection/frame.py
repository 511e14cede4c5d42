"""What a collection strategy sees of one production frame, and what it answers.

Everything here is plain Python numbers: on the hot path a numpy scalar costs more than the rule that reads it.
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import msgspec

from retrain.boxes import Detections
from retrain.errors import BadInput

FrameConfidence = Literal["minimum", "mean"]

SCORE_FLOOR = 0.25
"""Boxes below this are not shown to anyone, so they say nothing about how sure the model is of its answer."""
NO_BOXES = "no boxes"


class Seen(NamedTuple):
    """One prediction: `boxes` as xyxy in pixels, with a class index and a score in [0, 1] for each."""

    boxes: Sequence[Sequence[float]]
    classes: Sequence[int]
    scores: Sequence[float]

    @classmethod
    def of(cls, detections: Detections) -> "Seen":
        return cls(detections.boxes.tolist(), detections.classes.tolist(), detections.scores.tolist())


class Frame(msgspec.Struct):
    """One frame as a strategy sees it.

    Attributes:
        confidence: in [0, 1]; None when the model saw nothing above the display floor.
        boxes, classes, scores: the prediction, as in `Seen`; may hold boxes below the display floor.
        captured_at: seconds since the epoch.
        width, height: of the image in pixels; 0 when nobody has looked.
        flipped: the prediction on the mirrored image, its boxes already `mirrored_back`.
        shadow: what another model saw in the same image.
    """

    confidence: float | None
    boxes: Sequence[Sequence[float]] = ()
    classes: Sequence[int] = ()
    scores: Sequence[float] = ()
    camera: str = "unknown"
    captured_at: float = 0.0
    width: float = 0
    height: float = 0
    flipped: Seen | None = None
    shadow: Seen | None = None

    @property
    def prediction(self) -> Seen:
        return Seen(self.boxes, self.classes, self.scores)


class Wish(NamedTuple):
    """With which probability a strategy wants a frame kept, and why.

    Reasons come from a small fixed set per strategy, so they can be counted.
    """

    probability: float
    reason: str


Strategy = Callable[[Frame], Wish]


def mirrored_back(boxes: Sequence[Sequence[float]], width: float) -> list[list[float]]:
    """Boxes found in the left-right mirrored image, in the pixels of the image itself.

    Args:
        boxes: xyxy in pixels of the mirrored image, n of them.
        width: of the image in pixels.
    """
    return [[width - x2, y1, width - x1, y2] for x1, y1, x2, y2 in boxes]


def scores_confidence(
    scores: Sequence[float], rule: FrameConfidence = "minimum", floor: float = SCORE_FLOOR
) -> float | None:
    """The one number for how sure the model is of a frame: the lowest or the mean score of its boxes.

    Args:
        floor: boxes scoring less are left out.

    Returns:
        None when no box reaches the floor. That is neither certainty nor doubt: an empty scene and a blind
        model look the same from here.
    """
    shown = [score for score in scores if score >= floor]
    if not shown:
        return None
    return min(shown) if rule == "minimum" else sum(shown) / len(shown)


def frame_confidence(
    detections: Detections, rule: FrameConfidence = "minimum", floor: float = SCORE_FLOOR
) -> float | None:
    """`scores_confidence` of detections."""
    return scores_confidence(detections.scores.tolist(), rule, floor)


def checked_confidence(confidence: float | None) -> float | None:
    """Raises: BadInput: not a number in [0, 1]."""
    if confidence is None:
        return None
    try:
        if 0 <= confidence <= 1:
            return float(confidence)
    except TypeError:
        pass
    raise BadInput(f"Confidence must be in [0, 1] or None for a frame without boxes, got {confidence!r}.")
