"""YOLO in Ultralytics' layout: data.yaml, images, and beside `images/` a `labels/` with one text file per image.

A row is a class index, then the centre and size of a box as fractions of the image. Written with all their digits,
fractions give back every edge within 1e-9 of the image's side, far below 1e-5 px. `retrain.jsonl` carries what YOLO
has no place for (see `sidecar`).
"""

import posixpath
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml

from retrain.boxes import xyxy_to_yolo, yolo_to_xyxy
from retrain.dataset.dataset import ImageSource
from retrain.dataset.formats.checks import (
    FoundBoxes,
    checked_classes,
    class_indices,
    judged,
    measured,
    number,
    read_text,
    shown,
    split_of_folders,
    unknown_class,
    unused,
)
from retrain.dataset.formats.export import arriving, check_read_back, selected
from retrain.dataset.formats.labelled import LabelledDataset, LabelledImage, Loss, Problem, labelled_dataset
from retrain.dataset.formats.sidecar import Sidecar, note_of, read_sidecar, write_sidecar
from retrain.dataset.formats.tree import Tree
from retrain.dataset.formats.yolo_config import CLASS_LIST, YoloConfig, config_file, read_config
from retrain.dataset.version import DatasetItem, DatasetVersion
from retrain.errors import BadInput

_TOLERANCE_PX = 1e-5
_ROW = re.compile(r"\s*\d+(?:[ \t]+[\d.eE+-]+){4}", re.ASCII)
_INDEX = re.compile(r"\d{1,9}", re.ASCII)


def read(path: Path | Tree, classes: Sequence[str] | None = None) -> LabelledDataset:
    """What data.yaml lists under train, val and test: folders, or text files with a path of an image on each line.

    With `classes.txt` in place of data.yaml, or a data.yaml without splits, every image; a folder named train, val,
    valid or test says the split.
    An image without a label file is a background image.

    Args:
        classes: those of the result; boxes of others are left out. By default the names of data.yaml.

    Raises:
        BadInput: there is no data.yaml, or it cannot be used.
    """
    tree = Tree.of(path)
    if (file := labels_without_names(tree)) is not None:
        raise BadInput(
            f"{tree.root} has labels, such as {file}, but no file with the names of their classes: add data.yaml with "
            f"`names`, or {CLASS_LIST} with a name on each line. To import the images alone, say format folders."
        )
    sidecar = read_sidecar(tree)
    config = read_config(tree, sidecar)
    wanted = config.classes if classes is None else checked_classes(classes, "classes")
    return _Reader(tree, sidecar, config, wanted).read()


def write(
    version: DatasetVersion, images: ImageSource, target: Path, splits: Sequence[str] | None = None
) -> Path:
    """Export to data.yaml, `images/<split>/`, `labels/<split>/` and `retrain.jsonl`; `read` gives back the same.

    Args:
        target: not there yet, or an empty folder.
        splits: all by default.

    Raises:
        BadInput: no image is selected, or `target` is in use.
        PostConditionFailed: what was written does not read back as the version; nothing of it is kept.
    """
    names, items = selected(version, splits)
    if taken := sorted({"names", "nc", "path"} & set(names)):
        raise BadInput(f"Split {taken[0]!r} of {version.name} means something else in data.yaml; rename it.")
    notes = []
    with arriving(
        target, lambda folder: check_read_back(read(folder), version, items, _TOLERANCE_PX)
    ) as folder:
        for split in names:
            (folder / "images" / split).mkdir(parents=True)
            (folder / "labels" / split).mkdir(parents=True)
        for item, data in images.images(version, items):
            labels = _label_text(item).encode("ascii")
            (folder / "images" / item.split / item.file_name).write_bytes(data)
            (folder / "labels" / item.split / f"{item.image}.txt").write_bytes(labels)
            notes.append(note_of(item, f"images/{item.split}/{item.file_name}", labels))
        # Without `path`, Ultralytics takes the folder of data.yaml, wherever it is moved.
        content = {**{split: f"images/{split}" for split in names}, "names": dict(enumerate(version.classes))}
        text = yaml.safe_dump(content, allow_unicode=True, sort_keys=False)
        (folder / "data.yaml").write_text(text, encoding="utf-8")
        write_sidecar(folder, version.classes, names, notes)
    return target


