"""A dataset version as columns of numbers, so that a million boxes are counted in a second."""

from dataclasses import dataclass
from itertools import chain

import numpy as np

from retrain.boxes import FloatArray, IntArray
from retrain.dataset.version import DatasetVersion

GRID = 20
"""Cells a side of the maps of box centres."""


@dataclass(frozen=True)
class Columns:
    """The version as columns: first those of n images, then those of m objects."""

    width: IntArray
    height: IntArray
    split: IntArray
    """Index into the version's splits, -1 for one it does not name."""
    objects: IntArray
    image: IntArray
    """The object's image, as an index."""
    label: IntArray
    boxes: FloatArray
    classes: int

    @classmethod
    def of(cls, version: DatasetVersion) -> "Columns":
        items = version.items
        n = len(items)
        splits = {split: index for index, split in enumerate(version.splits)}
        objects = np.fromiter((len(item.objects) for item in items), np.int64, n)
        m = int(objects.sum())
        every = [o for item in items for o in item.objects]
        return cls(
            width=np.fromiter((item.width for item in items), np.int64, n),
            height=np.fromiter((item.height for item in items), np.int64, n),
            split=np.fromiter((splits.get(item.split, -1) for item in items), np.int64, n),
            objects=objects,
            image=np.repeat(np.arange(n), objects),
            label=np.fromiter((o.class_index for o in every), np.int64, m),
            boxes=np.fromiter(chain.from_iterable(o.box for o in every), np.float64, 4 * m).reshape(m, 4),
            classes=len(version.classes),
        )

    @property
    def area(self) -> FloatArray:
        areas: FloatArray = self._size.prod(axis=1)
        return areas

    @property
    def relative_area(self) -> FloatArray:
        shares: FloatArray = self.area / (self.width * self.height)[self.image]
        return shares

    @property
    def aspect(self) -> FloatArray:
        size = self._size
        ratios: FloatArray = size[:, 0] / size[:, 1]
        return ratios

    @property
    def cell(self) -> IntArray:
        """Row-major index of the grid cell that holds the centre."""
        centre = (self.boxes[:, :2] + self.boxes[:, 2:]) / 2
        scale = np.stack([self.width, self.height], axis=1)[self.image]
        column, row = np.minimum((centre / scale * GRID).astype(np.int64), GRID - 1).T
        cells: IntArray = row * GRID + column
        return cells

    @property
    def _size(self) -> FloatArray:
        sizes: FloatArray = self.boxes[:, 2:] - self.boxes[:, :2]
        return sizes
