"""Steps that move pixels, and the boxes with them.

Boxes are edges in continuous coordinates: the pixel in column 0 covers [0, 1]. OpenCV's warps address pixel
*centres*, where the same pixel is at 0. Every matrix here is in edge coordinates; `warped` shifts it by the half
pixel, once, so that boxes and pixels agree exactly.
"""

import math
from typing import Annotated, ClassVar, Literal

import cv2
import numpy as np
from pydantic import Field

from retrain.boxes import FloatArray
from retrain.dataset.augmentation.photometric import blurred
from retrain.dataset.augmentation.scene import Draws, RgbImage, Scene
from retrain.dataset.augmentation.step import GreyLevel, MovingStep, Span, Step, Within

GREY = 114
"""What Ultralytics fills the outside with."""


class Flip(Step):
    """Mirrors the image. Leave it out where left and right differ in meaning, as for digits."""

    name: ClassVar = "flip"

    directions: Annotated[tuple[Literal["horizontal", "vertical"], ...], Field(min_length=1)] = (
        "horizontal",
    )
    """One of them is drawn: `horizontal` swaps left and right, `vertical` top and bottom."""

    def apply(self, scene: Scene, draws: Draws) -> Scene:
        x1, y1, x2, y2 = scene.boxes.T
        if self.directions[draws.whole((0, len(self.directions) - 1))] == "horizontal":
            boxes = np.stack([scene.width - x2, y1, scene.width - x1, y2], axis=1)
            return scene.moved(cv2.flip(scene.image, 1), boxes)
        boxes = np.stack([x1, scene.height - y2, x2, scene.height - y1], axis=1)
        return scene.moved(cv2.flip(scene.image, 0), boxes)


class QuarterTurn(Step):
    """Turns the image counter-clockwise by multiples of 90 degrees, without loss; width and height may swap."""

    name: ClassVar = "quarter_turn"

    turns: Annotated[tuple[Literal[1, 2, 3], ...], Field(min_length=1)] = (1, 2, 3)
    """How many quarters; one of them is drawn."""

    def apply(self, scene: Scene, draws: Draws) -> Scene:
        turns = self.turns[draws.whole((0, len(self.turns) - 1))]
        boxes, width, height = scene.boxes, scene.width, scene.height
        for _ in range(turns):
            x1, y1, x2, y2 = boxes.T
            boxes = np.stack([y1, width - x2, y2, width - x1], axis=1)
            width, height = height, width
        return scene.moved(np.ascontiguousarray(np.rot90(scene.image, turns)), boxes)


