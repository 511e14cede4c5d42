"""What is in a dataset version, in numbers: classes, sizes, positions, label quality and coverage."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from retrain.boxes import FloatArray, IntArray
from retrain.dataset.measuring.columns import GRID, Columns
from retrain.dataset.measuring.coverage import Coverage, coverage_of
from retrain.dataset.version import DatasetItem, DatasetVersion

SMALL_BELOW, LARGE_FROM = 32.0**2, 96.0**2
"""Square pixels, as COCO's evaluation cuts them (Lin et al. 2014)."""
TINY_BELOW = 16.0**2
"""Square pixels; smaller objects are "tiny" in AI-TOD (Wang et al. 2021)."""
RELATIVE_EDGES = (0.0, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
"""Share of the image that a box covers."""
ASPECT_EDGES = (0.0, 1 / 5, 1 / 3, 1 / 2, 2 / 3, 0.9, 1 / 0.9, 3 / 2, 2.0, 3.0, 5.0)
"""Width over height; the last bin is open."""
SIDE_EDGES = (0.0, 8.0, 16.0, 32.0, 64.0, 96.0, 128.0, 256.0, 512.0, 1024.0)
"""Square root of the area in pixels; the last bin is open."""
OBJECTS_EDGES = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 11.0, 21.0, 51.0, 101.0)
"""Objects per image; the last bin is open."""


@dataclass(frozen=True)
class Spread:
    """Five numbers and the mean (quartiles interpolated linearly, as numpy does)."""

    least: float
    lower: float
    median: float
    upper: float
    most: float
    mean: float

    @classmethod
    def of(cls, values: Sequence[float] | FloatArray | IntArray) -> "Spread | None":
        """None when there are no values."""
        if len(values) == 0:
            return None
        array = np.asarray(values, dtype=np.float64)
        least, lower, median, upper, most = np.percentile(array, (0, 25, 50, 75, 100)).tolist()
        return cls(least, lower, median, upper, most, float(array.mean()))


