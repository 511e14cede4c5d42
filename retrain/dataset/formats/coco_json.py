"""The JSON files of a COCO dataset, as far as they are valid as a whole."""

import math
import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from retrain.dataset.formats.checks import SPLIT_NAMES, read_file, shown
from retrain.dataset.formats.tree import Tree
from retrain.errors import BadInput

_PARTS = ("images", "annotations", "categories")
_INSTANCES = re.compile(r"instances_(.+)")
_YEAR = re.compile(r"(train|val|test)[-_]?(?:19|20)\d\d")
_ROBOFLOW = "_annotations.coco"
_SAME_BOX_PX = 1e-6
_NAMED_FOLDERS = ("", "images", "{split}", "images/{split}", "{split}/images", "{split}2017")
_Note = TypeVar("_Note", bound=msgspec.Struct)
_ELSEWHERE = ("captions_", "person_keypoints_", "panoptic_", "stuff_")


class DocumentNote(msgspec.Struct, frozen=True, omit_defaults=True):
    """Ours in a file as a whole."""

    split: str


class ImageNote(msgspec.Struct, frozen=True, omit_defaults=True):
    """Ours in an image entry."""

    group: str | None = None
    source: str | None = None
    metadata: Mapping[str, Any] = msgspec.field(default_factory=dict)


class ObjectNote(msgspec.Struct, frozen=True, omit_defaults=True):
    """Ours in an annotation. `box` is xyxy in pixels."""

    id: str = ""
    box: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class Document:
    """One file. Images and annotations are as decoded: each is still to be checked.

    Attributes:
        categories: name by id, in the order of ids.
        split: None where neither name nor content says one.
    """

    file: str
    split: str | None
    categories: Mapping[int, str]
    images: list[Any]
    annotations: list[Any]


def documents(tree: Tree) -> list[Document]:
    """The files of `annotation_files`, opened.

    Raises:
        BadInput: there is none, or one is not valid JSON or has not the parts of COCO.
    """
    files = annotation_files(tree)
    if not files:
        raise BadInput(
            f"No COCO file in {tree.root}: looked for instances_<split>.json, <split>.json, _annotations.coco.json "
            f"or one other .json file, there, in annotations/ and in folders of splits."
        )
    return [read_document(tree, file) for file in files]


def annotation_files(tree: Tree) -> list[str]:
    """Files that are COCO's by their names; without any, the only JSON file there is."""
    candidates = _candidates(tree)
    return named_files(tree) or (candidates if len(candidates) == 1 else [])


def named_files(tree: Tree) -> list[str]:
    """Files that are COCO's by their names."""
    candidates = _candidates(tree)
    return list(filter(_is_instances, candidates)) or list(filter(_has_split, candidates))


def _candidates(tree: Tree) -> list[str]:
    return [file for file in tree.below("") if _is_candidate(file)]


def _is_candidate(file: str) -> bool:
    stem, suffix = posixpath.splitext(posixpath.basename(file))
    return suffix.lower() == ".json" and file.count("/") <= 2 and not stem.startswith(_ELSEWHERE)


def _is_instances(file: str) -> bool:
    return _INSTANCES.fullmatch(_stem(file)) is not None


def _has_split(file: str) -> bool:
    return _stem(file) == _ROBOFLOW or _split_of_name(file) is not None


def _stem(file: str) -> str:
    return posixpath.splitext(posixpath.basename(file))[0]


def _split_of_name(file: str) -> str | None:
    stem = _stem(file)
    named = (
        posixpath.basename(posixpath.dirname(file)) if stem == _ROBOFLOW else stem.removeprefix("instances_")
    )
    plain = _YEAR.sub(r"\1", named.lower())
    return SPLIT_NAMES.get(plain)


def read_document(tree: Tree, file: str) -> Document:
    """One file of the tree.

    Raises:
        BadInput: it is not valid JSON or has not the parts of COCO.
    """
    content = _decoded(tree, file)
    missing = [part for part in _PARTS if not isinstance(content.get(part), list)]
    if missing:
        raise BadInput(f"{file} is not COCO: it has no list of {', '.join(missing)}.")
    info = content.get("info")
    try:
        note = read_note(info, DocumentNote)
    except BadInput as e:
        raise BadInput(f"{file}: `info` {e}.") from e
    return Document(
        file,
        note.split if note else _split_of_name(file),
        _categories(content["categories"], file),
        content["images"],
        content["annotations"],
    )


