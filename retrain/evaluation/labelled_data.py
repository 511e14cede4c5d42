"""Opens what models are evaluated on: a split of a dataset version, or a folder in COCO, YOLO or VOC format."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from math import isnan
from pathlib import Path
from typing import Any

from retrain.dataset.formats.checks import split_of_folders
from retrain.dataset.formats.coco_json import Document, documents, read_document
from retrain.dataset.formats.labelled import LabelledImage, Problem
from retrain.dataset.formats.registry import detect, read_dataset
from retrain.dataset.formats.tree import Tree
from retrain.dataset.manager import DatasetManager
from retrain.dataset.measuring.coverage import camera_of, time_of
from retrain.dataset.version import DatasetItem, DatasetVersion
from retrain.errors import BadInput, NotFound
from retrain.evaluation.arguments import checked_path
from retrain.evaluation.coco_data import CocoImage, read_coco
from retrain.evaluation.run import EvaluationItem, Image
from retrain.images import read_pixels
from retrain.storage.pack_reader import PackReader

_TEST = "test"
_LEARNT_FROM = ("train", "val")
_NAMED = 3
_DAY = 24 * 3600


@dataclass(frozen=True)
class LabelledData:
    """What to evaluate on.

    Attributes:
        name: as it was asked for, with the split that was taken.
        classes: names, by index.
        notes: what a reader of the numbers should know.
        categories: class index by COCO category id; where the data has no ids of its own, they count from 1.
        keys: other names that a predictions file may call an image by, such as its COCO id, and the image's id.
    """

    name: str
    classes: tuple[str, ...]
    items: tuple[EvaluationItem, ...]
    notes: tuple[str, ...] = ()
    categories: Mapping[int, int] = field(default_factory=dict)
    keys: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def by_id(self) -> Mapping[str, EvaluationItem]:
        return {item.image_id: item for item in self.items}


def open_data(
    given: str | Path,
    datasets: DatasetManager | Path | str | None = None,
    *,
    split: str | None = None,
    images: Path | None = None,
) -> LabelledData:
    """Labels and where the images are; images are read when they are evaluated.

    Args:
        given: `v1.0.0/test` for a split of a dataset version, a folder in COCO, YOLO or VOC format, `FOLDER/SPLIT`, or
            one COCO file of annotations.
        datasets: where versions are, or the folder of them.
        split: of a version or folder, if `given` names none; by default `test` where there is one, or the only one.
        images: folder of the images of a COCO file; by default looked for around it.

    Raises:
        NotFound: there is no such version, folder or file.
        BadInput: no images, one that is missing, labels that cannot be read, or two splits are named.
    """
    path = checked_path(given, "Test data")
    if path.is_file() and path.suffix == ".json":
        return _of_coco_file(path, images)
    if images is not None:
        raise BadInput(f"A folder of images goes with one COCO file of annotations, got {str(given)!r}.")
    if path.is_dir():
        return _of_folder(path, split)
    if path.parent.is_dir() and path.parent != Path():
        return _of_folder(path.parent, _one_split(given, path.name, split))
    if datasets is None or path.is_absolute():
        raise NotFound(
            f"There is no test data {str(given)!r}. Give VERSION/SPLIT such as v1.0.0/test, a folder in COCO, YOLO or "
            "VOC format, or a COCO file."
        )
    manager = datasets if isinstance(datasets, DatasetManager) else DatasetManager(datasets)
    name, _, own = str(given).partition("/")
    return _of_version(manager, name, _one_split(given, own, split) or _TEST)


def _one_split(given: str | Path, named: str, asked: str | None) -> str:
    if named and asked and named != asked:
        raise BadInput(
            f"{str(given)!r} names the split {named!r}, and asked for is {asked!r}; name one of them."
        )
    return named or asked or ""


def _of_version(manager: DatasetManager, name: str, split: str) -> LabelledData:
    if not manager.repository.folder.is_dir():
        raise NotFound(
            f"There is no test data {name!r}: no such folder, and there are no dataset versions in "
            f"{manager.repository.folder}."
        )
    version = manager.get_version(name)
    if split not in version.splits:
        raise BadInput(f"{name} has no split {split!r}; it has {', '.join(version.splits)}.")
    notes = _learnt_from(split)
    chosen = version.in_split(split)
    # A label that a model made is right to that model.
    if auto := sum(item.source == "auto" for item in chosen):
        notes.append(
            f"{auto} of {len(chosen)} images were labelled by a model, which judges that model too well; cycles leave "
            "such images out of their comparison."
        )
    items = version_items(manager, version, chosen)
    return _data(f"{version.name}/{split}", version.classes, items, notes)


def version_items(
    manager: DatasetManager, version: DatasetVersion, chosen: Iterable[DatasetItem]
) -> list[EvaluationItem]:
    """Images of a version, to be evaluated on."""
    reader = PackReader()
    return [_item_of_version(manager, version, item, reader) for item in chosen]


def _item_of_version(
    manager: DatasetManager, version: DatasetVersion, item: DatasetItem, reader: PackReader
) -> EvaluationItem:
    def encoded() -> bytes:
        return reader.read(manager.pack_file(version, item.pack), item.file_name)

    return EvaluationItem(
        item.image,
        item.group,
        partial(_pixels, item.file_name, encoded),
        item.annotations,
        attributes=_attributes(item.metadata, item.source, item.width, item.height),
    )


def _of_folder(folder: Path, split: str | None) -> LabelledData:
    if detect(folder) == "coco":
        return _of_coco_folder(folder, split)
    found = read_dataset(folder)
    if not found.classes:
        raise BadInput(f"{folder} holds images without labels; there is nothing to judge a model by.")
    lost = [one for one in found.problems if one.lost == "image"]
    splits = {split_of_folders(one.file) for one in lost} - {None}
    wanted = _split(folder, {*found.images_by_split, *splits}, split)
    images = [image for image in found.images if image.split == wanted]
    # What is wrong with other splits is not asked; labels are called like their image.
    _refuse_lost_images(folder, [one for one in lost if split_of_folders(one.file) in {None, wanted}])
    own = {image.path.stem for image in images}
    notes = _learnt_from(wanted) + _lost_boxes([one for one in found.problems if Path(one.file).stem in own])
    items = [_item_of_folder(folder, image) for image in images]
    name = f"{folder}/{wanted}" if wanted else str(folder)
    return _data(name, found.classes, items, notes)


def _item_of_folder(folder: Path, image: LabelledImage) -> EvaluationItem:
    image_id = image.path.relative_to(folder.resolve()).as_posix()
    return EvaluationItem(
        image_id,
        image.group or image_id,
        partial(_pixels, str(image.path), image.path.read_bytes),
        image.annotations,
        attributes=_attributes(image.metadata, image.source),
    )


def _of_coco_folder(folder: Path, split: str | None) -> LabelledData:
    tree = Tree(folder)
    found = documents(tree)
    wanted = _split(folder, {document.split for document in found}, split)
    chosen = [document for document in found if document.split == wanted]
    if len(chosen) > 1:
        files = ", ".join(document.file for document in chosen)
        raise BadInput(f"Several files in {folder} hold labels of one split: {files}. Give one of them.")
    name = f"{folder}/{wanted}" if wanted else str(folder)
    return _of_coco(name, chosen[0], tree, _learnt_from(wanted))


def _of_coco_file(file: Path, images: Path | None) -> LabelledData:
    folder = file.resolve().parent
    # In the usual layout the images are beside the folder of the annotations.
    root = images or (folder.parent if folder.name == "annotations" else folder)
    return _of_coco(str(file), read_document(Tree(folder), file.name), Tree(root))


def _of_coco(name: str, document: Document, tree: Tree, notes: Sequence[str] = ()) -> LabelledData:
    found = read_coco(document, tree)
    _refuse_lost_images(name, found.problems)
    # As pycocotools goes through them, which decides between equal scores.
    ordered = sorted(found.images, key=lambda image: (isinstance(image.key, str), image.key))
    items = [_item_of_coco(image, position) for position, image in enumerate(ordered)]
    keys = {str(image.key): image.image_id for image in found.images}
    return _data(name, found.classes, items, (*notes, *_lost_boxes(found.problems)), found.categories, keys)


def _item_of_coco(image: CocoImage, position: int) -> EvaluationItem:
    return EvaluationItem(
        image.image_id,
        image.note.group or image.image_id,
        partial(_pixels, str(image.path), image.path.read_bytes),
        image.objects,
        image.crowd,
        image.areas,
        image.sizes,
        _attributes(image.note.metadata, image.note.source),
        position,
    )


def _data(
    name: str,
    classes: Sequence[str],
    items: Sequence[EvaluationItem],
    notes: Iterable[str] = (),
    categories: Mapping[int, int] | None = None,
    keys: Mapping[str, str] | None = None,
) -> LabelledData:
    if not items:
        raise BadInput(f"{name} has no image to evaluate on; check the split.")
    empty = sum(not len(item.truth) for item in items)
    said = list(notes)
    if empty == len(items):
        said.append("No image has a box: average precision and recall are undefined.")
    elif empty:
        said.append(f"{empty} of {len(items)} images have no box; what is found there is a false alarm.")
    if len(items) > 1 and all(item.group == item.image_id for item in items):
        said.append(
            "Nothing says which images are of one recording, so each counts by itself; where some show the same scene, "
            "intervals are too narrow."
        )
    return LabelledData(
        name,
        tuple(classes),
        tuple(sorted(items, key=lambda item: item.image_id)),
        tuple(said),
        categories or {index + 1: index for index in range(len(classes))},
        keys or {},
    )


def _split(folder: Path, there: set[str | None], wanted: str | None) -> str | None:
    known = sorted(name for name in there if name is not None)
    if wanted is not None:
        if wanted not in known:
            raise BadInput(f"{folder} has no split {wanted!r}; it has {', '.join(known) or 'none'}.")
        return wanted
    if _TEST in known:
        return _TEST
    if len(there) != 1:
        raise BadInput(
            f"{folder} has the splits {', '.join(known)} and no test; say which one to evaluate on."
        )
    return there.pop()


def _refuse_lost_images(name: str | Path, problems: Sequence[Problem]) -> None:
    if lost := [problem for problem in problems if problem.lost == "image"]:
        raise BadInput(
            f"{len(lost)} images of {name} cannot be evaluated on, and numbers without them are of another set: "
            f"{_shown(lost)}"
        )


def _learnt_from(split: str | None) -> list[str]:
    if split not in _LEARNT_FROM:
        return []
    return [
        f"This is the split {split}: models learn from train and are chosen by val; scores there are too good."
    ]


def _lost_boxes(problems: Sequence[Problem]) -> list[str]:
    lost = [problem for problem in problems if problem.lost == "box"]
    return [f"{len(lost)} labels cannot be used and do not count: {_shown(lost)}"] if lost else []


def _shown(problems: Sequence[Problem]) -> str:
    more = f"; and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
    return "; ".join(f"{problem.file}: {problem}" for problem in problems[:_NAMED]) + more


def _attributes(
    metadata: Mapping[str, Any], source: str | None, width: int | None = None, height: int | None = None
) -> dict[str, Any]:
    """What slices are made of, the hour in UTC; names of ours go before equal ones of the metadata."""
    moment = time_of(metadata)
    ours = {
        "source": source,
        "camera": camera_of(metadata),
        "hour": None if moment is None or isnan(moment) else int(moment % _DAY // 3600),
        "width": width,
        "height": height,
    }
    return {**metadata, **{name: value for name, value in ours.items() if value is not None}}


def _pixels(name: str, encoded: Callable[[], bytes]) -> Image:
    try:
        return read_pixels(encoded())
    except OSError as error:
        raise BadInput(f"Image {name} cannot be read: {error.strerror}.") from error
    except BadInput as error:
        raise BadInput(f"Image {name} {error}.") from error