class Affine(MovingStep):
    """Turns, scales, shears and shifts the image about its middle; its size stays.

    A box becomes the upright envelope of its four moved corners, so turning makes boxes larger than their objects;
    one step with several of these is tighter than several steps.
    """

    name: ClassVar = "affine"

    rotate_deg: Annotated[Span, Within(-180, 180)] = (-10.0, 10.0)
    """Degrees, positive is clockwise."""
    scale: Annotated[Span, Within(0.1, 10)] = (0.8, 1.2)
    """Factor of both sides."""
    shear_deg: Annotated[Span, Within(-45, 45)] = (0.0, 0.0)
    """Degrees by which upright lines lean."""
    shift: Annotated[Span, Within(-1, 1)] = (-0.1, 0.1)
    """Share of the width and, drawn separately, of the height."""
    fill: GreyLevel = GREY
    """Grey level of what comes in from outside."""

    def apply(self, scene: Scene, draws: Draws) -> Scene:
        angle, factor = math.radians(draws.uniform(self.rotate_deg)), draws.uniform(self.scale)
        lean = math.tan(math.radians(draws.uniform(self.shear_deg)))
        right, down = draws.uniform(self.shift) * scene.width, draws.uniform(self.shift) * scene.height
        cos, sin = factor * math.cos(angle), factor * math.sin(angle)
        turn = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
        shear = np.array([[1.0, lean, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
        x, y = scene.width / 2, scene.height / 2
        matrix = translation(x + right, y + down) @ turn @ shear @ translation(-x, -y)
        return warped(scene, matrix, self.fill, self.min_visible)


class Perspective(Step):
    """Pulls the four corners inwards, each by its own draw, as if the camera looked at the scene from the side."""

    name: ClassVar = "perspective"

    # At a third, three corners can come to lie on one line.
    corner_shift: Annotated[Span, Within(0, 0.3)] = (0.0, 0.1)
    """Share of the width and, drawn separately, of the height."""
    fill: GreyLevel = GREY
    """Grey level of what comes in from outside."""

    def apply(self, scene: Scene, draws: Draws) -> Scene:
        size = np.array([scene.width, scene.height], dtype=np.float32)
        corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], dtype=np.float32)
        shifts = draws.rng.uniform(*self.corner_shift, size=(4, 2)).astype(np.float32)
        target = (corners + (1 - 2 * corners) * shifts) * size
        matrix = cv2.getPerspectiveTransform(corners * size, target)
        # Nothing leaves the picture.
        return warped(scene, matrix, self.fill, min_visible=0.0)


class Crop(MovingStep):
    """Cuts out a part and stretches it to the size of the image (Szegedy et al., 2015)."""

    name: ClassVar = "crop"

    area: Annotated[Span, Within(0.01, 1)] = (0.5, 1.0)
    """Share of the image's area."""
    aspect: Annotated[Span, Within(0.25, 4)] = (0.8, 1.25)
    """Width to height of the part, as a factor of that of the image."""

    def apply(self, scene: Scene, draws: Draws) -> Scene:
        area, aspect = draws.uniform(self.area), draws.uniform(self.aspect)
        width = min(max(round(scene.width * math.sqrt(area * aspect)), 1), scene.width)
        height = min(max(round(scene.height * math.sqrt(area / aspect)), 1), scene.height)
        left, top = draws.whole((0, scene.width - width)), draws.whole((0, scene.height - height))
        part = scene.window(left, top, width, height, self.min_visible)
        return part.resized(scene.width, scene.height)


def translation(x: float, y: float) -> FloatArray:
    return np.array([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]])


def warped(scene: Scene, matrix: FloatArray, fill: int, min_visible: float) -> Scene:
    """Pixels and boxes moved by the same map, in an image of the same size.

    Args:
        matrix: old to new place in edge coordinates, homogeneous, shape (3, 3).
    """
    # (0.5, 0.5) is where the first pixel's centre is among edges, and (0, 0) where OpenCV has it.
    centres = translation(-0.5, -0.5) @ matrix @ translation(0.5, 0.5)
    # A warp looks at 4 pixels for each new one. Where the picture shrinks that skips some, and thin objects break up.
    soft = blurred(scene.image, _lost_detail_px(scene, matrix))
    return scene.moved(_warped_pixels(soft, centres, fill), moved_boxes(scene.boxes, matrix), min_visible)


def _lost_detail_px(scene: Scene, matrix: FloatArray) -> float:
    """Standard deviation of what a smaller picture cannot show, a pixel's own being a half (Lowe, 2004: 3.3)."""
    w, h = scene.width, scene.height
    corners = np.array([[0.0, 0.0, 1.0], [w, 0.0, 1.0], [w, h, 1.0], [0.0, h, 1.0]]) @ matrix.T
    factor = math.sqrt(cv2.contourArea((corners[:, :2] / corners[:, 2:]).astype(np.float32)) / (w * h))
    return 0.5 * math.sqrt(max(1 / factor**2 - 1, 0.0))


def _warped_pixels(image: RgbImage, matrix: FloatArray, fill: int) -> RgbImage:
    size, edge, colour = (image.shape[1], image.shape[0]), cv2.BORDER_CONSTANT, (fill, fill, fill)
    if np.array_equal(matrix[2], [0, 0, 1]):
        moved: RgbImage = cv2.warpAffine(image, matrix[:2], size, borderMode=edge, borderValue=colour)
    else:
        moved = cv2.warpPerspective(image, matrix, size, borderMode=edge, borderValue=colour)
    return moved


def moved_boxes(boxes: FloatArray, matrix: FloatArray) -> FloatArray:
    """Upright envelopes of the moved corners: xyxy in pixels, may reach outside the image, shape (n, 4)."""
    corners = boxes[:, [[0, 1], [2, 1], [2, 3], [0, 3]]]
    moved = corners @ matrix[:, :2].T + matrix[:, 2]
    points = moved[..., :2] / moved[..., 2:]
    envelopes: FloatArray = np.concatenate([points.min(axis=1), points.max(axis=1)], axis=1)
    return envelopes
