"""What a source of frames yields."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from retrain.data_collection.sources.progress import Progress
from retrain.images import read_image


@dataclass(frozen=True)
class SourceFrame:
    """One frame as the source has it.

    Attributes:
        name: for people, such as a path and a frame number.
        recording: frames that belong together; never split over train and test.
        image: encoded bytes as they are in the file, or decoded BGR pixels of shape (height, width, 3).
        number: of the frame in its video or stream, from 0; None for an image file.
    """

    name: str
    camera: str
    recording: str
    captured_at: float
    image: bytes | NDArray[np.uint8]
    number: int | None = None

    def pixels(self) -> NDArray[np.uint8]:
        """RGB of shape (height, width, 3), upright as the EXIF orientation says.

        Raises:
            BadInput: the image is none, truncated or too large; the message is the reason only.
        """
        if isinstance(self.image, np.ndarray):
            return np.ascontiguousarray(self.image[:, :, ::-1])
        read_image(self.image)
        with Image.open(io.BytesIO(self.image)) as opened:
            return np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))


@dataclass(frozen=True)
class Unusable:
    """A file that gives no frame, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class DoneBefore:
    """Frames that an earlier run offered and this one leaves out."""

    frames: int


Item = SourceFrame | Unusable | DoneBefore


class Source(Protocol):
    """Some frames, in their order.

    A frame counts as done, and is noted in the progress, when the next one is asked for.
    """

    def frames(self, progress: Progress, /) -> Iterator[Item]: ...

    def offer_again(self, progress: Progress, /) -> None:
        """Let `frames` give what an earlier run offered, too."""
        ...

    def count(self) -> int | None:
        """How many frames there are, with those done before; None when nobody knows."""
        ...
