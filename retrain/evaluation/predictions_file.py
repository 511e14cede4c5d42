"""COCO results, `predictions.json` as Ultralytics and others write it, in the place of a model."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec
import numpy as np

from retrain.errors import BadInput
from retrain.evaluation.labelled_data import LabelledData
from retrain.evaluation.predictions import Predictions
from retrain.evaluation.truth import Truth

_NAMED = 5


class _Entry(msgspec.Struct, frozen=True):
    image_id: int | str
    category_id: int
    bbox: tuple[float, float, float, float]
    score: float


def read_predictions(path: Path, data: LabelledData, truth: Truth) -> Predictions:
    """What the file says of the images of the data; in those that it does not name nothing was found.

    An image is named by its COCO id, its path, or its file name with or without the suffix.

    Args:
        truth: of the data.

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
    bbox = np.array([entry.bbox for entry in entries], dtype=np.float64).reshape(-1, 4)
    scores = np.array([entry.score for entry in entries], dtype=np.float64)
    corner, sizes = bbox[:, :2], bbox[:, 2:]
    with np.errstate(over="ignore"):
        boxes = np.hstack([corner, corner + sizes])
    right = np.isfinite(boxes).all(axis=1) & (sizes >= 0).all(axis=1) & (scores >= 0) & (scores <= 1)
    if not right.all():
        number = int(right.argmin())
        raise BadInput(
            f"{path}: entry {number} needs a bbox x, y, width, height and a score in [0, 1], got "
            f"{entries[number].bbox} and {entries[number].score}."
        )
    rows = {image: row for row, image in enumerate(truth.images)}
    image = np.array([rows[keys[str(entry.image_id)]] for entry in entries], dtype=np.int64)
    label = np.array([data.categories[entry.category_id] for entry in entries], dtype=np.int64)
    return Predictions.of_columns(truth, image, label, boxes, scores, sizes)


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
