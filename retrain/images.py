"""Encoded images: their identity, and whether they are what they claim to be."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FunctionType

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from retrain.errors import BadInput
from retrain.storage.digests import content_digest

MAX_PIXELS = 89_478_485
"""Larger images are refused undecoded, as a few kilobytes can unpack to gigabytes; Pillow warns from the same size."""
THUMBNAIL_SIDE = 64
_SUFFIXES = {"PNG": "png", "JPEG": "jpg", "MPO": "jpg", "BMP": "bmp", "TIFF": "tif", "WEBP": "webp"}
_LONGEST_SIDE = 64 * THUMBNAIL_SIDE
"""Where pictures a pixel wide would not get small otherwise."""
_DEEP = {"I", "F", "I;16", "I;16L", "I;16B", "I;16N"}
_ORIENTATION, _TURNED = 0x0112, {5, 6, 7, 8}


@dataclass(frozen=True)
class EncodedImage:
    """An image whose every pixel is known to be there.

    Attributes:
        digest: `content_digest` of the bytes.
        format: suffix without the dot.
        thumbnail: the picture in grey, uint8, reduced to at least `THUMBNAIL_SIDE` a side where it is larger; not
            turned by EXIF. None for levels of more than 8 bits: nobody can know which of them make up the picture.
    """

    data: bytes
    digest: str
    format: str
    width: int
    height: int
    thumbnail: NDArray[np.uint8] | None = field(compare=False, repr=False)

    @property
    def file_name(self) -> str:
        """Its name in a pack."""
        return f"{self.digest}.{self.format}"


def read_image(given: bytes | str | Path) -> EncodedImage:
    """The image in a file or in bytes, decoded once to prove that every pixel is there.

    Width and height are those after the EXIF orientation is applied, as every reader of ours sees it.

    Raises:
        BadInput: it cannot be read or decoded; the message is the reason only, without the image's name.
    """
    data = _bytes_of(given)
    with _decoding():
        source = _Source(data)
        with Image.open(source) as image:
            kind, (width, height) = image.format, image.size
            _check(kind, width, height)
            if kind == "PNG":
                # Decoding skips checksums.
                image.verify()
                source = _Source(data)
                image = Image.open(source)  # noqa: PLW2901 - verify uses the image up
            turned = image.getexif().get(_ORIENTATION) in _TURNED
            # A JPEG decoder can stop short of full size (a fifth of the time); it still reads every coefficient.
            image.draft("L", (THUMBNAIL_SIDE, THUMBNAIL_SIDE))
            _load(image, source)
            thumbnail = None if image.mode in _DEEP else _thumbnail(image)
    size = (height, width) if turned else (width, height)
    return EncodedImage(data, content_digest(data), _SUFFIXES[str(kind)], *size, thumbnail)


def read_pixels(given: bytes | str | Path) -> NDArray[np.uint8]:
    """RGB pixels, shape (height, width, 3), turned as the EXIF orientation says, as sizes and boxes are.

    Raises:
        BadInput: as `read_image`; a truncated image too, whatever switch another library has set.
    """
    with _decoding():
        source = _Source(_bytes_of(given))
        with Image.open(source) as image:
            _check(image.format, *image.size)
            _load(image, source)
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def _bytes_of(given: bytes | str | Path) -> bytes:
    try:
        return given if isinstance(given, bytes) else Path(given).read_bytes()
    except OSError as error:
        raise BadInput(f"cannot be read: {error.strerror}") from error
    except ValueError as error:
        # A path with a NUL.
        raise BadInput(f"cannot be read: {error}") from error


@contextmanager
def _decoding() -> Iterator[None]:
    try:
        yield
    except UnidentifiedImageError as error:
        raise BadInput("is not an image") from error
    except BadInput:
        raise
    # Pillow's decoders raise whatever they stumble on (OSError, SyntaxError, struct.error, zlib.error, …).
    except Exception as error:
        raise BadInput(f"cannot be decoded: {error}") from error


def _check(kind: str | None, width: int, height: int) -> None:
    if kind not in _SUFFIXES:
        raise BadInput(f"is {kind}; use PNG, JPEG, BMP, TIFF or WebP")
    if width * height > MAX_PIXELS:
        raise BadInput(f"has {width} x {height} pixels; at most {MAX_PIXELS} are accepted")


def _thumbnail(image: Image.Image) -> NDArray[np.uint8]:
    width, height = image.size
    factor = max(min(width, height) // THUMBNAIL_SIDE, 1)
    factors = max(factor, width // _LONGEST_SIDE), max(factor, height // _LONGEST_SIDE)
    # Transparency of single colours would make Pillow warn, and is not looked at anyway.
    grey = (image.convert("RGBA") if image.mode == "P" else image).convert("L")
    return np.asarray(grey if factors == (1, 1) else grey.reduce(factors))


class _Source(io.BytesIO):
    """Notes when more was asked of it than it has: no decoder does that to a whole image."""

    is_short = False

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.is_short |= not data and size != 0
        return data


_plain_load = ImageFile.ImageFile.load
# Whether a truncated image is an error is one switch for the whole process, which other libraries turn (Ultralytics
# does) and which is not ours to turn back under their feet: this is Pillow's own function with the switch off.
_strict_load = FunctionType(
    _plain_load.__code__,
    {**vars(ImageFile), "LOAD_TRUNCATED_IMAGES": False},
    _plain_load.__name__,
    _plain_load.__defaults__,
    _plain_load.__closure__,
)


def _load(image: Image.Image, source: _Source) -> None:
    """Decode it, or raise if anything is missing."""
    # Formats with a function of their own (TIFF, WebP) raise on damage by themselves.
    load = _strict_load if type(image).load is _plain_load else type(image).load
    source.is_short = False
    load(image)
    if source.is_short:
        raise BadInput("cannot be decoded: image file is truncated")
