"""Encoded images: their identity, and whether they are what they claim to be."""

import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from retrain.errors import BadInput
from retrain.storage.digests import content_digest

_SUFFIXES = {"PNG": "png", "JPEG": "jpg", "MPO": "jpg", "BMP": "bmp", "TIFF": "tif", "WEBP": "webp"}
_DECODING = threading.Lock()


@dataclass(frozen=True)
class EncodedImage:
    data: bytes
    digest: str
    """`content_digest` of the bytes."""
    format: str
    """Suffix without the dot."""
    width: int
    height: int


def read_image(source: bytes | str | Path) -> EncodedImage:
    """The image in a file or in bytes, decoded once to prove that every pixel is there.

    Width and height are those after the EXIF orientation is applied, as every reader of ours sees it.

    Raises:
        BadInput: it cannot be read or decoded; the message is the reason only, without the image's name.
    """
    try:
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
    except OSError as e:
        raise BadInput(f"cannot be read: {e.strerror}") from e
    try:
        with _strict_decoding():
            # verify() compares checksums that decoding skips.
            with Image.open(io.BytesIO(data)) as image:
                image.verify()
            with Image.open(io.BytesIO(data)) as image:
                image.load()
                kind, (width, height) = image.format, ImageOps.exif_transpose(image).size
    except UnidentifiedImageError as e:
        raise BadInput("is not an image") from e
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError, Warning) as e:
        raise BadInput(f"cannot be decoded: {e}") from e
    if kind not in _SUFFIXES:
        raise BadInput(f"is {kind}; use PNG, JPEG, BMP, TIFF or WebP")
    return EncodedImage(data, content_digest(data), _SUFFIXES[kind], width, height)


@contextmanager
def _strict_decoding() -> Iterator[None]:
    """Refuse truncated and huge images, whatever another library set for the whole process."""
    with _DECODING, warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
        try:
            yield
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = before
