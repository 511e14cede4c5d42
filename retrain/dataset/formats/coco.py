"""COCO: JSON files of images, annotations and categories, one per split (Lin et al., 2014).

A box is `[x, y, width, height]` in pixels with fractions, which is ours but for the last two. What COCO has no field
for stands under the key `retrain` of each image (`group`, `source`, `metadata`) and annotation (`id`, and `box` where
x + width is not exactly x2 in floating point); other readers ignore it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from retrain.dataset.dataset import ImageSource
from retrain.dataset.formats.checks import (
    FoundBoxes,
    check_size,
    checked_classes,
    class_indices,
    judged,
    measured,
    shown,
    unknown_class,
    unused,
)
from retrain.dataset.formats.coco_json import (
    Document,
    DocumentNote,
    ImageNote,
    ObjectNote,
    box,
    documents,
    identity,
    image_file,
    optional_count,
    read_note,
)
from retrain.dataset.formats.export import arriving, check_read_back, selected
from retrain.dataset.formats.labelled import LabelledDataset, LabelledImage, Loss, Problem, labelled_dataset
from retrain.dataset.formats.tree import Tree
from retrain.dataset.version import DatasetItem, DatasetVersion, LabelledObject
from retrain.errors import BadInput


def read(path: Path | Tree, classes: Sequence[str] | None = None) -> LabelledDataset:
    """Every COCO file below a folder, each for the split it is named after.

    Files called `instances_<split>.json` (a year after the split is ignored), or else `<split>.json` and
    `<split>/_annotations.coco.json`. An image is looked for beside its file, then in the imported folder and its
    `images/`, `<split>/` and `images/<split>/`. Categories become classes in the order of their ids.

    Args:
        classes: those of the result; boxes of other categories are left out. By default the categories.

    Raises:
        BadInput: there is no such file, or one is not COCO.
    """
    tree = Tree.of(path)
    found = documents(tree)
    pairs = sorted({pair for document in found for pair in document.categories.items()})
    names = checked_classes(dict.fromkeys(name for _, name in pairs), ", ".join(d.file for d in found))
    wanted = names if classes is None else checked_classes(classes, "classes")
    taken: dict[str, str] = {}
    images, problems = [], list(tree.problems)
    for document in found:
        reader = _Reader(tree, document, wanted, taken)
        images += reader.read()
        problems += reader.problems
    problems += unused(taken.keys(), tree.images(), "in no COCO file")
    return labelled_dataset(wanted, images, problems)


def write(
    version: DatasetVersion, images: ImageSource, target: Path, splits: Sequence[str] | None = None
) -> Path:
    """Export to `images/<digest>.<format>` and `annotations/instances_<split>.json`; `read` gives back the same.

    Args:
        target: not there yet, or an empty folder.
        splits: all by default.

    Raises:
        BadInput: no image is selected, or `target` is in use.
        PostConditionFailed: what was written does not read back as the version; nothing of it is kept.
    """
    names, items = selected(version, splits)
    with arriving(target, lambda folder: check_read_back(read(folder), version, items, 0.0)) as folder:
        (folder / "images").mkdir()
        (folder / "annotations").mkdir()
        for item, data in images.images(version, items):
            (folder / "images" / item.file_name).write_bytes(data)
        for split in names:
            content = _content(version, split, [item for item in items if item.split == split])
            file = folder / "annotations" / f"instances_{split}.json"
            file.write_bytes(msgspec.json.encode(content))
    return target


@dataclass
class _Entry:
    """An image of a document and what was found for it."""

    file: str
    size: tuple[float | None, float | None]
    note: ImageNote
    found: FoundBoxes = field(default_factory=FoundBoxes)


class _Reader:
    """Reads one document; `taken` says which file has each image already."""

    def __init__(
        self, tree: Tree, document: Document, classes: tuple[str, ...], taken: dict[str, str]
    ) -> None:
        self._tree, self._document, self._classes, self._taken = tree, document, classes, taken
        indices = class_indices(tuple(document.categories.values()), classes)
        self._indices = dict(zip(document.categories, indices, strict=True))
        self.problems: list[Problem] = []

    def read(self) -> list[LabelledImage]:
        entries: dict[int | str, _Entry | None] = {}
        for index, entry in enumerate(self._document.images):
            try:
                self._add_entry(entry, entries)
            except BadInput as e:
                self._report(f"image {index}", str(e), "image")
        seen: set[int | str] = set()
        for index, annotation in enumerate(self._document.annotations):
            try:
                self._add_annotation(annotation, f"annotation {index}", entries, seen)
            except BadInput as e:
                self._report(f"annotation {index}", str(e), "box")
        return [image for entry in entries.values() if entry and (image := self._image(entry))]

    def _add_entry(self, entry: Any, entries: dict[int | str, _Entry | None]) -> None:
        key, name = identity(entry, "id"), entry.get("file_name")
        if key in entries:
            raise BadInput(f"has the id {shown(key)} of another image")
        # Also when the image is refused its annotations must not be said to belong to nothing.
        entries[key] = None
        if not isinstance(name, str) or not name:
            raise BadInput(f"needs a file_name, got {shown(name)}")
        file = image_file(self._tree, self._document, name)
        if file in self._taken:
            raise BadInput(f"{name!r} has its labels in {self._taken[file]} already")
        self._taken[file] = self._document.file
        size = optional_count(entry, "width"), optional_count(entry, "height")
        entries[key] = _Entry(file, size, read_note(entry, ImageNote) or ImageNote())

    def _add_annotation(
        self, annotation: Any, where: str, entries: Mapping[int | str, _Entry | None], seen: set[int | str]
    ) -> None:
        image, category = identity(annotation, "image_id"), identity(annotation, "category_id")
        if annotation.get("id") is not None:
            if (key := identity(annotation, "id")) in seen:
                self._report(where, f"has the id {shown(key)} of another annotation", "nothing")
            seen.add(key)
        if image not in entries:
            raise BadInput(f"is for image {shown(image)}, which is not in the list of images")
        if (entry := entries[image]) is None:
            return
        if annotation.get("iscrowd"):
            raise BadInput("is a crowd region (iscrowd), not an object")
        if category not in self._indices:
            raise BadInput(f"has category {shown(category)}, which is not in the list of categories")
        if (index := self._indices[category]) is None:
            raise BadInput(unknown_class(self._document.categories[int(category)], self._classes))
        note = read_note(annotation, ObjectNote) or ObjectNote()
        entry.found.add(box(annotation, note), index, where, note.id)

    def _image(self, entry: _Entry) -> LabelledImage | None:
        path = self._tree.path(entry.file)
        try:
            size = measured(path)
            check_size(entry.size, size)
        except BadInput as e:
            self.problems.append(Problem(entry.file, "", str(e), "image"))
            return None
        boxes = judged(entry.found, size, self._document.file)
        self.problems += boxes.problems
        note = entry.note
        return LabelledImage(
            path, boxes.annotations, self._document.split, note.group, note.metadata, note.source, boxes.ids
        )

    def _report(self, where: str, what: str, lost: Loss) -> None:
        self.problems.append(Problem(self._document.file, where, what, lost))


def _content(version: DatasetVersion, split: str, items: Sequence[DatasetItem]) -> dict[str, Any]:
    annotations: list[dict[str, Any]] = []
    for number, item in enumerate(items, 1):
        for o in item.objects:
            annotations.append(_annotation(o, len(annotations) + 1, number))
    return {
        "info": {
            "description": version.description,
            "version": version.name,
            "retrain": DocumentNote(split=split),
        },
        "images": [
            {
                "id": number,
                "file_name": item.file_name,
                "width": item.width,
                "height": item.height,
                "retrain": ImageNote(group=item.group, source=item.source, metadata=item.metadata),
            }
            for number, item in enumerate(items, 1)
        ],
        "annotations": annotations,
        "categories": [{"id": index, "name": name} for index, name in enumerate(version.classes, 1)],
    }


def _annotation(o: LabelledObject, number: int, image: int) -> dict[str, Any]:
    x1, y1, x2, y2 = o.box
    width, height = x2 - x1, y2 - y1
    is_exact = (x1 + width, y1 + height) == (x2, y2)
    return {
        "id": number,
        "image_id": image,
        "category_id": o.class_index + 1,
        "bbox": [x1, y1, width, height],
        "area": width * height,
        "segmentation": [],
        "iscrowd": 0,
        "retrain": ObjectNote(id=o.id, box=None if is_exact else o.box),
    }
