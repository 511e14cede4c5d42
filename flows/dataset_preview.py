"""`retrain dataset augment-preview`: what a pipeline does to a version's own images."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import typer
import yaml
from PIL import Image, ImageOps

from retrain.boxes import Annotations
from retrain.config import load_config
from retrain.dataset.augmentation.preview import LabelledImage, preview
from retrain.dataset.manager import DatasetManager
from retrain.dataset.report.samples import choose_samples
from retrain.dataset.version import DatasetItem
from retrain.errors import BadInput, ConfigError

Steps = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Request:
    """What is to be drawn.

    Attributes:
        image_size: the longer side in pixels; lengths in the steps are of that size.
    """

    steps: Steps
    image_size: int


def read_request(file: Path | None, image_size: int | None, config: Path | None) -> Request:
    """The pipeline of a YAML file, or the configured one.

    Raises:
        BadInput: no YAML. Whether the steps can be used is for `preview` to say.
        ConfigError: no file was named and no pipeline is configured.
    """
    settings = load_config(config).config
    size = image_size or settings.training.image_size
    if file is not None:
        try:
            return Request(yaml.safe_load(file.read_text(encoding="utf-8")), size)
        except (UnicodeDecodeError, yaml.YAMLError) as e:
            raise BadInput(f"{file} is not YAML: {' '.join(str(e).split())}") from e
    if not settings.dataset.augmentation_pipeline:
        raise ConfigError(
            "dataset.augmentation_pipeline has no step; set it, or name a file with --pipeline."
        )
    return Request(settings.dataset.augmentation_pipeline, size)


def draw_preview(
    manager: DatasetManager, name: str, output: Path, request: Request, images: int, variants: int, seed: int
) -> None:
    """Draw training images, the same ones every time, and say where."""
    version = manager.get_version(name)
    chosen = choose_samples(version.in_split("train"), images)
    if not chosen:
        raise BadInput(f"Version {version.name} has no image in train, and only those are augmented.")
    pictures = [_in_size(item, data, request.image_size) for item, data in manager.images(version, chosen)]
    output.write_bytes(preview(pictures, request.steps, seed, variants, version.classes))
    typer.echo(f"written: {output}")


def _in_size(item: DatasetItem, data: bytes, image_size: int) -> LabelledImage:
    """As it is shown: boxes are of the image after its EXIF orientation is applied."""
    shown = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    width, height = (max(round(side * image_size / max(shown.size)), 1) for side in shown.size)
    factors = np.array([width / shown.width, height / shown.height] * 2)
    labels = item.annotations
    return np.asarray(shown.resize((width, height)), dtype=np.uint8), Annotations(
        labels.boxes * factors, labels.classes
    )
