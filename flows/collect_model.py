"""The model that `retrain collect` predicts with, by any of the names a person has for it."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retrain.boxes import Detections
from retrain.errors import NotFound
from retrain.storage.digests import file_digest
from tasks.resources import Resources

CHAMPION = "champion"
_FLOOR = 0.05
"""Lowest score kept, as of a router, so that samples collected here are like those of production."""
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to predict.

    Attributes:
        release: its digest; empty for a model that is no release.
        identity: tells it from any other model.
        predict: boxes in one RGB image of shape (height, width, 3).
    """

    classes: tuple[str, ...]
    release: str
    identity: str
    predict: Callable[[NDArray[np.uint8]], Detections]


def load_model(resources: Resources, name: str, device: str = "cpu") -> LoadedModel:
    """Load a model folder, a release by its digest, or `champion`, the release that serves now.

    Raises:
        NotFound: there is none of that name.
        BadInput: it is damaged or no model.
        Unavailable: the device is not there.
    """
    folder, release = find_model(resources, name)
    from retrain.detector import DESCRIPTION, WEIGHTS, Detector

    detector = Detector.load(folder, device)
    identity = release or f"{file_digest(folder / WEIGHTS)} {file_digest(folder / DESCRIPTION)}"
    return LoadedModel(
        detector.classes, release, identity, lambda image: detector.predict([image], confidence=_FLOOR)[0]
    )


def find_model(resources: Resources, name: str) -> tuple[Path, str]:
    """Its folder, and its release digest where it has one.

    Raises:
        NotFound: there is none of that name.
        BadInput: the stored release is damaged.
    """
    if name == CHAMPION:
        digest = resources.routes.get(resources.model).control
        return resources.releases.fetch(digest), digest
    folder = Path(name)
    if not folder.is_dir():
        if _DIGEST.fullmatch(name):
            return resources.releases.fetch(name), name
        raise NotFound(
            f"--model {name!r} is no folder. Give a model folder, the digest of a release, or {CHAMPION!r}."
        )
    digest = folder.absolute().name
    if _DIGEST.fullmatch(digest) and (folder / "release.json").is_file():
        return folder, digest
    return folder, ""
