"""Versions made of versions: what merging two means for their classes and images."""

from collections import defaultdict
from collections.abc import Mapping

import msgspec

from retrain.dataset.version import DatasetItem, DatasetVersion
from retrain.errors import BadInput

ClassMap = Mapping[str, str | None]
"""Class of the second version → class of the merged one, or None to drop its objects."""


def merged_classes(a: DatasetVersion, b: DatasetVersion, class_map: ClassMap | None) -> tuple[str, ...]:
    """The classes of `a`, then those that `b` brings, in its order.

    Raises:
        BadInput: the map names a class that `b` does not have, leaves one out, or maps one to an empty name.
    """
    if class_map is None:
        names = list(b.classes)
    else:
        if unknown := sorted(class_map.keys() - set(b.classes)):
            raise BadInput(f"The class map names {unknown[0]!r}, but {b.name} has {', '.join(b.classes)}.")
        if holes := [name for name in b.classes if name not in class_map]:
            raise BadInput(
                f"The class map says nothing of {', '.join(holes)}; map every class of {b.name}, to itself to keep it, "
                "to null (on the command line to nothing, as in bird=) to drop it."
            )
        if any(name is not None and not name.strip() for name in class_map.values()):
            raise BadInput("The class map maps to an empty name; use null to drop a class.")
        names = [name for old in b.classes if (name := class_map[old]) is not None]
    return tuple(dict.fromkeys((*a.classes, *names)))


def merged_items(
    a: DatasetVersion, b: DatasetVersion, class_map: ClassMap | None, classes: tuple[str, ...]
) -> list[DatasetItem]:
    """The images that `b` adds to `a`, in the merged version's classes. Splits stay as they are in both.

    Raises:
        BadInput: an image of both has other labels or another split, or a group is in other splits; all are counted
            and the first is named.
    """
    index_of = {
        old: None if (name := class_map[old] if class_map else old) is None else classes.index(name)
        for old in b.classes
    }
    translated = [_translated(item, b.classes, index_of) for item in b.items]
    _require_agreement(a, b, [item for item in translated if item.image in a.by_image])
    splits: dict[str, set[str]] = defaultdict(set)
    for item in a.items:
        splits[item.group].add(item.split)
    new = [item for item in translated if item.image not in a.by_image]
    torn = sorted({item.group for item in new if item.split not in splits.get(item.group, {item.split})})
    if torn:
        raise BadInput(
            f"{len(torn)} groups are in one split in {a.name} and in another in {b.name}, first {torn[0]!r}. An "
            "image's split never changes, so they cannot be merged; leave these groups out of one with subset."
        )
    return new


def _require_agreement(a: DatasetVersion, b: DatasetVersion, shared: list[DatasetItem]) -> None:
    pairs = [(a.by_image[item.image], item) for item in shared]
    for what, wrong in (
        ("other labels", [one.image for one, two in pairs if one.labels != two.labels]),
        ("another split", [one.image for one, two in pairs if one.split != two.split]),
    ):
        if wrong:
            raise BadInput(
                f"{len(wrong)} images of both have {what} in {b.name} than in {a.name}, first {wrong[0]}. "
                "Leave them out of one of the two with subset, then merge."
            )


def _translated(
    item: DatasetItem, classes: tuple[str, ...], index_of: Mapping[str, int | None]
) -> DatasetItem:
    objects = tuple(
        msgspec.structs.replace(o, class_index=index)
        for o in item.objects
        if (index := index_of[classes[o.class_index]]) is not None
    )
    return msgspec.structs.replace(item, objects=objects)
