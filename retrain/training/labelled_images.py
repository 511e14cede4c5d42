"""Images with their labels, from folders or from packs, read strictly and without writing anything beside them."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from retrain.boxes import FloatArray
from retrain.errors import BadInput, NotFound
from retrain.training.packed_images import PackedImage, packed_images
from retrain.training.ultralytics_parts import IMG_FORMATS, YOLODataset, exif_size

_READERS = 4

T = TypeVar("T")


class _NoFile:
    """In the place of a path."""

    def exists(self) -> bool:
        return False


_NO_FILE = _NoFile()


class LabelledImages(YOLODataset):
    """Ultralytics' dataset over any mix of data folders and selection files.

    Of a folder it is given `<folder>/images`; the labels are in `<folder>/labels`. Ultralytics' own reader drops
    damaged files with a log line, repairs JPEGs in place and leaves a cache file beside the labels. This one writes
    nothing and raises for what it cannot use. An image without a label file has no objects.
    """

    epoch = 0
    """Of the training, from 0."""

    def __init__(
        self,
        *,
        on_progress: Callable[[], None] = lambda: None,
        cache_limit: int | None = None,
        **settings: Any,
    ) -> None:
        """Read all labels, and cache all images if `settings`, which are Ultralytics', say so.

        Args:
            on_progress: called for each image read, so that a long start is not taken for a stall.
            cache_limit: bytes; images that would take more are read whenever they are drawn.
        """
        self._on_progress, self._cache_limit = on_progress, cache_limit
        super().__init__(**settings)
        # Decoded copies that another program left beside the images are not the images.
        self.npy_files = [_NO_FILE] * self.ni
        # Not needed by the loader processes, which cannot be given every function.
        del self._on_progress

    @property
    def weights(self) -> FloatArray | None:
        """How often to draw each image, shape (n,), above 0, where all images come with a weight."""
        given = [name.image.weight for name in self.im_files if isinstance(name, PackedImage)]
        if len(given) < len(self.im_files) or None in given:
            return None
        return np.array(given, dtype=np.float64)

    @property
    def slices(self) -> list[str | None]:
        """Of each image, the part of the data that it is scored in apart; images of folders have none."""
        return [name.image.slice if isinstance(name, PackedImage) else None for name in self.im_files]

    def get_img_files(self, img_path: list[str]) -> list[str]:
        """Images, place by place, ordered by name only, so that the place of the data does not matter."""
        return found_images(img_path)

    def get_labels(self) -> list[dict[str, Any]]:
        entries = [self._progressed(self._entry(name)) for name in self.im_files]
        self.shapes: list[tuple[int, int]] = [entry["shape"] for entry in entries]
        """Height and width of each stored image; Ultralytics drops them from labels, and may order these anew."""
        return entries

    def load_image(self, i: int, *args: Any, **kwargs: Any) -> Any:
        try:
            loaded = super().load_image(i, *args, **kwargs)
        except FileNotFoundError as error:
            raise BadInput(f"{self.im_files[i]} is missing or cut short; fetch it again.") from error
        if self.buffer:
            # Ultralytics keeps the last ones for mosaics; ours take theirs from all images.
            self.buffer.clear()
            self.ims[i] = self.im_hw0[i] = self.im_hw[i] = None
        return loaded

    @property
    def cached_bytes(self) -> int:
        """Of all images as the cache holds them: the longer side is the image size, three bytes a pixel."""
        size, total = self.imgsz, 0
        for height, width in self.shapes:
            scale = size / max(height, width)
            total += min(round(height * scale), size) * min(round(width * scale), size) * 3
        return total

    def check_cache_ram(self, safety_margin: float = 1.0) -> bool:
        """Whether images are kept; unlike Ultralytics' own guess it draws from no generator."""
        if self._cache_limit is not None and self.cached_bytes > self._cache_limit:
            self.cache = None
        return self.cache is not None

    def cache_images(self) -> None:
        """Decode all images now, without the progress bar that cannot be switched off."""
        with ThreadPoolExecutor(_READERS) as readers:
            loaded = [self._progressed(item) for item in readers.map(self.load_image, range(self.ni))]
        self.im_hw0, self.im_hw = [item[1] for item in loaded], [item[2] for item in loaded]
        self.ims = self._ImageCache([item[0] for item in loaded])

    def _progressed(self, item: T) -> T:
        self._on_progress()
        return item

    def _entry(self, name: str) -> dict[str, Any]:
        if isinstance(name, PackedImage):
            rows, shape = parse_labels(name.image.labels, name, len(self.data["names"])), name.shape
        else:
            rows, shape = _read_entry(Path(name), len(self.data["names"]))
        return {
            "im_file": str(name),
            "shape": shape,
            "cls": rows[:, :1],
            "bboxes": rows[:, 1:],
            "segments": [],
            "keypoints": None,
            "normalized": True,
            "bbox_format": "xywh",
        }