@dataclass(frozen=True)
class Histogram:
    """How many values lie from each edge up to, but not at, the next one.

    Attributes:
        edges: rising. As many as `counts` when the last bin is open, one more when it ends at the last edge (a value
            at that edge is then in the last bin).
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class SizeCounts:
    """Boxes by area in pixels: small below 32², large from 96²; `tiny` (below 16²) are among the small."""

    tiny: int
    small: int
    medium: int
    large: int


@dataclass(frozen=True)
class ClassStatistics:
    """One class.

    Attributes:
        images: how many show it.
        objects_by_split: every split of the version.
        side: square root of box areas, pixels.
        relative_area: box area over image area, in (0, 1].
        centres: boxes by the cell their centre is in; `GRID` rows from the top, of `GRID` cells from the left.
    """

    name: str
    objects: int
    images: int
    objects_by_split: Mapping[str, int]
    side: Spread | None
    relative_area: Spread | None
    centres: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Boxes:
    """All boxes together; fields as in `ClassStatistics`, histograms over the edges this module names."""

    sizes: SizeCounts
    side: Histogram
    relative_area: Histogram
    aspect: Histogram
    centres: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class ImageSizes:
    """Attributes:
    most_common: (width, height, images), most images first, at most ten.
    different: how many pairs of width and height there are.
    """

    width: Spread | None
    height: Spread | None
    megapixels: Spread | None
    aspect: Histogram
    most_common: tuple[tuple[int, int, int], ...]
    different: int
    formats: Mapping[str, int]


@dataclass(frozen=True)
class Quality:
    """What a reviewer would look at.

    Attributes:
        images_by_source, objects_by_source: who labelled, most images first.
        without_objects: images that show nothing; background is wanted in small shares.
        at_border: boxes that touch the image's edge: the object is probably cut off.
        tiny: boxes below 16² pixels.
        waivers: accepted leaks between splits.
    """

    images_by_source: Mapping[str, int]
    objects_by_source: Mapping[str, int]
    without_objects: int
    at_border: int
    tiny: int
    waivers: int


@dataclass(frozen=True)
class DatasetStatistics:
    """Attributes:
    imbalance_ratio: objects of the most frequent class over those of the rarest present one (Buda et al. 2018);
        None without objects.
    evenness: entropy of the class shares over its largest possible value, in [0, 1]; 1 when all classes have equally
        many objects (Pielou 1966). None with fewer than two classes or no objects.
    absent: classes that no object has.
    co_occurrence: images that show both classes, rows and columns as `classes`; on the diagonal those with the class.
    """

    name: str
    digest: str
    description: str
    images: int
    objects: int
    images_by_split: Mapping[str, int]
    objects_by_split: Mapping[str, int]
    groups_by_split: Mapping[str, int]
    classes: tuple[ClassStatistics, ...]
    imbalance_ratio: float | None
    evenness: float | None
    absent: tuple[str, ...]
    co_occurrence: tuple[tuple[int, ...], ...]
    image_sizes: ImageSizes
    boxes: Boxes
    objects_per_image: Histogram
    objects_per_image_spread: Spread | None
    quality: Quality
    coverage: Coverage

    def to_json(self) -> dict[str, Any]:
        """Plain values; every number is finite."""
        plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(self))
        return plain


def dataset_statistics(version: DatasetVersion) -> DatasetStatistics:
    """Count everything once; an empty version gives zeros and None.

    A million objects take a few seconds.
    """
    arrays = Columns.of(version)
    classes = tuple(_class_statistics(version, arrays))
    objects = np.array([one.objects for one in classes], dtype=np.int64)
    groups = {(item.split, item.group) for item in version.items}
    return DatasetStatistics(
        name=version.name,
        digest=version.digest,
        description=version.description,
        images=len(version.items),
        objects=len(arrays.boxes),
        images_by_split=version.images_by_split(),
        objects_by_split=_by_split(version, arrays.split[arrays.image]),
        groups_by_split={split: sum(one == split for one, _ in groups) for split in version.splits},
        classes=classes,
        imbalance_ratio=float(objects.max() / objects[objects > 0].min()) if objects.any() else None,
        evenness=_evenness(objects),
        absent=tuple(one.name for one in classes if not one.objects),
        co_occurrence=_co_occurrence(arrays),
        image_sizes=_image_sizes(version.items, arrays),
        boxes=_boxes(arrays),
        objects_per_image=_histogram(arrays.objects, OBJECTS_EDGES, is_open=True),
        objects_per_image_spread=Spread.of(arrays.objects),
        quality=_quality(version, arrays),
        coverage=coverage_of(version.items),
    )


def _class_statistics(version: DatasetVersion, arrays: Columns) -> list[ClassStatistics]:
    k, splits = arrays.classes, len(version.splits)
    # One more column for objects of splits that are not named.
    by_split = _table(arrays.label, arrays.split[arrays.image] % (splits + 1), (k, splits + 1))
    centres = _table(arrays.label, arrays.cell, (k, GRID * GRID)).reshape(k, GRID, GRID)
    images = np.bincount(_seen(arrays) % max(k, 1), minlength=k)
    # Objects sorted by class: each class is then one slice.
    order = np.argsort(arrays.label, kind="stable")
    ends = np.cumsum(np.bincount(arrays.label, minlength=k))
    side, share = np.sqrt(arrays.area)[order], arrays.relative_area[order]
    found = []
    for index, name in enumerate(version.classes):
        own = slice(0 if index == 0 else ends[index - 1], ends[index])
        found.append(
            ClassStatistics(
                name=name,
                objects=own.stop.item() - int(own.start),
                images=int(images[index]),
                objects_by_split=dict(zip(version.splits, by_split[index].tolist(), strict=False)),
                side=Spread.of(side[own]),
                relative_area=Spread.of(share[own]),
                centres=_rows(centres[index]),
            )
        )
    return found


def _seen(arrays: Columns) -> IntArray:
    """Every pair of an image and a class it shows once, as image * classes + class."""
    pairs: IntArray = np.unique(arrays.image * arrays.classes + arrays.label)
    return pairs


def _co_occurrence(arrays: Columns) -> tuple[tuple[int, ...], ...]:
    k = arrays.classes
    if k == 0:
        return ()
    image, label = np.divmod(_seen(arrays), k)
    shown = sparse.csr_array(
        (np.ones(len(image), dtype=np.int64), (image, label)), shape=(len(arrays.width), k)
    )
    return _rows((shown.T @ shown).toarray())


def _evenness(objects: IntArray) -> float | None:
    if len(objects) < 2 or not objects.any():
        return None
    shares = objects[objects > 0] / objects.sum()
    # Rounding must not give 1.0000000000000002, nor one class alone -0.0.
    return float(np.clip(-(shares * np.log(shares)).sum() / np.log(len(objects)), 0.0, 1.0)) + 0.0


def _image_sizes(items: Sequence[DatasetItem], arrays: Columns) -> ImageSizes:
    pairs = Counter(zip(arrays.width.tolist(), arrays.height.tolist(), strict=True))
    common = sorted(pairs.items(), key=lambda one: (-one[1], one[0]))[:10]
    return ImageSizes(
        width=Spread.of(arrays.width),
        height=Spread.of(arrays.height),
        megapixels=Spread.of(arrays.width * arrays.height / 1e6),
        aspect=_histogram(arrays.width / arrays.height, ASPECT_EDGES, is_open=True),
        most_common=tuple((width, height, count) for (width, height), count in common),
        different=len(pairs),
        formats=_most_first(Counter(item.format for item in items)),
    )


def _boxes(arrays: Columns) -> Boxes:
    area = arrays.area
    return Boxes(
        sizes=size_counts(area),
        side=_histogram(np.sqrt(area), SIDE_EDGES, is_open=True),
        relative_area=_histogram(arrays.relative_area, RELATIVE_EDGES, is_open=False),
        aspect=_histogram(arrays.aspect, ASPECT_EDGES, is_open=True),
        centres=_rows(np.bincount(arrays.cell, minlength=GRID * GRID).reshape(GRID, GRID)),
    )


def size_counts(areas: FloatArray) -> SizeCounts:
    """Boxes by size.

    Args:
        areas: square pixels, shape (n,).
    """
    small, large = int((areas < SMALL_BELOW).sum()), int((areas >= LARGE_FROM).sum())
    return SizeCounts(int((areas < TINY_BELOW).sum()), small, len(areas) - small - large, large)


def _quality(version: DatasetVersion, arrays: Columns) -> Quality:
    objects: Counter[str] = Counter()
    for item in version.items:
        objects[item.source] += len(item.objects)
    size = np.stack([arrays.width, arrays.height], axis=1)[arrays.image]
    at_border = (arrays.boxes[:, :2] <= 0).any(axis=1) | (arrays.boxes[:, 2:] >= size).any(axis=1)
    return Quality(
        images_by_source=_most_first(Counter(item.source for item in version.items)),
        objects_by_source=_most_first(objects),
        without_objects=int((arrays.objects == 0).sum()),
        at_border=int(at_border.sum()),
        tiny=int((arrays.area < TINY_BELOW).sum()),
        waivers=len(version.waivers),
    )


def _by_split(version: DatasetVersion, splits: IntArray) -> dict[str, int]:
    return {name: int((splits == index).sum()) for index, name in enumerate(version.splits)}


def _histogram(values: FloatArray | IntArray, edges: Sequence[float], *, is_open: bool) -> Histogram:
    ends = (*edges, np.inf) if is_open else edges
    counts, _ = np.histogram(values, bins=np.asarray(ends))
    return Histogram(tuple(edges), tuple(counts.tolist()))


def _table(rows: IntArray, columns: IntArray, shape: tuple[int, int]) -> IntArray:
    """How often each pair occurs, of that shape."""
    counts: IntArray = np.bincount(rows * shape[1] + columns, minlength=shape[0] * shape[1]).reshape(shape)
    return counts


def _rows(array: NDArray[np.int64]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(row) for row in array.tolist())


def _most_first(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda one: (-one[1], one[0])))
