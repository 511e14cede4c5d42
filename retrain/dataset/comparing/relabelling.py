"""What became of the objects of an image whose labels were changed."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from retrain.dataset.version import DatasetItem, LabelledObject

Kind = Literal["added", "removed", "reclassed", "moved", "reclassed and moved"]


class NamedBox(NamedTuple):
    """A box and its class by name: versions may number their classes differently."""

    name: str
    box: tuple[float, float, float, float]
    """xyxy in pixels."""


@dataclass(frozen=True)
class ObjectChange:
    """What became of one object, by its id.

    Attributes:
        before: None when it was added.
        after: None when it was removed.
    """

    id: str
    before: NamedBox | None
    after: NamedBox | None

    @property
    def kind(self) -> Kind:
        if self.before is None:
            return "added"
        if self.after is None:
            return "removed"
        if self.before.name == self.after.name:
            return "moved"
        return "reclassed" if self.before.box == self.after.box else "reclassed and moved"


@dataclass(frozen=True)
class Relabelling:
    """One image whose boxes or classes differ; `unchanged` counts its objects that say the same as before."""

    image: str
    changes: tuple[ObjectChange, ...]
    unchanged: int


def relabellings_of(
    kept: Iterable[tuple[DatasetItem, DatasetItem]], old: tuple[str, ...], new: tuple[str, ...]
) -> tuple[Relabelling, ...]:
    """Of pairs of the same image, those whose boxes or classes differ.

    Args:
        old, new: class names of the first and of the second of each pair.
    """
    found = []
    for one, other in kept:
        # Most images are the same, and comparing them as they are is far faster than object by object.
        if one.objects == other.objects and old == new:
            continue
        before, after = _named(one.objects, old), _named(other.objects, new)
        if sorted(before.values()) != sorted(after.values()):
            changes = _object_changes(before, after)
            gone = sum(change.before is not None for change in changes)
            found.append(Relabelling(one.image, changes, len(before) - gone))
    return tuple(found)


def _object_changes(
    before: Mapping[str, NamedBox], after: Mapping[str, NamedBox]
) -> tuple[ObjectChange, ...]:
    """By id; what was only given another id is no change."""
    both = sorted(before.keys() & after.keys())
    changes = [ObjectChange(i, before[i], after[i]) for i in both if before[i] != after[i]]
    removed = {i: before[i] for i in before if i not in after}
    added = {i: after[i] for i in after if i not in before}
    same = Counter(removed.values()) & Counter(added.values())
    changes += [ObjectChange(i, box, None) for i, box in _without(removed, same)]
    changes += [ObjectChange(i, None, box) for i, box in _without(added, same)]
    return tuple(sorted(changes, key=lambda change: change.id))


def _without(boxes: Mapping[str, NamedBox], taken: Mapping[NamedBox, int]) -> list[tuple[str, NamedBox]]:
    left = dict(taken)
    kept = []
    for name, box in boxes.items():
        if left.get(box, 0):
            left[box] -= 1
        else:
            kept.append((name, box))
    return kept


def _named(objects: Iterable[LabelledObject], classes: tuple[str, ...]) -> dict[str, NamedBox]:
    return {one.id: NamedBox(classes[one.class_index], one.box) for one in objects}
