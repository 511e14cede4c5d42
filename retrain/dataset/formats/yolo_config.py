"""`data.yaml` of a YOLO dataset: class names, and where the images of each split are."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from retrain.dataset.formats.checks import SPLIT_NAMES, checked_classes, read_text, shown
from retrain.dataset.formats.sidecar import Sidecar
from retrain.dataset.formats.tree import Tree
from retrain.errors import BadInput

CLASS_LIST = "classes.txt"
_LARGEST_BYTES = 4 * 1024 * 1024
_USUAL = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")


@dataclass(frozen=True)
class YoloConfig:
    """The file's content, checked.

    Attributes:
        file: where it was read from.
        base: folder that the places of the splits are relative to, in the imported one.
        splits: places (folders or lists of images, as written) by split; None where none is named.
    """

    file: str
    classes: tuple[str, ...]
    base: str
    splits: Mapping[str, tuple[str, ...]] | None


def read_config(tree: Tree, sidecar: Sidecar) -> YoloConfig:
    """The classes and splits of a dataset.

    Raises:
        BadInput: there is neither data.yaml nor classes.txt, or it cannot be used.
    """
    file = config_file(tree)
    if file is None:
        raise BadInput(
            f"No YOLO dataset in {tree.root}: looked for data.yaml (or one other .yaml) and {CLASS_LIST}."
        )
    if file == CLASS_LIST:
        lines = _text(tree, file).splitlines()
        return YoloConfig(
            file, checked_classes((line.strip() for line in lines if line.strip()), file), "", None
        )
    content = _yaml(_text(tree, file), file)
    splits = {**SPLIT_NAMES, **{name: name for name in sidecar.splits}}
    places: dict[str, tuple[str, ...]] = {}
    for key, value in content.items():
        if key in splits and (given := _places(value, f"{file}: {key}")):
            places[splits[key]] = (*places.get(splits[key], ()), *given)
    return YoloConfig(file, _classes(content, file), _base(tree, content.get("path")), places or None)


def config_file(tree: Tree) -> str | None:
    """The file that says the classes, if there is one; it may be a .yaml file of any name."""
    others = [file for file in tree.files if file.endswith((".yaml", ".yml")) and "/" not in file]
    return usual_config_file(tree) or (others[0] if len(others) == 1 else None)


def usual_config_file(tree: Tree) -> str | None:
    """The file that says the classes, if there is one of a usual name."""
    return next((name for name in (*_USUAL, CLASS_LIST) if name in tree.files), None)


class _Loader(yaml.BaseLoader):
    """Every scalar is text, so that a class `no` stays one. Aliases, which can grow without end, are refused."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise BadInput("has a YAML alias (*name), which is not accepted")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if len(set(keys)) != len(node.value):
            raise BadInput(f"has a key twice or that is no text, among {shown(', '.join(keys))}")
        return super().construct_mapping(node, deep)


def _yaml(text: str, file: str) -> dict[str, Any]:
    try:
        content = yaml.load(text, _Loader)  # noqa: S506 - a BaseLoader makes nothing but text, lists and mappings
    except BadInput as e:
        raise BadInput(f"{file} {e}.") from e
    except yaml.YAMLError as e:
        raise BadInput(f"{file} is not valid YAML: {' '.join(str(e).split())[:300]}.") from e
    except RecursionError as e:
        raise BadInput(f"{file} is nested too deeply.") from e
    if not isinstance(content, dict):
        raise BadInput(f"{file} must be a mapping with names, got {shown(content)}.")
    return content


def _text(tree: Tree, file: str) -> str:
    if tree.path(file).stat().st_size > _LARGEST_BYTES:
        raise BadInput(f"{file} is larger than {_LARGEST_BYTES} bytes.")
    try:
        return read_text(tree.path(file))
    except BadInput as e:
        raise BadInput(f"{file} {e}.") from e


def _places(value: Any, where: str) -> tuple[str, ...]:
    places = value if isinstance(value, list) else [value]
    if not all(isinstance(place, str) for place in places):
        raise BadInput(f"{where} must be a folder, a list of folders or a .txt file, got {shown(value)}.")
    return tuple(place for place in places if place not in {"", "~", "null"})


def _classes(content: Mapping[str, Any], file: str) -> tuple[str, ...]:
    names = content.get("names")
    if isinstance(names, dict):
        missing = [str(index) for index in range(len(names)) if str(index) not in names]
        if missing:
            raise BadInput(
                f"{file}: names must have the keys 0 to {len(names) - 1} without a hole; it has no "
                f"{shown(', '.join(missing))}."
            )
        names = [names[str(index)] for index in range(len(names))]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise BadInput(
            f"{file}: names must be a list, or a mapping of class indices, of names, got {shown(names)}."
        )
    if (count := content.get("nc")) is not None and count != str(len(names)):
        raise BadInput(f"{file}: nc is {shown(count)}, but there are {len(names)} names.")
    return checked_classes(names, file)


def _base(tree: Tree, given: object) -> str:
    """`path` where it is a folder of the import; it often is one of the machine the dataset was made on."""
    place = tree.places(given, ("",))[0] if isinstance(given, str) and given else None
    return place if place in tree.folders and place is not None else ""
