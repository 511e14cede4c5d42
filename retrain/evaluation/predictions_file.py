"""COCO results, `predictions.json` as Ultralytics and others write it, in the place of a model."""

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from retrain.boxes import Detections
from retrain.errors import BadInput
from retrain.evaluation.labelled_data import LabelledData

_NAMED = 5


class _Entry(msgspec.Struct, frozen=True):
    image_id: int | str
    category_id: int
    bbox: tuple[float, float, float, float]
    score: float


def read_predictions(path: Path, data: LabelledData) -> dict[str, Detections]:
    """Detections by image, for every image of the data; images that the file does not name have none.

    An image is named by its COCO id, its path, or its file name with or without the suffix.

    Raises:
        BadInput: not COCO results, or images or categories that are not in the data; all are counted, some named.
    """
    try:
        entries = msgspec.json.decode(path.read_bytes(), type=list[_Entry])
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}.") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadInput(
            f"{path} is not a file of COCO results, a list of image_id, category_id, bbox and score: {error}."
        ) from error
    keys = _keys(data)
    _refuse_unknown(path, entries, keys, data)
    rows: dict[str, list[tuple[list[float], int, float]]] = {item.image_id: [] for item in data.items}
    for number, entry in enumerate(entries):
        x, y, width, height = entry.bbox
        if not all(map(math.isfinite, entry.bbox)) or width < 0 or height < 0 or not 0 <= entry.score <= 1:
            raise BadInput(
                f"{path}: entry {number} needs a bbox x, y, width, height and a score in [0, 1], got {entry.bbox} and "
                f"{entry.score}."
            )
        row = [x, y, x + width, y + height], data.categories[entry.category_id], entry.score
        rows[keys[str(entry.image_id)]].append(row)
    return {image: _detections(found) for image, found in rows.items()}


def _detections(rows: list[tuple[list[float], int, float]]) -> Detections:
    return Detections.of([row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows])


def _keys(data: LabelledData) -> Mapping[str, str]:
    """What a file may call an image, with what no other image is called too."""
    known: dict[str, Any] = dict(data.keys)
    # Where the data has ids of its own, a number is such an id.
    for names in (_whole, _name, _stem) if data.keys else (_whole, _name, _stem, _number):
        said = {item.image_id: names(item.image_id) for item in data.items}
        count = Counter(said.values())
        for image_id, name in said.items():
            if name and count[name] == 1:
                known.setdefault(name, image_id)
    return known


def _whole(image_id: str) -> str:
    return image_id


def _name(image_id: str) -> str:
    return PurePosixPath(image_id).name


def _stem(image_id: str) -> str:
    return PurePosixPath(image_id).stem


def _number(image_id: str) -> str:
    """Ultralytics writes file names made of digits as numbers."""
    stem = PurePosixPath(image_id).stem
    return str(int(stem)) if stem.isdecimal() and stem.isascii() else ""


def _refuse_unknown(path: Path, entries: list[_Entry], keys: Mapping[str, str], data: LabelledData) -> None:
    images = sorted({str(entry.image_id) for entry in entries if str(entry.image_id) not in keys})
    categories = sorted({entry.category_id for entry in entries if entry.category_id not in data.categories})
    problems = []
    if images:
        problems.append(f"{len(images)} images that are not in {data.name}: {_shown(images)}")
    if categories:
        known = ", ".join(f"{key} {data.classes[index]}" for key, index in list(data.categories.items())[:20])
        problems.append(
            f"{len(categories)} unknown categories: {_shown([str(key) for key in categories])} (known: {known})"
        )
    if problems:
        raise BadInput(f"{path} has {'; and '.join(problems)}.")


def _shown(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
