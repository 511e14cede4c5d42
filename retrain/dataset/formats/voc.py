"""Pascal VOC: one XML file per image, lists of image names per split (Everingham et al., 2010).

Which pixel a corner means is told by no file. The VOC devkit counts pixels from 1 and includes the last one; most
tools (labelImg, CVAT, BCCD's) write edges counted from 0, as ours are. `one_based` says which; the default is edges,
under which a box with xmin = xmax is empty, whereas for the devkit it is one pixel wide. Fractions are kept.

`retrain.jsonl` carries what VOC has no place for (see `sidecar`), the order of the classes among it.
"""

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from retrain.dataset.dataset import ImageSource
from retrain.dataset.formats.checks import (
    SPLIT_NAMES,
    FoundBoxes,
    check_size,
    checked_classes,
    judged,
    measured,
    read_file,
    read_text,
    split_of_folders,
    unknown_class,
)
from retrain.dataset.formats.export import arriving, check_read_back, selected
from retrain.dataset.formats.labelled import LabelledDataset, LabelledImage, Loss, Problem, labelled_dataset
from retrain.dataset.formats.sidecar import Sidecar, note_of, read_sidecar, write_sidecar
from retrain.dataset.formats.tree import Tree
from retrain.dataset.formats.voc_xml import VocLabels, parse_labels, voc_xml
from retrain.dataset.version import DatasetVersion
from retrain.errors import BadInput

_LISTS = "ImageSets/Main"
_IMAGE_FOLDERS = ("JPEGImages", "images", "")


def read(
    path: Path | Tree, classes: Sequence[str] | None = None, *, one_based: bool = False
) -> LabelledDataset:
    """`Annotations/`, `JPEGImages/` and `ImageSets/Main/{train,val,test,trainval}.txt`, or XML beside the images.

    An image without an XML file is a background image. One that is in `trainval.txt` only is in train. Without any
    list, a folder named train, val, valid or test says the split.

    Args:
        classes: those of the result; boxes of others are left out. By default the names found, sorted (those of
            `retrain.jsonl` where it is).
        one_based: corners are pixels counted from 1, the last one included, see above.

    Raises:
        BadInput: there is no XML file, or no class.
    """
    tree = Tree.of(path)
    return _Reader(tree, read_sidecar(tree), one_based).read(classes)


def write(
    version: DatasetVersion,
    images: ImageSource,
    target: Path,
    splits: Sequence[str] | None = None,
    *,
    one_based: bool = False,
) -> Path:
    """Export in VOC's layout with `retrain.jsonl`; `read` with the same `one_based` gives back the same.

    Args:
        target: not there yet, or an empty folder.
        splits: all by default.

    Raises:
        BadInput: no image is selected, `target` is in use, or a class name cannot stand in XML.
        PostConditionFailed: what was written does not read back as the version; nothing of it is kept.
    """
    names, items = selected(version, splits)

    def read_back(folder: Path) -> None:
        check_read_back(read(folder, one_based=one_based), version, items, 0.0)

    notes = []
    with arriving(target, read_back) as folder:
        for name in ("Annotations", "JPEGImages", _LISTS):
            (folder / name).mkdir(parents=True)
        for item, data in images.images(version, items):
            labels = voc_xml(item, version.classes, one_based=one_based)
            (folder / "JPEGImages" / item.file_name).write_bytes(data)
            (folder / "Annotations" / f"{item.image}.xml").write_bytes(labels)
            notes.append(note_of(item, f"JPEGImages/{item.file_name}", labels))
        for split in names:
            listed = "".join(f"{item.image}\n" for item in items if item.split == split)
            (folder / _LISTS / f"{split}.txt").write_text(listed, encoding="ascii")
        write_sidecar(folder, version.classes, names, notes)
    return target


@dataclass
class _Labelled:
    """An image and its label file, if it has one."""

    image: str
    xml: str = ""
    labels: VocLabels = field(default_factory=VocLabels)
    data: bytes = b""


