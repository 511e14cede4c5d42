"""An image and its boxes on the way through a pipeline, and where boxes go when pixels move."""

from dataclasses import dataclass, replace
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from retrain.boxes import Annotations, FloatArray, IntArray
from retrain.errors import BadInput

RgbImage = NDArray[np.uint8]
"""Shape (height, width, 3), red first."""
MAX_SIDE = 32_766
"""OpenCV addresses pixels in a warp with 16 bits."""
SMALLEST_SIDE_PX = 1.0
_ROUNDING = 1e-6


class PartnerSource(Protocol):
    """Other labelled images, in a fixed order: the steps that mix images draw from it by position."""

    def __len__(self) -> int: ...

    def __getitem__(self, position: int, /) -> tuple[RgbImage, Annotations]: ...


@dataclass(frozen=True)
class Scene:
    """An image with what is in it.

    Attributes:
        boxes: xyxy in pixels, inside the image, shape (n, 4).
        classes: class indices, shape (n,).
        visible: share of each object that all steps so far left in the picture, in (0, 1], shape (n,).
    """

    image: RgbImage
    boxes: FloatArray
    classes: IntArray
    visible: FloatArray

    @classmethod
    def of(cls, image: RgbImage, annotations: Annotations, name: str) -> "Scene":
        """Check what the steps rely on.

        Raises:
            BadInput: not 8-bit RGB, a side of 0 or over `MAX_SIDE`, or a box without area or outside the image.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise BadInput(
                f"Image {name!r} must be uint8 of shape (height, width, 3), got {image.dtype} of {image.shape}."
            )
        height, width = image.shape[:2]
        if not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE):
            raise BadInput(
                f"Image {name!r} must have sides of 1 to {MAX_SIDE} pixels, got {width} x {height}."
            )
        x1, y1, x2, y2 = annotations.boxes.T
        fits = (x1 >= 0) & (y1 >= 0) & (x2 <= width) & (y2 <= height) & (x1 < x2) & (y1 < y2)
        if not fits.all():
            raise BadInput(
                f"Boxes of image {name!r} must have an area and lie inside its {width} x {height} pixels, "
                f"got {annotations.boxes[~fits][0].tolist()}."
            )
        return cls(image, annotations.boxes, annotations.classes, np.ones(len(annotations)))

    @property
    def width(self) -> int:
        return int(self.image.shape[1])

    @property
    def height(self) -> int:
        return int(self.image.shape[0])

    @property
    def annotations(self) -> Annotations:
        return Annotations(self.boxes, self.classes)

    def with_image(self, image: RgbImage) -> "Scene":
        """The same objects in the same places, other pixels."""
        return replace(self, image=image)

    def moved(self, image: RgbImage, boxes: FloatArray, min_visible: float = 0.0) -> "Scene":
        """The same objects in new places, cut at the edges of the new image.

        An object is dropped when a side of what is left is under `SMALLEST_SIDE_PX`, or when less than
        `min_visible` of it is left, counted from the picture the pipeline began with.

        Args:
            boxes: xyxy in pixels of the new image, may reach outside, shape (n, 4).
        """
        height, width = image.shape[:2]
        cut = np.clip(boxes, 0.0, [width, height, width, height])
        whole = areas(boxes)
        left = np.divide(areas(cut), whole, out=np.zeros_like(whole), where=whole > 0)
        return Scene(image, cut, self.classes, self.visible * left)._kept(min_visible)

    def covered(self, shares: FloatArray, min_visible: float) -> "Scene":
        """The objects still seen when `shares` of them, in [0, 1], lie under something else, shape (n,)."""
        return replace(self, visible=self.visible * (1.0 - np.minimum(shares, 1.0)))._kept(min_visible)

    def window(self, left: int, top: int, width: int, height: int, min_visible: float) -> "Scene":
        """What is seen in a rectangle of whole pixels inside the image."""
        image = self.image[top : top + height, left : left + width]
        return self.moved(image, self.boxes - [left, top, left, top], min_visible)

    def resized(self, width: int, height: int) -> "Scene":
        """Stretched to this size in pixels."""
        shrinks = width < self.width or height < self.height
        # OpenCV aligns the edges of the two images, not their outer pixel centres: boxes scale without an offset.
        image = cv2.resize(
            self.image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        )
        x, y = width / self.width, height / self.height
        return self.moved(image, self.boxes * [x, y, x, y])

    def joined(self, other: "Scene", left: int = 0, top: int = 0) -> "Scene":
        """Own pixels, and the objects of both: `other`'s origin lies at (`left`, `top`)."""
        return Scene(
            self.image,
            np.concatenate([self.boxes, other.boxes + np.array([left, top, left, top])]),
            np.concatenate([self.classes, other.classes]),
            np.concatenate([self.visible, other.visible]),
        )

    def _kept(self, min_visible: float) -> "Scene":
        sides = (self.boxes[:, 2:] - self.boxes[:, :2]).min(axis=1, initial=np.inf)
        seen = (self.visible > 0) & (self.visible >= min_visible - _ROUNDING)
        keep = seen & (sides >= SMALLEST_SIDE_PX - _ROUNDING)
        return Scene(self.image, self.boxes[keep], self.classes[keep], self.visible[keep])


@dataclass(frozen=True)
class Draws:
    """Where a step takes its chances from: its own generator, and the images it may mix in."""

    rng: np.random.Generator
    partners: PartnerSource = ()

    def uniform(self, span: tuple[float, float]) -> float:
        return float(self.rng.uniform(*span))

    def whole(self, span: tuple[int, int]) -> int:
        """A whole number of the span, both ends included."""
        return int(self.rng.integers(*span, endpoint=True))

    def partner(self) -> Scene:
        """Another image, any of them with the same chance.

        Raises:
            BadInput: it is not a picture with boxes inside.
        """
        position = int(self.rng.integers(len(self.partners)))
        return Scene.of(*self.partners[position], name=f"partner {position}")


def areas(boxes: FloatArray) -> FloatArray:
    """Square pixels, shape (n,)."""
    area: FloatArray = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return area
