"""Class balance: frames with classes that are rare among those kept so far are kept more often."""

from collections import Counter
from collections.abc import Mapping

from retrain.data_collection.checks import check_fraction, check_per_class
from retrain.data_collection.frame import SCORE_FLOOR, Frame, Strategy, Wish
from retrain.data_collection.locks import ForkSafeLock
from retrain.errors import BadInput, ConfigError


class ClassCounts:
    """In how many kept frames each class was seen. Safe for threads; each process counts for itself."""

    def __init__(self, score_floor: float = SCORE_FLOOR) -> None:
        """Begin with none.

        Args:
            score_floor: a box that scores less does not show its class.
        """
        self._frames, self._by_class, self._floor = 0, Counter[int](), score_floor
        self._lock = ForkSafeLock()

    def go_on_from(self, frames: int, by_class: Mapping[int, int]) -> None:
        """Count in the frames that were kept before this process began.

        Args:
            frames: stored samples.
            by_class: class index -> stored samples that show it.

        Raises:
            BadInput: a class in more frames than there are, or a negative count.
        """
        for label, count in by_class.items():
            if not 0 <= count <= frames:
                raise BadInput(f"Class {label} cannot be in {count} of {frames} kept frames.")
        with self._lock:
            self._frames += frames
            self._by_class.update(by_class)

    def classes_in(self, frame: Frame) -> set[int]:
        """The classes a frame shows."""
        return {
            label for label, score in zip(frame.classes, frame.scores, strict=True) if score >= self._floor
        }

    def kept(self, frame: Frame) -> None:
        """Count a frame that was stored, whichever strategy wanted it."""
        shown = self.classes_in(frame)
        with self._lock:
            self._frames += 1
            self._by_class.update(shown)

    def share(self, label: int) -> float:
        """Part of the kept frames that show the class, in [0, 1]; 0 before the first one."""
        with self._lock:
            return self._by_class[label] / self._frames if self._frames else 0.0


def rare_class(*, targets: Mapping[int, float], counts: ClassCounts, sample_rate: float = 0.1) -> Strategy:
    """Want every frame with a class below its target share, and a share `sample_rate` of the others.

    Once a class has reached its target, the share of kept frames showing it stays there, as long as the stream
    has enough of them.

    Args:
        targets: class index -> part of the kept frames that should show it, in (0, 1]. A frame may show several
            classes, so the targets need not add up to 1.
        counts: told of every kept frame by whoever stores it.

    Raises:
        ConfigError: a target outside (0, 1], or counts of another kind.
    """
    check_per_class("targets", targets)
    check_fraction("sample_rate", sample_rate)
    if not isinstance(counts, ClassCounts):
        raise ConfigError(f"counts must be a ClassCounts that is told of every kept frame, got {counts!r}.")
    rules = [
        (label, target, Wish(1.0, f"class {label} is below its target of {target:g}"))
        for label, target in targets.items()
    ]
    others = Wish(sample_rate, "no class below its target")

    def wish(frame: Frame) -> Wish:
        shown = counts.classes_in(frame)
        for label, target, wanted in rules:
            if label in shown and counts.share(label) < target:
                return wanted
        return others

    return wish
