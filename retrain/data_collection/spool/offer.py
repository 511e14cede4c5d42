"""One frame as production hands it over, and the bytes it becomes in the spool."""

import io
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from retrain.boxes import Detections
from retrain.errors import BadInput

ChannelOrder = Literal["RGB", "BGR"]


class FileMark(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What a linked file was like when it was handed over; a change means that somebody wrote over it."""

    bytes: int
    modified_ns: int

    @classmethod
    def of(cls, path: str | os.PathLike[str]) -> "FileMark":
        found = os.stat(path)  # noqa: PTH116 - a third of the time of Path.stat, on the hot path
        if not stat.S_ISREG(found.st_mode):
            # Reading a pipe or a device may never end.
            raise BadInput("it is no regular file")
        return cls(found.st_size, found.st_mtime_ns)


class Pixels(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Shape and order of an image that was handed over as an array and is encoded later."""

    height: int
    width: int
    order: ChannelOrder


class Offer(msgspec.Struct, array_like=True, gc=False, omit_defaults=True):
    """Everything known about a taken frame but its image.

    Attributes:
        prediction: as the caller gave it; checked when the record is read.
        probability: with which a frame like this is taken, all arms together.
        audit: drawn by the audit arm, whatever the strategy wanted.
        audit_rate: with which the audit arm alone takes any frame.
        image: how the image came: a linked file, pixels, or encoded bytes (None).
        classes: names in index order where the prediction names its classes, else how many there are; 0 when the
            producer was not told.
    """

    model: str
    release: str
    strategy: str
    reason: str
    probability: float
    audit: bool
    audit_rate: float
    taken_at: float
    confidence: float | None
    prediction: Any
    # Keys of any type: what is encoded must be decoded, or it is lost.
    metadata: dict[Any, Any]
    image: FileMark | None = None
    pixels: Pixels | None = None
    classes: int | tuple[str, ...] = 0


def marked(path: str | os.PathLike[str]) -> FileMark:
    """What a file is like now.

    Raises:
        BadInput: there is none, or it is no file that can be read.
    """
    try:
        return FileMark.of(path)
    except (OSError, ValueError, TypeError) as error:
        raise BadInput(f"The image {path!r:.200} cannot be read: {error}.") from error


def _plain(value: Any) -> Any:
    """What msgspec cannot encode itself: numpy's numbers and arrays, paths."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"{type(value).__name__} cannot be stored")


_encoder = msgspec.msgpack.Encoder(enc_hook=_plain)
_decoder = msgspec.msgpack.Decoder(Offer)
_BODY_BYTES = 1024
"""Room for most records: `encode` begins with 32 bytes and grows step by step, which takes a quarter longer."""


def encode_offer(offer: Offer) -> bytearray:
    """Bytes for the spool.

    Raises:
        BadInput: prediction or metadata hold something that is no plain value.
    """
    body = bytearray(_BODY_BYTES)
    try:
        _encoder.encode_into(offer, body)
    except (TypeError, ValueError, OverflowError, RecursionError, UnicodeEncodeError) as error:
        raise BadInput(f"Metadata and prediction must hold plain values only: {error}.") from error
    return body


def decode_offer(body: bytes | bytearray) -> Offer:
    """Inverse of `encode_offer`.

    Raises:
        BadInput: the bytes are no offer; another version of Retrain may have written them.
    """
    try:
        return _decoder.decode(body)
    except msgspec.DecodeError as error:
        raise BadInput(f"The record cannot be read ({error}); was it written by another version?") from error


_PLAIN = {dict, list, type(None)}


def plain_prediction(prediction: Any) -> Any:
    """A prediction of any accepted kind as plain lists and mappings.

    `Detections` and Ultralytics `Results` (anything whose `boxes` have `xyxy`, `conf` and `cls`) become one mapping of
    boxes, classes and scores; mappings and lists of mappings stay as they are.
    """
    # The type first: asking for the abstract class takes six times as long.
    if type(prediction) in _PLAIN or isinstance(prediction, Mapping | list | tuple):
        return prediction
    if isinstance(prediction, Detections):
        return prediction.to_json()
    boxes = getattr(prediction, "boxes", None)
    if boxes is None or not hasattr(boxes, "xyxy"):
        raise BadInput(
            f"A prediction is Detections, Ultralytics Results or mappings with class and bbox, got {prediction!r:.200}."
        )
    return {
        "boxes": boxes.xyxy.tolist(),
        "classes": [int(label) for label in boxes.cls.tolist()],
        "scores": boxes.conf.tolist(),
    }


def image_bytes(image: bytes | NDArray[np.uint8], order: ChannelOrder) -> tuple[bytes, Pixels | None]:
    """The bytes to spool for an image given in memory, and its shape where those are raw pixels.

    Raises:
        BadInput: an array that is not uint8 of shape (height, width, 3), or nothing.
    """
    if isinstance(image, bytes | bytearray | memoryview):
        if not len(image):
            raise BadInput("The image is empty.")
        return bytes(image), None
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        shape = f"{getattr(image, 'dtype', type(image).__name__)} {getattr(image, 'shape', '')}"
        raise BadInput(
            f"An image is encoded bytes, or a uint8 array of shape (height, width, 3), got {shape}."
        )
    if not image.size:
        raise BadInput(f"The image is empty: shape {image.shape}.")
    return image.tobytes(), Pixels(image.shape[0], image.shape[1], order)


def encoded(data: bytes, pixels: Pixels) -> bytes:
    """Raw pixels as lossless PNG."""
    array = np.frombuffer(data, np.uint8).reshape(pixels.height, pixels.width, 3)
    buffer = io.BytesIO()
    picture = Image.fromarray(array[:, :, ::-1] if pixels.order == "BGR" else array)
    picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def unchanged_file(path: Path, mark: FileMark) -> bytes:
    """The bytes of a linked file that nobody wrote to since it was handed over.

    Raises:
        BadInput: it is gone or somebody did.
    """
    try:
        data = path.read_bytes()
        now = FileMark.of(path)
    except OSError as error:
        raise BadInput(f"The linked image cannot be read: {error.strerror}.") from error
    if now != mark:
        raise BadInput(
            "The image file was written over in place after it was handed over. Write each frame to a new file, or "
            "give the bytes as `image`."
        )
    return data