class _Reader:
    def __init__(self, tree: Tree, sidecar: Sidecar, one_based: bool) -> None:
        self._tree, self._sidecar, self._one_based = tree, sidecar, one_based
        self._problems = list(tree.problems)
        self._has_layout = "Annotations" in tree.folders
        self._folders = [folder for folder in _IMAGE_FOLDERS if folder in tree.folders]

    def read(self, classes: Sequence[str] | None) -> LabelledDataset:
        labelled = self._labelled()
        found = {o.name for entry in labelled.values() for o in entry.labels.objects}
        given = classes if classes is not None else self._sidecar.classes or sorted(found)
        names = checked_classes(given, "classes" if classes is not None else f"{self._tree.root}")
        splits = self._splits()
        images = [image for entry in labelled.values() if (image := self._image(entry, names, splits))]
        return labelled_dataset(names, images, self._problems)

    def _labelled(self) -> dict[str, _Labelled]:
        """Every image, by its file."""
        files = [
            f
            for f in self._tree.below("Annotations" if self._has_layout else "")
            if f.lower().endswith(".xml")
        ]
        if not files:
            raise BadInput(
                f"No VOC file in {self._tree.root}: looked for .xml in Annotations/ and beside images."
            )
        by_stem = self._images_by_stem()
        labelled: dict[str, _Labelled] = {}
        refused: set[str] = set()
        for xml in files:
            try:
                entry = self._entry(xml, by_stem, refused)
            except BadInput as e:
                self._report(xml, "", str(e), "image")
                continue
            if (first := labelled.setdefault(entry.image, entry)) is not entry:
                self._report(xml, "", f"{entry.image} has its labels in {first.xml} already", "image")
        for image in self._tree.images(self._folders[0]):
            if image not in refused:
                labelled.setdefault(image, _Labelled(image))
        return labelled

    def _images_by_stem(self) -> dict[str, list[str]]:
        by_stem: dict[str, list[str]] = {}
        for image in self._tree.images():
            by_stem.setdefault(posixpath.splitext(image)[0], []).append(image)
        return by_stem

    def _entry(self, xml: str, by_stem: dict[str, list[str]], refused: set[str]) -> _Labelled:
        folders = self._folders if self._has_layout else [posixpath.dirname(xml)]
        inner = xml.removeprefix("Annotations/") if self._has_layout else posixpath.basename(xml)
        stem = posixpath.splitext(inner)[0]
        same = [image for folder in folders for image in by_stem.get(posixpath.join(folder, stem), ())]
        refused.update(same)
        data = read_file(self._tree.path(xml))
        labels = parse_labels(data, one_based=self._one_based)
        # The devkit pairs files by their stems; `filename` counts where these do not match.
        named = self._tree.find(labels.filename, folders) if labels.filename else []
        found = list(dict.fromkeys([*same, *named]))
        refused.update(found)
        if len(found) != 1:
            what = (
                f"may mean any of {', '.join(found)}"
                if found
                else f"has no image {labels.filename or stem!r}"
            )
            raise BadInput(what)
        refused.discard(found[0])
        return _Labelled(found[0], xml, labels, data)

    def _splits(self) -> dict[str, str] | None:
        """The split of each listed image; None where there is no list at all."""
        ours = {name: name for name in self._sidecar.splits}
        names = {**SPLIT_NAMES, "trainval": "train", **ours}
        lists = [f"{_LISTS}/{name}.txt" for name in names if f"{_LISTS}/{name}.txt" in self._tree.files]
        by_stem = {posixpath.splitext(image)[0]: image for image in self._tree.images()}
        splits: dict[str, str] = {}
        for file in lists:
            split = names[posixpath.splitext(posixpath.basename(file))[0]]
            is_union = file.endswith("/trainval.txt")
            try:
                lines = read_text(self._tree.path(file)).splitlines()
            except BadInput as e:
                self._report(file, "", f"{e}: its images are in no split", "nothing")
                continue
            for index, line in enumerate(lines, 1):
                if name := line.strip():
                    self._list(file, f"line {index}", name, split, is_union, by_stem, splits)
        return splits if lists else None

    def _list(
        self,
        file: str,
        where: str,
        name: str,
        split: str,
        is_union: bool,
        by_stem: dict[str, str],
        splits: dict[str, str],
    ) -> None:
        image = next((by_stem[s] for f in self._folders if (s := posixpath.join(f, name)) in by_stem), None)
        if image is None:
            self._report(file, where, f"there is no image {name!r}", "image")
        elif image not in splits:
            splits[image] = split
        elif splits[image] != split and not (is_union and splits[image] == "val"):
            self._report(file, where, f"{name!r} is in {splits[image]} already, where it stays", "nothing")

    def _image(
        self, entry: _Labelled, names: tuple[str, ...], splits: dict[str, str] | None
    ) -> LabelledImage | None:
        path, found = self._tree.path(entry.image), FoundBoxes()
        try:
            size = measured(path)
            check_size(entry.labels.size, size)
        except BadInput as e:
            self._report(entry.image, "", str(e), "image")
            return None
        indices = {name: index for index, name in enumerate(names)}
        for fault in entry.labels.faults:
            self._report(entry.xml, fault.where, fault.what, "box")
        for o in entry.labels.objects:
            if (index := indices.get(o.name)) is None:
                self._report(entry.xml, o.where, unknown_class(o.name, names), "box")
            else:
                found.add(o.box, index, o.where)
        self._problems += self._sidecar.name_objects(found, entry.image, entry.xml, entry.data)
        boxes = judged(found, size, entry.xml)
        self._problems += boxes.problems
        note = self._sidecar.note(entry.image)
        split = splits.get(entry.image) if splits is not None else split_of_folders(entry.image)
        return LabelledImage(
            path, boxes.annotations, split, note.group, note.metadata, note.source, boxes.ids
        )

    def _report(self, file: str, where: str, what: str, lost: Loss) -> None:
        self._problems.append(Problem(file, where, what, lost))
