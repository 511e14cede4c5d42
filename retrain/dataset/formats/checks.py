"""What every format checks alike: numbers, class names, image files, and boxes against their image."""

import posixpath
import re
import reprlib
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from retrain.boxes import Annotations, FloatArray
from retrain.dataset.formats.labelled import Problem
from retrain.errors import BadInput

TOLERANCE_PX = 0.02
"""Boxes that stick out by less are clipped without a word: six decimals in YOLO and two in COCO round that far."""
SPLIT_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
"""Names of official splits as tools write them, and as we do."""
# Possessive, so that a row of digits a megabyte long costs no more than its length.
_NUMBER = re.compile(r"[-+]?(?:\d++(?:\.\d*+)?|\.\d++)(?:[eE][-+]?\d++)?", re.ASCII)
_ORIENTATION, _TURNED = 0x0112, {5, 6, 7, 8}
_PNG_ORIENTATION = (b"eXIf", b"Raw profile type", b"XML:com.adobe.xmp")


@dataclass
class FoundBoxes:
    """Boxes of one image as a file has them, before they are held against the image.

    Attributes:
        boxes: xyxy in pixels.
        where: the place of each in its file.
        ids: the id of each; empty where there is none.
    """

    boxes: list[tuple[float, float, float, float]] = field(default_factory=list)
    classes: list[int] = field(default_factory=list)
    where: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)

    def add(
        self, box: tuple[float, float, float, float], class_index: int, where: str, object_id: str = ""
    ) -> None:
        self.boxes.append(box)
        self.classes.append(class_index)
        self.where.append(where)
        self.ids.append(object_id)


@dataclass(frozen=True)
class JudgedBoxes:
    """The boxes that hold against their image; `ids` is empty unless every one has its own."""

    annotations: Annotations
    ids: tuple[str, ...]
    problems: list[Problem]


def judged(found: FoundBoxes, size: tuple[int, int], file: str) -> JudgedBoxes:
    """Drop what is no box in an image of this (width, height), and clip what sticks out.

    A box sticking out by more than `TOLERANCE_PX` is clipped and reported when its centre is inside, else dropped.
    """
    given = np.array(found.boxes, dtype=np.float64).reshape(-1, 4)
    is_finite = ~_any(~np.isfinite(given))
    boxes = np.where(is_finite[:, None], given, 0.0)
    edges = np.array([*size, *size], dtype=np.float64)
    clipped = np.clip(boxes, 0.0, edges)
    centre = boxes[:, :2] / 2 + boxes[:, 2:] / 2
    is_away = _any((centre < 0) | (centre > edges[:2])) | _is_flat(clipped)
    is_out = _any(np.abs(boxes - clipped) > TOLERANCE_PX)
    is_swapped = _any(boxes[:, 2:] < boxes[:, :2])
    reasons: tuple[tuple[NDArray[np.bool_], str], ...] = (
        (~is_finite, "has a corner that is not a finite number"),
        (is_swapped, "has its corners swapped (x2 < x1 or y2 < y1)"),
        (_is_flat(boxes), "has zero area"),
        (is_away, f"lies outside the image of {size[0]} x {size[1]} pixels"),
    )
    is_kept, problems = np.ones(len(given), dtype=bool), []
    for is_bad, what in reasons:
        for index in np.flatnonzero(is_bad & is_kept).tolist():
            text = f"{what}: {_shown_box(given[index])}"
            problems.append(Problem(file, found.where[index], text, "box"))
        is_kept &= ~is_bad
    for index in np.flatnonzero(is_kept & is_out).tolist():
        what = f"sticks out of the image of {size[0]} x {size[1]} pixels and was clipped"
        problems.append(Problem(file, found.where[index], f"{what}: {_shown_box(given[index])}", "nothing"))
    classes = np.array(found.classes, dtype=np.int64)[is_kept]
    ids = tuple(found.ids[index] for index in np.flatnonzero(is_kept).tolist())
    is_named = all(ids) and len(set(ids)) == len(ids)
    return JudgedBoxes(Annotations(clipped[is_kept], classes), ids if is_named else (), problems)


