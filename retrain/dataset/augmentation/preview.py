"""A picture of what a pipeline does: each image beside augmented variants of it, with boxes and the steps taken."""

import io
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from retrain.boxes import Annotations
from retrain.dataset.augmentation.scene import RgbImage
from retrain.dataset.augmenter import DatasetAugmenter
from retrain.errors import BadInput

_CELL = (320, 240)
_GAP = 10
_FONT_PX, _LINE_PX, _LINE_CHARACTERS = 13, 17, 46
_COLOURS = (
    "#e6194b",
    "#3cb44b",
    "#4363d8",
    "#f58231",
    "#911eb4",
    "#008080",
    "#9a6324",
    "#e0b000",
    "#f032e6",
    "#42d4f4",
)
_INK, _PAPER = "#303030", "#ffffff"

LabelledImage = tuple[RgbImage, Annotations]


def preview(
    images: Sequence[LabelledImage],
    pipeline: Sequence[Mapping[str, Any]],
    seed: int = 0,
    variants: int = 4,
    classes: Sequence[str] = (),
) -> bytes:
    """One row an image: itself, then `variants` augmented ones, each over the names of the steps it went through.

    Args:
        images: RGB and boxes, as `DatasetAugmenter.augment` takes them; also what the steps that mix draw from.
        classes: names in index order, for a legend of the colours; empty for none.

    Returns:
        A PNG file. Variant n of the image at position i is that of image id `str(i)` in epoch n, from 1.

    Raises:
        ConfigError: as `DatasetAugmenter`.
        BadInput: no image, no variant, or what `augment` refuses.
    """
    if not images or variants < 1:
        raise BadInput(f"A preview needs an image and a variant, got {len(images)} and {variants}.")
    augmenter = DatasetAugmenter(pipeline, seed)
    rows = [_row(augmenter, images, position, variants) for position in range(len(images))]
    buffer = io.BytesIO()
    _stacked([*rows, *_legend(classes)], _GAP).save(buffer, "PNG")
    return buffer.getvalue()


def _row(
    augmenter: DatasetAugmenter, images: Sequence[LabelledImage], position: int, variants: int
) -> Image.Image:
    captions, pictures = ["original"], [_picture(*images[position])]
    for epoch in range(1, variants + 1):
        captions.append(", ".join(augmenter.steps_drawn(str(position), epoch)) or "no step drawn")
        pictures.append(_picture(*augmenter.augment(*images[position], str(position), epoch, images)))
    texts = [textwrap.wrap(caption, _LINE_CHARACTERS) for caption in captions]
    height = _CELL[1] + max(map(len, texts)) * _LINE_PX + _GAP
    row = Image.new("RGB", (len(texts) * (_CELL[0] + _GAP) + _GAP, height), _PAPER)
    for column, (picture, lines) in enumerate(zip(pictures, texts, strict=True)):
        left = _GAP + column * (_CELL[0] + _GAP)
        row.paste(picture, (left + (_CELL[0] - picture.width) // 2, (_CELL[1] - picture.height) // 2))
        _write(row, (left, _CELL[1] + _GAP // 2), "\n".join(lines))
    return row


def _picture(image: RgbImage, annotations: Annotations) -> Image.Image:
    """The image fitted into a cell, with a frame in its class's colour around every object."""
    height, width = image.shape[:2]
    factor = min(_CELL[0] / width, _CELL[1] / height)
    size = max(round(width * factor), 1), max(round(height * factor), 1)
    # Single pixels stay visible as such in small images.
    picture = Image.fromarray(image).resize(
        size, Image.Resampling.NEAREST if factor > 1 else Image.Resampling.LANCZOS
    )
    draw = ImageDraw.Draw(picture)
    for box, index in zip(annotations.boxes * factor, annotations.classes, strict=True):
        x1, y1 = (max(round(edge), 0) for edge in box[:2])
        x2, y2 = (min(round(edge), side) - 1 for edge, side in zip(box[2:], size, strict=True))
        if x1 <= x2 and y1 <= y2:
            draw.rectangle((x1, y1, x2, y2), outline=_COLOURS[index % len(_COLOURS)], width=2)
    return picture


def _legend(classes: Sequence[str]) -> list[Image.Image]:
    if not classes:
        return []
    font = ImageFont.load_default(_FONT_PX)
    widths = [round(font.getlength(name)) + _FONT_PX + 3 * _GAP for name in classes]
    legend = Image.new("RGB", (sum(widths) + _GAP, _LINE_PX + _GAP), _PAPER)
    for index, name in enumerate(classes):
        left, colour = _GAP + sum(widths[:index]), _COLOURS[index % len(_COLOURS)]
        ImageDraw.Draw(legend).rectangle((left, 2, left + _FONT_PX, 2 + _FONT_PX), fill=colour)
        _write(legend, (left + _FONT_PX + _GAP // 2, 0), name)
    return [legend]


def _write(picture: Image.Image, place: tuple[int, int], text: str) -> None:
    font = ImageFont.load_default(_FONT_PX)
    ImageDraw.Draw(picture).multiline_text(place, text, fill=_INK, font=font, spacing=_LINE_PX - _FONT_PX)


def _stacked(parts: Sequence[Image.Image], gap: int) -> Image.Image:
    height = sum(part.height + gap for part in parts) + gap
    sheet = Image.new("RGB", (max(part.width for part in parts), height), _PAPER)
    top = gap
    for part in parts:
        sheet.paste(part, (0, top))
        top += part.height + gap
    return sheet