def found_images(places: list[str]) -> list[str]:
    """Names of the images in folders of images and selection files, place by place, ordered by name within each.

    Raises:
        NotFound, BadInput: a place is missing or damaged, or there is no image in any.
    """
    found: list[str] = []
    for place in map(Path, places):
        found += packed_images(place) if place.is_file() else _image_files(place)
    if not found:
        raise BadInput(f"There is no image in {', '.join(places)}.")
    return found


def label_text(name: str) -> str:
    """The label rows of an image as they are stored."""
    if isinstance(name, PackedImage):
        return name.image.labels
    path = _labels_of(Path(name))
    return path.read_text(encoding="utf-8-sig") if path.is_file() else ""


def _labels_of(image: Path) -> Path:
    return image.parents[1] / "labels" / f"{image.stem}.txt"


def _image_files(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise NotFound(f"{folder} does not exist; a data folder holds images/ and labels/.")
    images = [path for path in folder.iterdir() if path.suffix[1:].lower() in IMG_FORMATS]
    return [str(path) for path in sorted(images, key=lambda path: path.name)]


def _read_entry(path: Path, classes: int) -> tuple[NDArray[np.float32], tuple[int, int]]:
    """Label rows of an image file, and its height and width."""
    rows = read_labels(_labels_of(path), classes)
    try:
        with Image.open(path) as image:
            width, height = exif_size(image)
    # Ultralytics replaces Image.open by one that looks for a HEIF plugin when nothing else can read the file.
    except (UnidentifiedImageError, ImportError, OSError) as error:
        raise BadInput(f"{path} cannot be read as an image ({error}).") from error
    return rows, (height, width)


def read_labels(path: Path, classes: int) -> NDArray[np.float32]:
    """`parse_labels` of a file; none where there is no file."""
    return parse_labels(path.read_text(encoding="utf-8-sig") if path.is_file() else "", str(path), classes)


def parse_labels(text: str, path: str, classes: int) -> NDArray[np.float32]:
    """Rows of class, centre x, centre y, width, height (fractions of the image), repeated rows dropped.

    Args:
        path: what they belong to, for errors.

    Raises:
        BadInput: a row does not have five numbers, a class is not known or a box is outside the image.
    """
    lines = [line.split() for line in text.splitlines() if line.strip()]
    if not lines:
        return np.zeros((0, 5), dtype=np.float32)  # a background image: nothing to find is a label too
    try:
        rows = np.array(lines, dtype=np.float32).reshape(len(lines), -1)
    except ValueError as error:
        raise BadInput(f"{path} must hold rows of five numbers ({error}).") from error
    if rows.shape[1] != 5 or not np.isfinite(rows).all():
        raise BadInput(f"{path} must hold rows of five finite numbers.")
    unknown = (rows[:, 0] % 1 != 0) | (rows[:, 0] < 0) | (rows[:, 0] >= classes)
    if unknown.any():
        raise BadInput(f"{path} has class {rows[unknown][0, 0]:g}; known are 0 to {classes - 1}.")
    outside = (rows[:, 1:] < 0) | (rows[:, 1:] > 1)
    if outside.any():
        raise BadInput(f"{path} has a box outside the image: {rows[outside.any(axis=1)][0, 1:].tolist()}.")
    _, first = np.unique(rows, axis=0, return_index=True)
    return rows[np.sort(first)]
