"""Encoded images: their identity, and whether they are what they claim to be."""

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError

from retrain.errors import BadInput
from retrain.storage.digests import content_digest

MAX_PIXELS = 89_478_485
"""Larger images are refused undecoded, as a few kilobytes can unpack to gigabytes; Pillow warns from the same size."""
THUMBNAIL_SIDE = 64
_SUFFIXES = {"PNG": "png", "JPEG": "jpg", "MPO": "jpg", "BMP": "bmp", "TIFF": "tif", "WEBP": "webp"}
_ORIENTATION, _TURNED = 0x0112, {5, 6, 7, 8}


@dataclass(frozen=True)
class EncodedImage:
    """An image whose every pixel is known to be there.

    Attributes:
        digest: `content_digest` of the bytes.
        format: suffix without the dot.
        thumbnail: the picture in grey, uint8, reduced to at least `THUMBNAIL_SIDE` a side where it is larger; not
            turned by EXIF.
    """

    data: bytes
    digest: str
    format: str
    width: int
    height: int
    thumbnail: NDArray[np.uint8] = field(compare=False, repr=False)

    @property
    def file_name(self) -> str:
        """Its name in a pack."""
        return f"{self.digest}.{self.format}"


def read_image(source: bytes | str | Path) -> EncodedImage:
    """The image in a file or in bytes, decoded once to prove that every pixel is there.

    Width and height are those after the EXIF orientation is applied, as every reader of ours sees it.

    Raises:
        BadInput: it cannot be read or decoded; the message is the reason only, without the image's name.
    """
    try:
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
    except OSError as error:
        raise BadInput(f"cannot be read: {error.strerror}") from error
    try:
        with _strict_decoding(), Image.open(io.BytesIO(data)) as image:
            kind, (width, height) = image.format, image.size
            _check(kind, width, height)
            if kind == "PNG":
                # Decoding skips checksums.
                image.verify()
                image = Image.open(io.BytesIO(data))  # noqa: PLW2901 - verify uses the image up
            turned = image.getexif().get(_ORIENTATION) in _TURNED
            thumbnail = _thumbnail(image)
    except UnidentifiedImageError as error:
        raise BadInput("is not an image") from error
    except BadInput:
        raise
    # Pillow's decoders raise whatever they stumble on (OSError, SyntaxError, struct.error, zlib.error, …).
    except Exception as error:
        raise BadInput(f"cannot be decoded: {error}") from error
    size = (height, width) if turned else (width, height)
    return EncodedImage(data, content_digest(data), _SUFFIXES[str(kind)], *size, thumbnail)


def _check(kind: str | None, width: int, height: int) -> None:
    if kind not in _SUFFIXES:
        raise BadInput(f"is {kind}; use PNG, JPEG, BMP, TIFF or WebP")
    if width * height > MAX_PIXELS:
        raise BadInput(f"has {width} x {height} pixels; at most {MAX_PIXELS} are accepted")


def _thumbnail(image: Image.Image) -> NDArray[np.uint8]:
    # A JPEG decoder can stop short of full size (a fifth of the time); it still reads every coefficient.
    image.draft("L", (THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    image.load()
    factor = max(min(image.size) // THUMBNAIL_SIDE, 1)
    return np.asarray(image.convert("L").reduce(factor) if factor > 1 else image.convert("L"))


_guard, _decoding, _before = threading.Lock(), 0, False


@contextmanager
def _strict_decoding() -> Iterator[None]:
    """Refuse truncated images, whatever another library set for the whole process (Ultralytics does)."""
    global _decoding, _before
    with _guard:
        if _decoding == 0:
            _before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
        _decoding += 1
    try:
        yield
    finally:
        with _guard:
            _decoding -= 1
            if _decoding == 0:
                ImageFile.LOAD_TRUNCATED_IMAGES = _before