def measured(path: Path) -> tuple[int, int]:
    """Width and height of an image as it is shown (EXIF orientation applied), from its header alone.

    Raises:
        BadInput: it is no image; the message is the reason only.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            is_turned = _may_be_turned(path, image.format) and image.getexif().get(_ORIENTATION) in _TURNED
    # Pillow's readers raise whatever they stumble on (OSError, SyntaxError, struct.error, zlib.error, …).
    except Exception as e:
        is_empty = path.is_file() and path.stat().st_size == 0
        raise BadInput("is empty (0 bytes)" if is_empty else f"is not an image that can be read: {e}") from e
    return (height, width) if is_turned else (width, height)


def check_size(stated: tuple[float | None, float | None], real: tuple[int, int]) -> None:
    """Hold the image size that a label file states (None or 0: it states none) against the real one.

    Raises:
        BadInput: they differ, so nobody can know which pixels the boxes mean.
    """
    if any(value and value != is_ for value, is_ in zip(stated, real, strict=True)):
        shown = " x ".join("?" if value is None else f"{value:g}" for value in stated)
        turned = " (turned by its EXIF orientation)" if stated == (real[1], real[0]) else ""
        raise BadInput(f"is {real[0]} x {real[1]} pixels{turned}, but its labels are for {shown}")


def number(text: str) -> float:
    """A decimal number, and nothing else that Python would take for one.

    Raises:
        BadInput: NaN, infinity, underscores, or no number at all.
    """
    if not _NUMBER.fullmatch(text):
        raise BadInput(f"{shown(text)} is not a number")
    return float(text)


def shown(value: object) -> str:
    """A value in a message: short, whatever a hostile file has there."""
    return _SHORT.repr(value)


def read_file(path: Path) -> bytes:
    """The bytes of a file.

    Raises:
        BadInput: it cannot be read; the message is the reason only.
    """
    try:
        return path.read_bytes()
    except OSError as e:
        raise BadInput(f"cannot be read: {e.strerror}") from e


def read_text(path: Path) -> str:
    """A text file in UTF-8, with or without a byte order mark.

    Raises:
        BadInput: it cannot be read or is no UTF-8; the message is the reason only.
    """
    try:
        return read_file(path).decode("utf-8-sig")
    except UnicodeDecodeError as e:
        raise BadInput(f"is not UTF-8 text: byte {e.object[e.start]:#04x} at offset {e.start}") from e


def checked_classes(names: Iterable[str], origin: str) -> tuple[str, ...]:
    """Class names in their order.

    Raises:
        BadInput: none at all, an empty one, or one twice.
    """
    classes = tuple(names)
    twice = sorted(name for name, count in Counter(classes).items() if count > 1)
    if not classes or twice or not all(name.strip() for name in classes):
        what = f"{', '.join(map(repr, twice))} occurs twice" if twice else "there is an empty one, or none"
        raise BadInput(f"{origin}: class names must be different and not empty, but {what}.")
    return classes


def class_indices(names: Sequence[str], classes: Sequence[str] | None) -> tuple[int | None, ...]:
    """For each name its index in `classes` (in `names` themselves by default); None where it has none."""
    known = {name: index for index, name in enumerate(names if classes is None else classes)}
    return tuple(known.get(name) for name in names)


def unknown_class(name: str, classes: Sequence[str]) -> str:
    return f"class {shown(name)} is not one of {shown(', '.join(classes))}"


def split_of_folders(file: str) -> str | None:
    """The official split that one of the folders on the way to a file is named after."""
    named = [SPLIT_NAMES[part.lower()] for part in file.split("/")[:-1] if part.lower() in SPLIT_NAMES]
    return named[0] if named else None


def unused(images: Collection[str], total: Sequence[str], why: str) -> list[Problem]:
    """One note per folder that has images nobody mentions."""
    left: dict[str, list[str]] = {}
    for file in total:
        if file not in images:
            left.setdefault(posixpath.dirname(file) or ".", []).append(posixpath.basename(file))
    return [
        Problem(
            folder,
            "",
            f"{len(names)} images are not imported, as they are {why}, such as {names[0]}",
            "nothing",
        )
        for folder, names in left.items()
    ]


def _may_be_turned(path: Path, kind: str | None) -> bool:
    # Pillow decodes a whole PNG to look for an orientation behind its pixels, where hardly any has one.
    if kind != "PNG":
        return True
    data = path.read_bytes()
    return any(mark in data for mark in _PNG_ORIENTATION)


def _is_flat(boxes: FloatArray) -> NDArray[np.bool_]:
    return _any(boxes[:, 2:] <= boxes[:, :2])


def _any(columns: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return np.asarray(columns.any(axis=1), dtype=np.bool_)


def _shown_box(box: FloatArray) -> str:
    return ", ".join(f"{edge:g}" for edge in box.tolist())


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 120
