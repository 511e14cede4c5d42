import io

import numpy as np
import pytest
from PIL import Image

from retrain.dataset.version import DatasetItem, DatasetVersion, LabelledObject
from retrain.images import read_image


class Album:
    """Items with the bytes they are of."""

    def __init__(self) -> None:
        self.data: dict[str, bytes] = {}

    def add(self, data: bytes, objects=(), **changes) -> DatasetItem:
        image = read_image(data)
        self.data[image.digest] = data
        values = {
            "image": image.digest, "pack": "ab" * 32, "format": image.format, "width": image.width,
            "height": image.height, "split": "train", "group": image.digest, "source": "seed",
            "objects": tuple(LabelledObject(f"o-{n}", index, box) for n, (index, box) in enumerate(objects)),
            "metadata": {"camera": "north"},
        }  # fmt: skip
        return DatasetItem(**{**values, **changes})

    def picture(self, number: int, objects=(), size=(120, 80), **changes) -> DatasetItem:
        pixels = np.full((size[1], size[0], 3), number % 256, np.uint8)
        pixels[number // 256 % size[1], 0] = 255 - number % 256
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        return self.add(buffer.getvalue(), objects, **changes)

    def samples(self, items):
        return [(item, self.data[item.image]) for item in items]


@pytest.fixture
def album():
    return Album()


@pytest.fixture
def build():
    def built(items, **changes) -> DatasetVersion:
        values = {
            "name": "v1.0.0", "description": "", "classes": ("cat", "dog"), "parent": None, "parent_digest": None,
            "splits": {"train": 0.7, "val": 0.2, "test": 0.1}, "salt": "",
            "items": tuple(sorted(items, key=lambda item: item.image)),
        }  # fmt: skip
        return DatasetVersion(**{**values, **changes})

    return built
