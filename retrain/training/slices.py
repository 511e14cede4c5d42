"""Scores of parts of the validation images: each class, and each slice that a selection names, such as a camera."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from retrain.boxes import FloatArray
from retrain.errors import BadInput

# First, because it sets Ultralytics' switches, which are read while that is imported.
from retrain.training import ultralytics_parts  # noqa: F401
from retrain.training.result import Regression, SliceScore

# isort: split
from ultralytics.utils.metrics import ap_per_class

Stats = Mapping[str, Sequence[np.ndarray[Any, Any]]]
"""One array per image in each list, as Ultralytics' validator collects them: `tp` (n, 10 IoU thresholds) of bool,
`conf` and `pred_cls` (n,), `target_cls` (m,)."""

_PREDICTED = ("tp", "conf", "pred_cls")


def slice_scores(
    stats: Stats, slices: Sequence[str | None], classes: Sequence[str], kind: str = "camera"
) -> dict[str, SliceScore]:
    """Score every slice and every class, by Ultralytics' own metric.

    Args:
        stats: before the lists are concatenated.
        slices: of each image, in the same order; None: in no slice.
        classes: names in index order.
        kind: what the slices are; goes before their names.

    Returns:
        `camera/<slice>` and `class/<name>` to scores, each kind sorted by name. What has no target is left out: its
        score would be no number.

    Raises:
        BadInput: not one slice per image.
    """
    images = len(stats["target_cls"])
    if len(slices) != images:
        raise BadInput(f"Every validation image needs a slice, got {images} images and {len(slices)} slices.")
    members: dict[str, list[int]] = {}
    for index, name in enumerate(slices):
        if name is not None:
            members.setdefault(name, []).append(index)
    scores = {
        f"{kind}/{name}": _score(ap, len(indices))
        for name, indices in sorted(members.items())
        if len(ap := _precisions(stats, indices)[0])
    }
    return scores | dict(sorted(_class_scores(stats, classes)))


def regressions(
    reference: Mapping[str, SliceScore], current: Mapping[str, SliceScore], limit: float
) -> list[Regression]:
    """Slices whose map50 is more than `limit` below the reference's, the greatest drop first.

    A slice that only one of the two has is not compared.

    Raises:
        BadInput: a limit outside [0, 1].
    """
    if not 0 <= limit <= 1:
        raise BadInput(f"The limit of a drop must be in [0, 1], got {limit:g}.")
    compared = [
        Regression(name, reference[name]["map50"], current[name]["map50"])
        for name in reference.keys() & current.keys()
    ]
    return sorted((one for one in compared if one.drop > limit), key=lambda one: (-one.drop, one.name))


def _class_scores(stats: Stats, classes: Sequence[str]) -> list[tuple[str, SliceScore]]:
    precisions, indices = _precisions(stats, range(len(stats["target_cls"])))
    shown = [int(index) for targets in stats["target_cls"] for index in np.unique(targets)]
    images = np.bincount(shown, minlength=len(classes)) if shown else np.zeros(len(classes), np.int64)
    return [
        (f"class/{classes[index]}", _score(ap[None], int(images[index])))
        for ap, index in zip(precisions, indices, strict=True)
    ]


def _precisions(stats: Stats, images: Sequence[int]) -> tuple[FloatArray, list[int]]:
    """Average precision of each class that has targets in these images, shape (classes, 10), and the classes."""
    targets = np.concatenate([np.zeros(0), *(stats["target_cls"][image] for image in images)])
    if not len(targets):
        return np.zeros((0, 10)), []
    predicted = {name: np.concatenate([stats[name][image] for image in images]) for name in _PREDICTED}
    found = ap_per_class(**predicted, target_cls=targets)
    return found[5], found[6].tolist()


def _score(ap: FloatArray, images: int) -> SliceScore:
    return {"map50": float(ap[:, 0].mean()), "map50_95": float(ap.mean()), "images": images}