class _Reader:
    def __init__(self, tree: Tree, sidecar: Sidecar, config: YoloConfig, classes: tuple[str, ...]) -> None:
        self._tree, self._sidecar, self._config, self._classes = tree, sidecar, config, classes
        self._indices = class_indices(config.classes, classes)
        self._problems = list(tree.problems)

    def read(self) -> LabelledDataset:
        splits = self._splits()
        images = [image for file, split in splits.items() if (image := self._image(file, split))]
        self._problems += self._orphans(splits)
        self._problems += unused(splits.keys(), self._tree.images(), f"not listed in {self._config.file}")
        return labelled_dataset(self._classes, images, self._problems)

    def _splits(self) -> dict[str, str | None]:
        """Every image to import."""
        if self._config.splits is None:
            return {file: split_of_folders(file) for file in self._tree.images()}
        splits: dict[str, str | None] = {}
        for split, places in self._config.splits.items():
            for place in places:
                for file, listed_in in self._images_at(place, split):
                    if splits.setdefault(file, split) != split:
                        what = f"{file!r} is in {splits[file]} already, where it stays"
                        self._report(listed_in, split, what, "nothing")
        return splits

    def _images_at(self, place: str, split: str) -> list[tuple[str, str]]:
        """The images of one place, each with the file that lists it."""
        base = self._config.base
        # Roboflow writes ../train/images for a folder beside data.yaml, and Ultralytics reads it so.
        names = [place, place[3:]] if place.startswith("../") else [place]
        inside = [p for name in names for p in self._tree.places(name, (base, "")) if p is not None]
        for candidate in inside:
            if candidate in self._tree.folders:
                return [(file, self._config.file) for file in self._tree.images(candidate)]
            if candidate in self._tree.files and candidate.endswith(".txt"):
                return self._listed(candidate)
        what = f"{place!r} is not there" if inside else f"{place!r} leads outside the imported folder"
        self._report(self._config.file, split, f"{what}: nothing is imported from it", "image")
        return []

    def _listed(self, list_file: str) -> list[tuple[str, str]]:
        found: list[tuple[str, str]] = []
        folders = (posixpath.dirname(list_file), self._config.base, "")
        try:
            lines = read_text(self._tree.path(list_file)).splitlines()
        except BadInput as e:
            self._report(list_file, "", f"{e}: nothing is imported from it", "image")
            return found
        for index, line in enumerate(lines, 1):
            if not (name := line.strip()):
                continue
            try:
                files = self._tree.find(name, folders[:1] if name.startswith("./") else folders)
                if len(files) != 1:
                    what = f"may mean any of {', '.join(files)}" if files else "is missing"
                    raise BadInput(f"{shown(name)} {what}")  # noqa: TRY301 - one report for both reasons
            except BadInput as e:
                self._report(list_file, f"line {index}", str(e), "image")
            else:
                found.append((files[0], list_file))
        return found

    def _image(self, file: str, split: str | None) -> LabelledImage | None:
        path, labels = self._tree.path(file), label_file(file)
        found = FoundBoxes()
        try:
            size = measured(path)
        except BadInput as e:
            self._report(file, "", str(e), "image")
            return None
        if labels in self._tree.files:
            try:
                text = read_text(self._tree.path(labels))
            except BadInput as e:
                self._report(labels, "", str(e), "image")
                return None
            self._add_rows(text, labels, size, found)
            self._problems += self._sidecar.name_objects(found, file, labels, text.encode())
        boxes = judged(found, size, labels)
        self._problems += boxes.problems
        note = self._sidecar.note(file)
        return LabelledImage(
            path, boxes.annotations, split, note.group, note.metadata, note.source, boxes.ids
        )

    def _add_rows(self, text: str, file: str, size: tuple[int, int], found: FoundBoxes) -> None:
        rows = []
        for line_number, line in enumerate(text.splitlines(), 1):
            if not (cells := line.split()):
                continue
            try:
                index = self._class_of(cells)
                rows.append([number(cell) for cell in cells[1:]])
            except BadInput as e:
                self._report(file, f"line {line_number}", str(e), "box")
            else:
                found.classes.append(index)
                found.where.append(f"line {line_number}")
                found.ids.append("")
        # Out of range for a float is infinite, which is refused with the other boxes.
        with np.errstate(invalid="ignore", over="ignore"):
            boxes = yolo_to_xyxy(np.array(rows, dtype=np.float64).reshape(-1, 4), *size)
        found.boxes.extend((b[0], b[1], b[2], b[3]) for b in boxes.tolist())

    def _class_of(self, cells: Sequence[str]) -> int:
        if len(cells) != 5:
            hint = "; outlines (segmentation) and scores are not accepted" if len(cells) > 5 else ""
            raise BadInput(f"needs a class and 4 numbers, got {len(cells)} values{hint}")
        names = self._config.classes
        if not _INDEX.fullmatch(cells[0]) or int(cells[0]) >= len(names):
            raise BadInput(f"needs a class from 0 to {len(names) - 1}, got {shown(cells[0])}")
        index = self._indices[int(cells[0])]
        if index is None:
            raise BadInput(unknown_class(names[int(cells[0])], self._classes))
        return index

    def _orphans(self, splits: dict[str, str | None]) -> list[Problem]:
        """Label files in the folders of labels whose image is not there, or that have several."""
        owners = Counter(label_file(image) for image in self._tree.images())
        folders = {posixpath.dirname(label_file(image)) for image in splits}
        shared = [
            Problem(file, "", "is of several images", "nothing")
            for file, n in owners.items()
            if n > 1 and file in self._tree.files
        ]
        return shared + [
            Problem(file, "", "has no image", "image")
            for file in self._tree.below("")
            if posixpath.dirname(file) in folders
            and file not in owners
            and file.endswith(".txt")
            and not self._is_other(file)
        ]

    def _is_other(self, file: str) -> bool:
        """Text files that are no labels, where those lie beside the images."""
        lists = {
            posixpath.basename(place) for group in (self._config.splits or {}).values() for place in group
        }
        name = posixpath.basename(file)
        return name == CLASS_LIST or name.lower().startswith("readme") or name in lists

    def _report(self, file: str, where: str, what: str, lost: Loss) -> None:
        self._problems.append(Problem(file, where, what, lost))


def labels_without_names(tree: Tree) -> str | None:
    """A file with labels, where no file says the names of classes."""
    if config_file(tree) is not None:
        return None
    files = filter(tree.files.__contains__, map(label_file, tree.images()))
    return next((file for file in files if _begins_with_row(tree.path(file))), None)


def _begins_with_row(path: Path) -> bool:
    """Text beside an image may also be its description."""
    try:
        return _ROW.match(read_text(path)) is not None
    except BadInput:
        return False


def label_file(image: str) -> str:
    """As Ultralytics finds it: the last folder `images` on the way becomes `labels`."""
    folder, name = posixpath.split(image)
    parts = folder.split("/")
    if "images" in parts:
        last = len(parts) - 1 - parts[::-1].index("images")
        parts[last] = "labels"
    return posixpath.join("/".join(parts), f"{posixpath.splitext(name)[0]}.txt")


def _label_text(item: DatasetItem) -> str:
    rows = xyxy_to_yolo(item.annotations.boxes, item.width, item.height).tolist()
    return "".join(
        f"{o.class_index} {' '.join(map(repr, row))}\n" for o, row in zip(item.objects, rows, strict=True)
    )
