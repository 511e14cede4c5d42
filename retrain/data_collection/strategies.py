"""Which frames are worth keeping.

A strategy sees a frame's one confidence and its image digest, and answers with a decision that carries the
probability with which this frame is taken. `uncertainty` and `boundary` can say nothing about a frame in
which the model found no box: it has no confidence, is not taken, and the reason says so.
"""

import difflib
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from retrain.boxes import Detections
from retrain.errors import BadInput, ConfigError

CollectionStrategy = Literal["uncertainty", "random", "boundary", "all"]
FrameConfidence = Literal["minimum", "mean"]

SCORE_FLOOR = 0.25
"""Boxes below this are not shown to anyone, so they say nothing about how sure the model is of its answer."""
NO_BOXES = "no boxes"


@dataclass(frozen=True)
class Decision:
    """Taken or not, why, and with what probability a frame like this is taken."""

    taken: bool
    reason: str
    inclusion_probability: float


Strategy = Callable[[float | None, str], Decision]
"""(frame confidence or None, image digest) -> decision."""


def frame_confidence(
    detections: Detections, rule: FrameConfidence = "minimum", floor: float = SCORE_FLOOR
) -> float | None:
    """The one number for how sure the model is of a frame: the lowest or the mean score of its boxes.

    Args:
        floor: boxes scoring less are left out.

    Returns:
        None when no box reaches the floor. That is neither certainty nor doubt: an empty scene and a blind
        model look the same from here.
    """
    scores = detections.scores[detections.scores >= floor]
    if len(scores) == 0:
        return None
    return float(scores.min() if rule == "minimum" else scores.mean())


def uncertainty(confidence: float | None, threshold: float) -> Decision:
    """Take a frame whose confidence is below `threshold`."""
    if confidence is None:
        return Decision(False, NO_BOXES, 0.0)
    if confidence < threshold:
        return Decision(True, f"confidence {confidence:.3f} < {threshold:g}", 1.0)
    return Decision(False, f"confidence {confidence:.3f} >= {threshold:g}", 0.0)


def boundary(confidence: float | None, low: float, high: float) -> Decision:
    """Take a frame whose confidence lies strictly between `low` and `high`."""
    if confidence is None:
        return Decision(False, NO_BOXES, 0.0)
    if low < confidence < high:
        return Decision(True, f"{low:g} < confidence {confidence:.3f} < {high:g}", 1.0)
    return Decision(False, f"confidence {confidence:.3f} is outside ({low:g}, {high:g})", 0.0)


def random(digest: str, rate: float, seed: int) -> Decision:
    """Take a share of `rate` of all images, decided by the image itself.

    The same image gets the same answer in every process and after every restart.
    """
    drawn = hashlib.blake2b(f"{seed}:{digest}".encode(), digest_size=8).digest()
    taken = int.from_bytes(drawn) / 2**64 < rate
    return Decision(taken, f"{'in' if taken else 'not in'} the random share of {rate:g}", rate)


def make_strategy(
    name: str,
    *,
    confidence_threshold: float = 0.7,
    sample_rate: float = 0.1,
    boundary_low: float = 0.4,
    boundary_high: float = 0.6,
    seed: int = 0,
) -> Strategy:
    """The strategy called `name` with its parameters bound.

    Raises:
        ConfigError: unknown name, or a parameter out of range.
    """
    _check_ranges(confidence_threshold, sample_rate, boundary_low, boundary_high)
    strategies: dict[str, Strategy] = {
        "uncertainty": lambda confidence, _: uncertainty(confidence, confidence_threshold),
        "random": lambda _, digest: random(digest, sample_rate, seed),
        "boundary": lambda confidence, _: boundary(confidence, boundary_low, boundary_high),
        "all": lambda _confidence, _digest: Decision(True, "all frames", 1.0),
    }
    if name not in strategies:
        close = difflib.get_close_matches(name, strategies, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ConfigError(f"Unknown collection strategy {name!r}.{hint} Known: {', '.join(strategies)}.")
    return strategies[name]


def checked_confidence(confidence: float | None) -> float | None:
    """Raises: BadInput: not a number in [0, 1]."""
    if confidence is not None and not 0 <= confidence <= 1:
        raise BadInput(f"Confidence must be in [0, 1] or None for a frame without boxes, got {confidence}.")
    return None if confidence is None else float(confidence)


def _check_ranges(threshold: float, rate: float, low: float, high: float) -> None:
    for name, value in (("confidence_threshold", threshold), ("sample_rate", rate)):
        if not 0 <= value <= 1:
            raise ConfigError(f"{name} must be in [0, 1], got {value}.")
    if not 0 <= low < high <= 1:
        raise ConfigError(f"The boundary must be 0 <= low < high <= 1, got {low} and {high}.")
