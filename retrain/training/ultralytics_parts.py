"""Everything training takes from Ultralytics, in one place: these are internals, pinned below the next minor version.

Its switches (offline, quiet, no settings in HOME) are read while it is imported, so they are set first.
"""
# ruff: noqa: E402

from retrain import environment

environment.prepare()

from typing import Any

import PIL.Image

with environment.launcher_hidden():
    import ultralytics.utils  # noqa: F401

from ultralytics import __version__ as ULTRALYTICS_VERSION
from ultralytics.cfg import get_cfg
from ultralytics.data import augment, base, build
from ultralytics.data.augment import Compose
from ultralytics.data.dataset import YOLODataset
from ultralytics.data.utils import IMG_FORMATS, exif_size
from ultralytics.engine.trainer import BaseTrainer
from ultralytics.models.yolo.detect import DetectionValidator
from ultralytics.nn.tasks import DetectionModel, yaml_model_load
from ultralytics.utils import LOGGER, IterableSimpleNamespace, nms
from ultralytics.utils.patches import _image_open, imread
from ultralytics.utils.torch_utils import ModelEMA

# As in `retrain.detector`: a damaged image must stay the error that Pillow makes of it.
PIL.Image.open = _image_open

DRAWING_MODULES = (augment, base, build)
"""Where images are augmented and ordered with draws from `random`, the module's own name for the global generator."""


class ImageName(str):
    """Stands where Ultralytics expects the name of an image file, for an image that is not a file of its own."""

    __slots__ = ()

    def decoded(self, flags: int) -> Any:
        """What Ultralytics' `imread` would give for a file of these bytes."""
        raise NotImplementedError


def _read_image(filename: Any, flags: int) -> Any:
    return filename.decoded(flags) if isinstance(filename, ImageName) else imread(filename, flags)


# The one place where a dataset turns a name into pixels; all that follows (sizes, caches, buffers) stays theirs.
base.imread = _read_image

__all__ = [
    "DRAWING_MODULES",
    "IMG_FORMATS",
    "LOGGER",
    "ULTRALYTICS_VERSION",
    "BaseTrainer",
    "Compose",
    "DetectionModel",
    "DetectionValidator",
    "ImageName",
    "IterableSimpleNamespace",
    "ModelEMA",
    "YOLODataset",
    "exif_size",
    "get_cfg",
    "imread",
    "nms",
    "yaml_model_load",
]
