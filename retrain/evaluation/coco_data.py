"""A COCO file read to be evaluated on: all that pycocotools would count, crowd regions and stated areas included.

An import drops crowds and clips boxes to their image; here either would change the numbers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from retrain.boxes import Annotations
from retrain.dataset.formats.checks import check_size, measured, shown
from retrain.dataset.formats.coco_json import (
    Document,
    ImageNote,
    ObjectNote,
    box,
    identity,
    image_file,
    optional_count,
    read_note,
)
from retrain.dataset.formats.labelled import Problem
from retrain.dataset.formats.tree import Tree
from retrain.errors import BadInput


@dataclass(frozen=True)
class CocoImage:
    """One image; `key` is its id in the file, `image_id` its path below the folder of images."""

    key: int | str
    image_id: str
    path: Path
    note: ImageNote
    objects: Annotations
    crowd: tuple[bool, ...]
    areas: tuple[float, ...]
    sizes: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class CocoLabels:
    """What one file says.

    Attributes:
        categories: class index by category id.
    """

    classes: tuple[str, ...]
    categories: Mapping[int, int]
    images: tuple[CocoImage, ...]
    problems: tuple[Problem, ...]


@dataclass
class _Entry:
    image_id: str
    path: Path
    note: ImageNote
    boxes: list[tuple[float, float, float, float]] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    crowd: list[bool] = field(default_factory=list)
    areas: list[float] = field(default_factory=list)
    sizes: list[tuple[float, float]] = field(default_factory=list)


def read_coco(document: Document, images: Tree) -> CocoLabels:
    """Its images and objects; each image is opened as far as its size.

    Args:
        images: where the images are looked for.
    """
    categories = {key: index for index, key in enumerate(document.categories)}
    entries: dict[int | str, _Entry | None] = {}
    problems: list[Problem] = []
    for index, entry in enumerate(document.images):
        try:
            _add_image(entry, document, images, entries)
        except BadInput as error:
            problems.append(Problem(document.file, f"image {index}", str(error), "image"))
    for index, annotation in enumerate(document.annotations):
        try:
            _add_object(annotation, entries, categories)
        except BadInput as error:
            problems.append(Problem(document.file, f"annotation {index}", str(error), "box"))
    found = tuple(_image(key, entry) for key, entry in entries.items() if entry is not None)
    return CocoLabels(tuple(document.categories.values()), categories, found, tuple(problems))


def _add_image(entry: Any, document: Document, images: Tree, entries: dict[int | str, _Entry | None]) -> None:
    key, name = identity(entry, "id"), entry.get("file_name")
    if key in entries:
        raise BadInput(f"has the id {shown(key)} of another image")
    entries[key] = None
    if not isinstance(name, str) or not name:
        raise BadInput(f"needs a file_name, got {shown(name)}")
    file = image_file(images, document, name)
    path = images.path(file)
    try:
        check_size((optional_count(entry, "width"), optional_count(entry, "height")), measured(path))
    except BadInput as error:
        raise BadInput(f"{name!r} {error}") from error
    entries[key] = _Entry(file, path, read_note(entry, ImageNote) or ImageNote())


def _add_object(
    annotation: Any, entries: Mapping[int | str, _Entry | None], categories: Mapping[int, int]
) -> None:
    image, category = identity(annotation, "image_id"), identity(annotation, "category_id")
    if image not in entries:
        raise BadInput(f"is for image {shown(image)}, which is not in the list of images")
    if not isinstance(category, int) or category not in categories:
        raise BadInput(f"has category {shown(category)}, which is not in the list of categories")
    note = read_note(annotation, ObjectNote) or ObjectNote()
    corners = box(annotation, note)
    if corners == note.box:
        x1, y1, x2, y2 = corners
        width, height = x2 - x1, y2 - y1
    else:
        width, height = map(float, annotation["bbox"][2:])
    if width < 0 or height < 0:
        raise BadInput(f"has a bbox of negative size: {shown(annotation['bbox'])}")
    crowd = annotation.get("iscrowd") or 0
    if crowd not in (0, 1):
        # A text "0" would be true, and what counts would not.
        raise BadInput(f"needs 0 or 1 as iscrowd, got {shown(crowd)}")
    area = optional_count(annotation, "area")
    if (entry := entries[image]) is not None:
        entry.boxes.append(corners)
        entry.labels.append(categories[category])
        entry.crowd.append(bool(crowd))
        entry.areas.append(width * height if area is None else area)
        entry.sizes.append((width, height))


def _image(key: int | str, entry: _Entry) -> CocoImage:
    objects = Annotations.of(entry.boxes, entry.labels)
    return CocoImage(
        key,
        entry.image_id,
        entry.path,
        entry.note,
        objects,
        tuple(entry.crowd),
        tuple(entry.areas),
        tuple(entry.sizes),
    )
