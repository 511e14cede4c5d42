"""Which older training images are shown again beside the new ones, so that a challenger does not forget them."""

import difflib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from retrain.dataset.measuring.coverage import camera_of
from retrain.dataset.version import DatasetItem
from retrain.errors import ConfigError

BACKGROUND = "no object"
"""Stands for a class where images without objects are meant."""


@dataclass(frozen=True)
class ReplayRatios:
    """What share of the older images is shown again, each in [0, 1].

    A ratio of a class or camera takes the place of `fraction`, also a lower one. Where a class and its camera both
    have one, the greater holds.

    Attributes:
        fraction: of every class at every camera that has no ratio of its own.
        by_class: class name, or `BACKGROUND`, to ratio.
        by_camera: camera name to ratio.
    """

    fraction: float
    by_class: Mapping[str, float] = field(default_factory=dict)
    by_camera: Mapping[str, float] = field(default_factory=dict)

    def of(self, label: str, camera: str | None) -> float:
        """The ratio of a class at a camera; None: images that name no camera."""
        own = [self.by_class.get(label), None if camera is None else self.by_camera.get(camera)]
        return max((ratio for ratio in own if ratio is not None), default=self.fraction)

    def check(self, classes: Sequence[str]) -> None:
        """Raise `ConfigError` for a ratio outside [0, 1] or a class that is not among `classes`."""
        given = [
            ("replay_fraction", self.fraction),
            *((f"replay_by_class.{name}", ratio) for name, ratio in self.by_class.items()),
            *((f"replay_by_camera.{name}", ratio) for name, ratio in self.by_camera.items()),
        ]
        if wrong := [f"{name}={ratio:g}" for name, ratio in given if not 0 <= ratio <= 1]:
            raise ConfigError(f"Replay ratios must be in [0, 1], got {', '.join(wrong)}.")
        known = [*classes, BACKGROUND]
        if unknown := [name for name in self.by_class if name not in known]:
            near = difflib.get_close_matches(unknown[0], known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ConfigError(
                f"Unknown class in replay_by_class {unknown[0]!r}.{hint} Known: {', '.join(known)}."
            )


@dataclass(frozen=True)
class Stratum:
    """The older images that show one class at one camera.

    Attributes:
        label: class name, or `BACKGROUND`.
        camera: None: the images name no camera.
        old: how many there are.
        replayed: how many of them are shown again, whichever of their classes asked for it.
    """

    label: str
    camera: str | None
    old: int
    replayed: int


@dataclass(frozen=True)
class Replay:
    """New and replayed images, each sorted by image, and how much of every stratum is replayed, rarest first."""

    new: tuple[DatasetItem, ...]
    replayed: tuple[DatasetItem, ...]
    strata: tuple[Stratum, ...]


def choose_replay(
    items: Collection[DatasetItem], known: Collection[str], classes: Sequence[str], ratios: ReplayRatios
) -> Replay:
    """Tell new images from older ones, and choose which of the older ones are replayed.

    An image belongs to a stratum for each class it shows, at its camera. Of a stratum of n images with ratio r the
    first ceil(r * n) by digest are replayed: coordinated bottom-k sampling (Cohen, Kaplan 2007), where digests are the
    random numbers that all strata share. It follows that

    - a stratum keeps at least ceil(r * n) images, so none is lost while r > 0;
    - a greater ratio only adds images, and what other strata hold takes no image away from this one's share;
    - at most the sum of all ceil(r * n) are replayed. Where an image shows one class that is what is replayed. With
      several, strata mostly ask for the same images, those of low digest: with one ratio r for all, no more than
      r * (all older images) + the sum over strata of 1 + sqrt(n) / 4 are expected, and far fewer in practice.

    A greedy cover that begins with the rarest stratum would need slightly fewer, but could not promise the second.

    Args:
        items: training images of a version.
        known: digests of the images that count as older.
        classes: of the version, in index order.

    Raises:
        ConfigError: as `ReplayRatios.check`.
    """
    ratios.check(classes)
    ordered = sorted(items, key=lambda item: item.image)
    old = [item for item in ordered if item.image in known]
    strata = _strata(old, classes)
    replayed: set[str] = set()
    for (label, camera), images in strata.items():
        replayed.update(images[: math.ceil(ratios.of(label, camera) * len(images))])
    return Replay(
        new=tuple(item for item in ordered if item.image not in known),
        replayed=tuple(item for item in old if item.image in replayed),
        strata=tuple(
            Stratum(label, camera, len(images), sum(image in replayed for image in images))
            for (label, camera), images in sorted(strata.items(), key=_rarest_first)
        ),
    )


def _strata(old: Sequence[DatasetItem], classes: Sequence[str]) -> dict[tuple[str, str | None], list[str]]:
    """Digests of the images of each class at each camera, in the order given."""
    strata: dict[tuple[str, str | None], list[str]] = {}
    for item in old:
        camera = camera_of(item.metadata)
        for label in {classes[o.class_index] for o in item.objects} or {BACKGROUND}:
            strata.setdefault((label, camera), []).append(item.image)
    return strata


def _rarest_first(stratum: tuple[tuple[str, str | None], list[str]]) -> tuple[int, str, str]:
    (label, camera), images = stratum
    return len(images), label, camera or ""
