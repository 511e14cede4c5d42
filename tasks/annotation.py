"""Labels a cycle's samples: the champion where it is sure, a reviewer where it is not."""

import io
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from prefect import get_run_logger, task

from retrain.annotation.pipeline import AutoLabeler
from retrain.annotation.review import annotate_batch
from retrain.data_collection.sample import DataSample
from retrain.data_collection.store.samples import SampleStore
from retrain.data_collection.triggers.crossings import cycle_samples
from retrain.errors import BadInput, NotFound
from tasks.cycle import CycleWork
from tasks.retrying import RETRYING

T = TypeVar("T")
_CHUNK = 64
"""Images in memory at once."""


@task(name="annotate", timeout_seconds=24 * 3600, **RETRYING)
def annotate(work: CycleWork, champion: str) -> Mapping[str, Any]:
    """Labels for every sample of the cycle that got one, and why the others did not."""

    def label() -> dict[str, Any]:
        resources, settings = work.resources, work.resources.config.annotation
        labeler = AutoLabeler(
            model_path=resources.releases.fetch(champion),
            confidence_threshold=settings.auto_label_threshold,
            require_review=settings.require_review,
        )
        done: dict[str, Any] = {"auto": [], "human": [], "left_out": {}}
        for samples in batched(cycle_samples(resources.state, work.cycle.id), _CHUNK):
            images, unusable = _open_images(resources.samples, samples)
            report = annotate_batch(
                work.cycle.id,
                images,
                labeler,
                resources.annotations,
                annotator=champion,
                clock=time.time,
                reviewer=resources.reviewer,
                auto_accept=settings.auto_label,
                guard=work.cycle.check,
            )
            done["auto"] += report.auto
            done["human"] += report.human
            done["left_out"] |= {**report.left_out, **unusable}
        return done

    return work.cycle.stage("annotate", {"champion": champion}, label)


def _open_images(
    store: SampleStore, samples: Sequence[DataSample]
) -> tuple[list[tuple[DataSample, NDArray[np.uint8]]], dict[str, str]]:
    """Samples with their pixels, and why others have none: one spoilt image must not stop an unattended loop."""
    images: list[tuple[DataSample, NDArray[np.uint8]]] = []
    unusable: dict[str, str] = {}
    for sample in samples:
        try:
            images.append((sample, decode(store.image(sample))))
        except NotFound:
            unusable[sample.id] = "its stored image is gone"
        except BadInput:
            unusable[sample.id] = "its stored image is damaged"
    for name, reason in unusable.items():
        get_run_logger().warning("sample %s is left out: %s", name, reason)
    return images, unusable


def batched(values: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Consecutive slices of at most `size`."""
    for start in range(0, len(values), size):
        yield values[start : start + size]


def decode(data: bytes) -> NDArray[np.uint8]:
    """RGB pixels, shape (height, width, 3), turned as the EXIF orientation says, as sizes and boxes are."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
