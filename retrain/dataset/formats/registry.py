"""The formats by name: which one a folder is in, reading and writing it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, Protocol

from retrain.dataset.dataset import ImageSource
from retrain.dataset.formats import coco, folders, voc, yolo
from retrain.dataset.formats.checks import SPLIT_NAMES
from retrain.dataset.formats.coco_json import annotation_files, named_files
from retrain.dataset.formats.labelled import LabelledDataset
from retrain.dataset.formats.tree import Tree
from retrain.dataset.formats.yolo_config import CLASS_LIST, config_file, usual_config_file
from retrain.dataset.version import DatasetVersion
from retrain.errors import BadInput

FormatName = Literal["coco", "yolo", "voc", "folders"]
_PARTS = frozenset(
    {*SPLIT_NAMES, "images", "labels", "annotations", "Annotations", "JPEGImages", "ImageSets"}
)


class Reader(Protocol):
    """Reads a folder; `classes` are those of the result, by default those of the files."""

    def __call__(self, path: Path | Tree, classes: Sequence[str] | None = None) -> LabelledDataset: ...


class Writer(Protocol):
    """Exports a version, as a whole or not at all."""

    def __call__(
        self, version: DatasetVersion, images: ImageSource, target: Path, splits: Sequence[str] | None = None
    ) -> Path: ...


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        write: None for what can only be imported.
        is_in: whether files of its usual names are there.
        may_be_in: whether files are there that the reader would try for want of those.
        sought: what both look for, in words.
    """

    read: Reader
    write: Writer | None
    is_in: Callable[[Tree], bool]
    may_be_in: Callable[[Tree], bool]
    sought: str


def _has_xml(tree: Tree) -> bool:
    return any(file.lower().endswith(".xml") for file in tree.files)


FORMATS: Mapping[str, Format] = {
    "coco": Format(
        coco.read,
        coco.write,
        lambda tree: bool(named_files(tree)),
        lambda tree: bool(annotation_files(tree)),
        "instances_<split>.json, <split>.json, _annotations.coco.json or one other .json file",
    ),
    "yolo": Format(
        yolo.read,
        yolo.write,
        lambda tree: usual_config_file(tree) is not None,
        # Without names its labels cannot be read, which the reader says: the images alone would seem to show nothing.
        lambda tree: config_file(tree) is not None or yolo.labels_without_names(tree) is not None,
        f"data.yaml, one other .yaml file or {CLASS_LIST}",
    ),
    "voc": Format(voc.read, voc.write, _has_xml, _has_xml, ".xml files in Annotations/ or beside images"),
    "folders": Format(folders.read, None, lambda _: False, lambda tree: bool(tree.images()), "any image"),
}


def detect(path: str | Path | Tree) -> str:
    """The name in `FORMATS` of the format that a folder is in; `folders` where it has images and no labels.

    Raises:
        BadInput: there is none, or more than one with labels.
    """
    tree = _inner(Tree.of(path))
    found = [name for name, each in FORMATS.items() if each.is_in(tree)]
    found = found or [name for name, each in FORMATS.items() if each.may_be_in(tree)]
    labelled = [name for name in found if name != "folders"]
    if len(labelled) > 1:
        raise BadInput(f"{tree.root} may be {' or '.join(labelled)}; say which format it is.")
    if not found:
        sought = "; ".join(f"{name}: {each.sought}" for name, each in FORMATS.items())
        raise BadInput(f"No dataset in {tree.root}. Looked for {sought}.")
    return (labelled or found)[0]


def read_dataset(
    path: str | Path,
    format: str | None = None,  # noqa: A002 - the word users know
    classes: Sequence[str] | None = None,
    *,
    one_based: bool = False,
) -> LabelledDataset:
    """Import a folder (an archive is first unpacked by `archives.opened`).

    A folder in which there is one folder and nothing else, as in most archives, is entered.

    Args:
        format: a name in `FORMATS`; by default it is found out.
        classes: those of the result, in the order of class indices; boxes of others are reported and left out.
        one_based: for VOC only, see `voc`.

    Raises:
        BadInput: the import is impossible as a whole. Everything else is among the problems of the result.
    """
    tree = _inner(Tree(Path(path)))
    name = format or detect(tree)
    if one_based and name != "voc":
        raise BadInput(f"one_based is about the corners in VOC, but {tree.root} is {name}.")
    reader = partial(voc.read, one_based=True) if one_based else _format(name).read
    return reader(tree, classes)


def write_dataset(
    version: DatasetVersion,
    images: ImageSource,
    target: str | Path,
    format: str,  # noqa: A002 - the word users know
    splits: Sequence[str] | None = None,
    *,
    one_based: bool = False,
) -> Path:
    """Export a version to a folder that is not there yet or empty; it appears there as a whole or not at all.

    Args:
        images: gives the bytes of the images, as a `DatasetManager` does.
        format: coco, yolo or voc.
        splits: all by default.
        one_based: for VOC only, see `voc`.

    Returns:
        The folder.

    Raises:
        BadInput: no image is selected, the target is in use, or the format cannot be written.
        PostConditionFailed: what was written does not read back as the version; nothing of it is kept.
        StorageFull: no space left; nothing is kept.
    """
    writer = _format(format).write
    if writer is None:
        raise BadInput(f"{format} has no labels and can only be imported; export to coco, yolo or voc.")
    if one_based and format != "voc":
        raise BadInput(f"one_based is about the corners in VOC, not in {format}.")
    if one_based:
        writer = partial(voc.write, one_based=True)
    return writer(version, images, Path(target), splits)


def _format(name: str) -> Format:
    if name not in FORMATS:
        raise BadInput(f"There is no format {name!r}. There are: {', '.join(FORMATS)}.")
    return FORMATS[name]


def _inner(tree: Tree) -> Tree:
    """Past folders that hold nothing but one folder, unless its name has a meaning of its own."""
    while True:
        top = {folder for folder in tree.folders if folder and "/" not in folder}
        at_top = [file for file in tree.files if "/" not in file]
        if len(top) != 1 or at_top or tree.problems or top <= _PARTS:
            return tree
        tree = Tree(tree.root / top.pop())