def _decoded(tree: Tree, file: str) -> dict[str, Any]:
    try:
        data = read_file(tree.path(file)).removeprefix(b"\xef\xbb\xbf")
        # Refuses what is not in the standard, such as NaN.
        content = msgspec.json.decode(data)
    except BadInput as e:
        raise BadInput(f"{file} {e}.") from e
    except (msgspec.DecodeError, UnicodeDecodeError) as e:
        raise BadInput(f"{file} is not valid JSON: {e}.") from e
    except RecursionError as e:
        raise BadInput(f"{file} is nested too deeply.") from e
    if not isinstance(content, dict):
        raise BadInput(f"{file} is not COCO: it must be an object, got {shown(content)}.")
    return content


def _categories(entries: list[Any], file: str) -> dict[int, str]:
    categories: dict[int, str] = {}
    for index, entry in enumerate(entries):
        key, name = (entry.get("id"), entry.get("name")) if isinstance(entry, dict) else (None, None)
        if not isinstance(key, int) or isinstance(key, bool) or not isinstance(name, str):
            raise BadInput(f"{file}: category {index} needs a whole id and a name, got {shown(entry)}.")
        if key in categories:
            raise BadInput(f"{file}: categories {categories[key]!r} and {name!r} have the same id {key}.")
        if name in categories.values():
            raise BadInput(f"{file}: two categories are called {name!r}.")
        categories[key] = name
    return dict(sorted(categories.items()))


def read_note(entry: object, kind: type[_Note]) -> _Note | None:
    """Our own part of an entry; None where there is none.

    Raises:
        BadInput: it is not as we write it.
    """
    if not isinstance(entry, dict) or "retrain" not in entry:
        return None
    try:
        return msgspec.convert(entry["retrain"], kind)
    except msgspec.ValidationError as e:
        raise BadInput(f"has an entry `retrain` that is not ours: {e}") from e


def image_file(tree: Tree, document: Document, name: str) -> str:
    """The file that an image of a document means, looked for where such files usually are.

    Raises:
        BadInput: it is missing, or may be several; the message is the reason only.
    """
    split, beside = document.split or "", document.file.rpartition("/")[0]
    folders = (beside, *dict.fromkeys(place.format(split=split) for place in _NAMED_FOLDERS))
    found = tree.find(name, folders)
    if not found:
        raise BadInput(f"{name!r} is missing")
    if (nearest := tree.places(name, folders[:1])[0]) in found:
        return str(nearest)
    if len(found) > 1:
        raise BadInput(f"{name!r} may be any of {', '.join(found)}")
    return found[0]


def identity(entry: Any, key: str) -> int | str:
    """An id: a whole number, or text as some tools write it."""
    value = entry.get(key) if isinstance(entry, dict) else None
    if not isinstance(value, int | str) or isinstance(value, bool):
        raise BadInput(f"needs a whole number or text as {key}, got {shown(entry)}")
    return value


def optional_count(entry: Mapping[str, Any], key: str) -> float | None:
    """Pixels, or None where the entry has none."""
    value = entry.get(key)
    if value is None:
        return None
    if not _is_number(value) or value < 0:
        raise BadInput(f"needs pixels as {key}, got {shown(value)}")
    return float(value)


def box(annotation: Mapping[str, Any], note: ObjectNote) -> tuple[float, float, float, float]:
    """The box of an annotation, xyxy in pixels.

    Raises:
        BadInput: it has none that is one; the message is the reason only.
    """
    bbox = annotation.get("bbox")
    if bbox is None or bbox == []:
        has = "only a segmentation" if annotation.get("segmentation") else "nothing"
        raise BadInput(f"has no bbox, {has}")
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(_is_number(value) for value in bbox):
        raise BadInput(f"needs a bbox of four finite numbers, got {shown(bbox)}")
    x, y, width, height = map(float, bbox)
    given = (x, y, x + width, y + height)
    # Somebody may have moved the bbox since and left ours as it was.
    if note.box and all(abs(a - b) <= _SAME_BOX_PX for a, b in zip(note.box, given, strict=True)):
        return note.box
    return given


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    # An integer of JSON can be too large for a float.
    return abs(value) < 2**63 and math.isfinite(value)
