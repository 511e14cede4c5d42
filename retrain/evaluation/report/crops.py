"""What a model got wrong, cut out of its image: a JPEG inside the page."""

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Pixels = Callable[[str], NDArray[np.uint8]]
"""RGB pixels of an image, by its id."""
Box = tuple[float, float, float, float]

TRUE, FOUND = (60, 200, 90), (255, 140, 0)
_SIDE, _MARGIN, _LEAST, _QUALITY = 220, 0.6, 48.0, 82


@dataclass(frozen=True)
class Crop:
    """A picture with what is said below it; `sub` is said more quietly, the image's id last."""

    picture: str
    title: str
    sub: str
    image_id: str


def cut_out(pixels: NDArray[np.uint8], about: Box, boxes: list[tuple[Box, tuple[int, int, int]]]) -> str:
    """A square around a box, with boxes drawn on it, as a data URI.

    Args:
        pixels: RGB, shape (height, width, 3).
        about: xyxy in pixels; what is shown around it grows with its size.
        boxes: xyxy in pixels, each with its colour.
    """
    height, width = pixels.shape[:2]
    side = max((max(about[2] - about[0], about[3] - about[1])) * (1 + 2 * _MARGIN), _LEAST)
    side = min(side, float(max(width, height)))
    corner = (about[0] + about[2] - side) / 2, (about[1] + about[3] - side) / 2
    # Beyond its edges an image is grey, so that a box there keeps its place and size.
    region = tuple(round(value) for value in (*corner, corner[0] + side, corner[1] + side))
    grey = Image.new("RGB", (max(region[2] - region[0], 1), max(region[3] - region[1], 1)), (120, 120, 120))
    inside = (max(region[0], 0), max(region[1], 0), min(region[2], width), min(region[3], height))
    if inside[2] > inside[0] and inside[3] > inside[1]:
        part = np.ascontiguousarray(pixels[inside[1] : inside[3], inside[0] : inside[2]])
        grey.paste(Image.fromarray(part), (inside[0] - region[0], inside[1] - region[1]))
    scale = _SIDE / grey.width
    picture = grey.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(picture)
    for (x1, y1, x2, y2), colour in boxes:
        left, right = ((x - region[0]) * scale for x in (x1, x2))
        top, bottom = ((y - region[1]) * scale for y in (y1, y2))
        # Dark around it, so that it is seen on any ground.
        draw.rectangle((left - 2, top - 2, right + 2, bottom + 2), outline=(0, 0, 0), width=1)
        draw.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=colour, width=2)
    buffer = io.BytesIO()
    # Else thin coloured lines turn pale.
    picture.save(buffer, "JPEG", quality=_QUALITY, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
