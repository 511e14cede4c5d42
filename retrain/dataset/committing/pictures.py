"""Perceptual hashes of a version's images, kept beside the packs so that nothing is decoded twice."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np

from retrain.dataset.repository.disk import write_durably
from retrain.duplicates.perceptual_hash import ENTRY, PerceptualHash, perceptual_hash
from retrain.errors import BadInput
from retrain.images import read_image

_ROW_BYTES = 32 + ENTRY.itemsize


class Pictures:
    """A cache with one file per pack. It can be deleted at any time: what is missing is computed from the images."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def of_pack(
        self, pack: str, images: Callable[[], Iterable[tuple[str, bytes]]]
    ) -> Mapping[str, PerceptualHash]:
        """Image digest → hash, of every image that can be compared (not those of more than 8 bits).

        Args:
            images: the pack's images with their bytes, asked for only if nothing is kept.
        """
        try:
            return read_pictures(self._file(pack).read_bytes())
        except (FileNotFoundError, BadInput):
            found = {image: hashed for image, data in images() if (hashed := picture_of(data)) is not None}
            self.keep(pack, found)
            return found

    def keep(self, pack: str, pictures: Mapping[str, PerceptualHash]) -> None:
        """Remember the hashes of a whole pack."""
        self._folder.mkdir(parents=True, exist_ok=True)
        write_durably(self._file(pack), written_pictures(pictures))

    def forget_others(self, packs: Iterable[str]) -> int:
        """Delete what is kept of other packs than these; returns how many files."""
        wanted = {self._file(pack) for pack in packs}
        stale = [path for path in self._folder.glob("*") if path not in wanted]
        for path in stale:
            path.unlink()
        return len(stale)

    def _file(self, pack: str) -> Path:
        return self._folder / f"{pack}.pictures"


def picture_of(data: bytes) -> PerceptualHash | None:
    """The hash of an encoded image; None for levels of more than 8 bits, which are not compared."""
    thumbnail = read_image(data).thumbnail
    return None if thumbnail is None else perceptual_hash(thumbnail)


def written_pictures(pictures: Mapping[str, PerceptualHash]) -> bytes:
    """Rows of digest and hash."""
    return b"".join(bytes.fromhex(image) + picture.to_bytes() for image, picture in pictures.items())


def read_pictures(data: bytes) -> dict[str, PerceptualHash]:
    """Inverse of `written_pictures`.

    Raises:
        BadInput: the data is cut off.
    """
    if len(data) % _ROW_BYTES:
        raise BadInput(f"Perceptual hashes come in rows of {_ROW_BYTES} bytes, got {len(data)} bytes.")
    rows = np.frombuffer(data, np.dtype([("image", "V32"), ("picture", f"V{ENTRY.itemsize}")]))
    images, pictures = rows["image"].tolist(), rows["picture"].tolist()
    return {
        image.hex(): PerceptualHash.from_bytes(picture)
        for image, picture in zip(images, pictures, strict=True)
    }
