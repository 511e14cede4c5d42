import io
from collections.abc import Iterable, Iterator
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from PIL import Image

from retrain.dataset.version import DatasetItem, DatasetVersion, LabelledObject
from retrain.storage.digests import content_digest

SPLITS = {"train": 0.7, "val": 0.2, "test": 0.1}


def encoded_image(seed: int, kind: str = "PNG", size: tuple[int, int] = (24, 16)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def build_item(seed: int, **changes) -> DatasetItem:
    objects = (LabelledObject("a-0", seed % 3, (1.0, 2.5, 10.0, 12.25)),)
    item = DatasetItem(
        image=content_digest(encoded_image(seed)),
        pack="ab" * 32,
        format="png",
        width=24,
        height=16,
        objects=objects,
        split="train",
        group=f"recording-{seed}",
        source="seed",
        metadata={"camera": "north"},
    )
    return msgspec.structs.replace(item, **changes)


def build_version(items: Iterable[DatasetItem], **changes) -> DatasetVersion:
    ordered = tuple(sorted(items, key=lambda item: item.image))
    version = DatasetVersion(
        name="v1.0.0",
        description="Erste Fassung\u2028 with a line separator",
        classes=("zero", "one", "two"),
        parent=None,
        parent_digest=None,
        splits=SPLITS,
        salt="",
        items=ordered,
    )
    return replace(version, **changes)


class ImagesInMemory:
    """The images of `build_item`, and how often they were asked for."""

    def __init__(self, seeds: Iterable[int]) -> None:
        self._by_digest = {content_digest(data): data for data in map(encoded_image, seeds)}
        self.given = 0
        self.fail_after: int | None = None
        self.error: BaseException = OSError("never")

    def images(self, version, items) -> Iterator[tuple[DatasetItem, bytes]]:
        for item in items:
            if self.fail_after is not None and self.given >= self.fail_after:
                raise self.error
            self.given += 1
            yield item, self._by_digest[item.image]


@pytest.fixture
def make_image():
    return encoded_image


@pytest.fixture
def make_item():
    return build_item


@pytest.fixture
def make_version():
    return build_version


@pytest.fixture
def images_in_memory():
    return ImagesInMemory
