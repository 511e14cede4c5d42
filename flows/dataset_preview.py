"""`retrain dataset augment-preview`: what a pipeline does to a version's own images."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import typer
import yaml
from PIL import Image, ImageOps

from flows.dataset_place import open_resources
from retrain.dataset.augmentation.preview import LabelledImage, preview
from retrain.dataset.manager import DatasetManager
from retrain.dataset.report.samples import choose_samples
from retrain.dataset.version import DatasetItem
from retrain.errors import BadInput, ConfigError

Steps = Sequence[Mapping[str, Any]]


def read_steps(file: Path | None, config: Path | None) -> Steps:
    """The pipeline of a YAML file, or the configured one.

    Raises:
        BadInput: no YAML. Whether the steps can be used is for `preview` to say.
        ConfigError: no file was named and no pipeline is configured.
    """
    if file is None:
        configured: Steps = list(open_resources(config).config.dataset.augmentation_pipeline)
        if not configured:
            raise ConfigError(
                "dataset.augmentation_pipeline has no step; set it, or name a file with --pipeline."
            )
        return configured
    try:
        steps: Steps = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, yaml.YAMLError) as e:
        raise BadInput(f"{file} is not YAML: {' '.join(str(e).split())}") from e
    return steps


def draw_preview(
    manager: DatasetManager, name: str, output: Path, steps: Steps, images: int, variants: int, seed: int
) -> None:
    """Draw training images, the same ones every time, and say where."""
    version = manager.get_version(name)
    chosen = choose_samples(version.in_split("train"), images)
    if not chosen:
        raise BadInput(f"Version {version.name} has no image in train, and only those are augmented.")
    pictures = [_decoded(item, data) for item, data in manager.images(version, chosen)]
    output.write_bytes(preview(pictures, steps, seed, variants, version.classes))
    typer.echo(f"written: {output}")


def _decoded(item: DatasetItem, data: bytes) -> LabelledImage:
    """As it is shown: boxes are of the image after its EXIF orientation is applied."""
    shown = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    return np.asarray(shown.convert("RGB"), dtype=np.uint8), item.annotations
