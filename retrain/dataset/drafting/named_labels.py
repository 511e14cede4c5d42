"""Labels that name their classes, as people write them."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from retrain.boxes import Annotations
from retrain.dataset.version import DatasetItem
from retrain.errors import BadInput

Labels = Annotations | Sequence[Mapping[str, Any]]
"""Boxes with class indices, or one mapping per object: `{"class": "car", "box": [x1, y1, x2, y2]}`, in pixels."""


def new_names(labels: Iterable[Labels], classes: Sequence[str]) -> tuple[str, ...]:
    """The classes, followed by those that the labels name beyond them, in the order of the alphabet."""
    named = {
        str(one["class"])
        for given in labels
        if not isinstance(given, Annotations)
        for one in given
        if isinstance(one, Mapping) and "class" in one
    }
    return (*classes, *sorted(named - set(classes)))


def with_indices(labels: Labels, classes: Sequence[str]) -> Annotations:
    """Labels with the indices that the classes have in a version.

    Raises:
        BadInput: an object that is no such mapping, or of a class that the version does not have; without the image's
            name.
    """
    if isinstance(labels, Annotations):
        return labels
    for one in labels:
        if not isinstance(one, Mapping) or one.keys() != {"class", "box"}:
            raise BadInput(
                f'has an object that is not {{"class": name, "box": [x1, y1, x2, y2]}}: {one!r:.100}'
            )
        if one["class"] not in classes:
            near = difflib.get_close_matches(str(one["class"]), classes, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise BadInput(f"has class {one['class']!r}, but the version has {', '.join(classes)}{hint}")
    return Annotations.of([one["box"] for one in labels], [classes.index(one["class"]) for one in labels])


def with_used_classes(
    classes: Sequence[str], items: Mapping[str, DatasetItem]
) -> tuple[tuple[str, ...], dict[str, DatasetItem]]:
    """Only the classes that some object has, and the items with their new indices.

    For classes that were learnt: an image that was refused or left out may have been the only one to name a class.
    """
    used = sorted({o.class_index for item in items.values() for o in item.objects})
    if used == list(range(len(classes))):
        return tuple(classes), dict(items)
    index_of = {old: new for new, old in enumerate(used)}
    return tuple(classes[index] for index in used), {
        image: msgspec.structs.replace(
            item,
            objects=tuple(
                msgspec.structs.replace(o, class_index=index_of[o.class_index]) for o in item.objects
            ),
        )
        for image, item in items.items()
    }
