"""Frames in which the model may have missed something, which its own scores cannot say."""

from collections.abc import Callable, Collection, Sequence

from retrain.data_collection.checks import check_fraction
from retrain.data_collection.frame import SCORE_FLOOR, Frame, Seen, Strategy, Wish
from retrain.data_collection.strategies.matching import matched

NO_FLIPPED = "no mirrored prediction given"
NO_SHADOW = "no shadow prediction given"


def no_detections(*, no_detections_rate: float = 1.0) -> Strategy:
    """Want a share of the frames in which the model saw nothing above the display floor.

    Raises:
        ConfigError: the rate is outside [0, 1].
    """
    check_fraction("no_detections_rate", no_detections_rate)
    empty = Wish(no_detections_rate, "the model saw nothing")
    other = Wish(0.0, "the model saw something")

    def wish(frame: Frame) -> Wish:
        return empty if frame.confidence is None else other

    return wish


def flip_disagreement(*, match_iou: float = 0.5, score_floor: float = SCORE_FLOOR) -> Strategy:
    """Want frames whose mirrored image the model reads differently (see `disagree`).

    Raises:
        ConfigError: a setting out of range.
    """
    return _disagreement(
        lambda frame: frame.flipped, "the mirrored prediction", NO_FLIPPED, match_iou, score_floor
    )


def shadow_disagreement(*, match_iou: float = 0.5, score_floor: float = SCORE_FLOOR) -> Strategy:
    """Want frames that another model reads differently (see `disagree`).

    Raises:
        ConfigError: a setting out of range.
    """
    return _disagreement(lambda frame: frame.shadow, "the shadow model", NO_SHADOW, match_iou, score_floor)


def disagree(a: Seen, b: Seen, iou: float = 0.5, floor: float = SCORE_FLOOR) -> bool:
    """Whether either prediction shows a box that the other does not have.

    A box is shown when it scores at least `floor`; any box of its class with an IoU of at least `iou`
    confirms it, also one below the floor: a score that wavers about the floor is no disagreement.
    """
    partners = matched(a, b, iou, floor)
    return _shows_more(a, partners.keys(), floor) or _shows_more(b, set(partners.values()), floor)


def _shows_more(seen: Seen, confirmed: Collection[int], floor: float) -> bool:
    return any(
        score >= floor and index not in confirmed and _has_area(seen.boxes[index])
        for index, score in enumerate(seen.scores)
    )


def _has_area(box: Sequence[float]) -> bool:
    return box[0] < box[2] and box[1] < box[3]


def _disagreement(
    other: Callable[[Frame], Seen | None], whose: str, absent: str, match_iou: float, score_floor: float
) -> Strategy:
    check_fraction("match_iou", match_iou, zero=False)
    check_fraction("score_floor", score_floor)
    wanted, agreed = Wish(1.0, f"{whose} disagrees"), Wish(0.0, f"{whose} agrees")
    unknown = Wish(0.0, absent)

    def wish(frame: Frame) -> Wish:
        if (seen := other(frame)) is None:
            return unknown
        return wanted if disagree(frame.prediction, seen, match_iou, score_floor) else agreed

    return wish
