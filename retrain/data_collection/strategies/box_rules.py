"""Rules that look at each box instead of at the frame's one confidence."""

from collections.abc import Mapping

from retrain.data_collection.checks import check_count, check_interval, check_per_class
from retrain.data_collection.frame import Frame, Strategy, Wish


def band(*, band_low: float = 0.4, band_high: float = 0.6, band_boxes: int = 1) -> Strategy:
    """Want every frame with at least `band_boxes` boxes that score from `band_low` to `band_high`, both included.

    Raises:
        ConfigError: not 0 <= low < high <= 1, or fewer than 1 box.
    """
    check_interval("band", band_low, band_high)
    check_count("band_boxes", band_boxes)
    enough = Wish(1.0, f"{band_boxes} or more boxes score in [{band_low:g}, {band_high:g}]")
    too_few = Wish(0.0, f"fewer than {band_boxes} boxes score in [{band_low:g}, {band_high:g}]")

    def wish(frame: Frame) -> Wish:
        inside = sum(band_low <= score <= band_high for score in frame.scores)
        return enough if inside >= band_boxes else too_few

    return wish


def per_class(*, class_thresholds: Mapping[int, float]) -> Strategy:
    """Want every frame with a box that scores below the threshold of its class.

    Args:
        class_thresholds: class index -> score in (0, 1]. Boxes of other classes want nothing.

    Raises:
        ConfigError: no class, a key that is no class index, or a threshold outside (0, 1].
    """
    check_per_class("class_thresholds", class_thresholds)
    rules = {
        label: (threshold, Wish(1.0, f"a box of class {label} scores < {threshold:g}"))
        for label, threshold in class_thresholds.items()
    }
    none_below = Wish(0.0, "no box below its class's threshold")

    def wish(frame: Frame) -> Wish:
        for label, score in zip(frame.classes, frame.scores, strict=True):
            if (rule := rules.get(label)) and score < rule[0]:
                return rule[1]
        return none_below

    return wish
