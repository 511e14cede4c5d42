"""Images inside packs, under names that Ultralytics' dataset can carry about as if they were files."""

from pathlib import Path, PurePath
from tempfile import NamedTemporaryFile
from typing import Any, Self

import cv2
import numpy as np

from retrain.errors import BadInput
from retrain.storage.pack_reader import PackReader
from retrain.storage.selections import SelectedImage, read_selection_file
from retrain.training.ultralytics_parts import ImageName, imread

# What Ultralytics does with the pages and channels of these depends on the ending of the file.
_BY_ENDING = {".tif", ".tiff"}
# Whether these are turned by EXIF depends on the versions of OpenCV and Pillow: only the pixels tell.
_SIZE_UNSURE = {".tif", ".tiff", ".webp"}


def packed_images(selection: Path) -> list["PackedImage"]:
    """The images of a selection file, in its order; they share one reader.

    Raises:
        NotFound: there is no such file.
        BadInput: it is damaged.
    """
    chosen, reader = read_selection_file(selection), PackReader()
    return [PackedImage(chosen.packs[image.pack], image, reader) for image in chosen.images]


class PackedImage(ImageName):
    """As text it is `<pack file>/<name in the pack>`: where errors point to, and the same ending as the image."""

    __slots__ = ("_pack", "_reader", "image")

    image: SelectedImage
    _pack: Path
    _reader: PackReader

    def __new__(cls, pack: Path, image: SelectedImage, reader: PackReader) -> Self:
        name = super().__new__(cls, f"{pack}/{image.name}")
        name._pack, name.image, name._reader = pack, image, reader
        return name

    def __reduce__(self) -> tuple[type["PackedImage"], tuple[Path, SelectedImage, PackReader]]:
        return type(self), (self._pack, self.image, self._reader)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the decoded image."""
        if self._ending in _SIZE_UNSURE:
            height, width = self.decoded(cv2.IMREAD_COLOR).shape[:2]
            return height, width
        return self.image.height, self.image.width

    def decoded(self, flags: int) -> Any:
        """Pixels, BGR, shape (height, width, 3).

        Raises:
            NotFound: the pack is not on this machine.
            BadInput: the pack is damaged, or this is no image.
        """
        data = self._reader.read(self._pack, self.image.name)
        pixels = self._decoded(data, flags) if data else None
        if pixels is None:
            raise BadInput(f"{self} cannot be read as an image.")
        return pixels

    def _decoded(self, data: bytes, flags: int) -> Any:
        if self._ending not in _BY_ENDING:
            return cv2.imdecode(np.frombuffer(data, dtype=np.uint8), flags)
        with NamedTemporaryFile(suffix=self._ending) as file:
            file.write(data)
            file.flush()
            return imread(file.name, flags)

    @property
    def _ending(self) -> str:
        return PurePath(self.image.name).suffix.lower()
