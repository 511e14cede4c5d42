"""What Ultralytics' transforms really do, read from the transforms themselves."""

from collections.abc import Iterator
from typing import Any

from retrain.errors import ConfigError
from retrain.training.ultralytics_parts import Compose

OPEN_ONLY = ("mosaic", "mixup")
"""Switched off in the last epochs."""

_GEOMETRY = ("degrees", "translate", "scale", "shear", "perspective")
# Neither changes what is seen: one only arranges the result.
_HARMLESS = {"Compose", "Format"}
# Not among our settings; without a probability, or without their library, they do nothing.
_UNASKED = {"CutMix", "CopyPaste"}


def all_transforms(composed: Compose) -> Iterator[Any]:
    """Each transform, those within others too."""
    for transform in composed.transforms:
        yield transform
        if isinstance(transform, Compose):
            yield from all_transforms(transform)


def strengths(composed: Compose) -> dict[str, float]:
    """By the names of `augment`, whatever settings the transforms were made of.

    Raises:
        ConfigError: there is a transform that nobody asked for, or one twice with different strengths.
    """
    found: dict[str, float] = {}
    for transform in all_transforms(composed):
        for name, value in _of(transform).items():
            if found.setdefault(name, value) != value:
                raise ConfigError(f"Ultralytics made two transforms with {name}: {found[name]} and {value}.")
    return found


def _of(transform: Any) -> dict[str, float]:
    kind = type(transform).__name__
    if kind in {"Mosaic", "MixUp"}:
        return {kind.lower(): float(transform.p)}
    if kind == "RandomPerspective":
        return {name: float(getattr(transform, name)) for name in _GEOMETRY}
    if kind == "RandomHSV":
        gains = {"hsv_h": transform.hgain, "hsv_s": transform.sgain, "hsv_v": transform.vgain}
        return {name: float(value) for name, value in gains.items()}
    if kind == "RandomFlip":
        return {"fliplr" if transform.direction == "horizontal" else "flipud": float(transform.p)}
    if kind == "Albumentations":
        # Of a library that changes images by chance as soon as it is installed.
        active = transform.transform is not None and float(transform.p) > 0
    else:
        active = kind not in _HARMLESS and not (kind in _UNASKED and float(transform.p) == 0)
    if active:
        raise ConfigError(f"Ultralytics augments with {kind}, which was not asked for.")
    return {}
