"""A sample: one production image with what the model said about it and why it was kept."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image
from sqlalchemy import Row

from retrain.boxes import Detections
from retrain.errors import BadInput

MAX_PIXELS = 64_000_000
"""Larger images are refused before they are decoded: a few kilobytes can unpack to gigabytes."""


@dataclass(frozen=True)
class DataSample:
    """One stored sample.

    Attributes:
        id: digest of the encoded image bytes; the same image is stored once.
        camera, recording: where it comes from; a recording is never split over train and test.
        strategy: the rule that took it.
        inclusion_probability: chance that the rule takes this frame, for unbiased estimates from samples.
        confidence: the frame's one number; None when the model saw nothing it was at all sure of.
        release: digest of the release that predicted it.
        image_key: where its bytes are in the blob store.
    """

    id: str
    model: str
    camera: str
    recording: str
    captured_at: float
    strategy: str
    inclusion_probability: float
    confidence: float | None
    release: str
    image_key: str
    width: int
    height: int
    prediction: Detections
    metadata: Mapping[str, Any]

    def to_row(self, stored_at: float) -> dict[str, Any]:
        """Column values of the `samples` table."""
        return {
            **vars(self),
            "prediction": self.prediction.to_json(),
            "metadata": dict(self.metadata),
            "stored_at": stored_at,
        }

    @classmethod
    def from_row(cls, row: Row[Any]) -> "DataSample":
        values = {name: row._mapping[name] for name in cls.__dataclass_fields__}
        return cls(**{**values, "prediction": Detections.from_json(values["prediction"])})


def image_key(digest: str) -> str:
    """Blob key of a sample's image."""
    return f"samples/{digest[:2]}/{digest}"


def checked_size(data: bytes) -> tuple[int, int]:
    """Width and height in pixels of an encoded image that decodes from its first byte to its last.

    Raises:
        BadInput: not an image, truncated, or too large to be a camera frame.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            width, height = image.size
            if is_small := width * height <= MAX_PIXELS:
                image.load()
    # Pillow's decoders raise whatever they stumble on (OSError, SyntaxError, struct.error, zlib.error, …).
    except Exception as error:
        raise BadInput(f"The image ({len(data)} bytes) cannot be decoded: {error}.") from error
    if not is_small:
        raise BadInput(f"The image has {width} x {height} pixels; at most {MAX_PIXELS} are accepted.")
    return width, height
