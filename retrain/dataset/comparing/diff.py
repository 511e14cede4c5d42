"""What changed from one dataset version to another, for people; `patch` holds the whole of it for machines."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from retrain.dataset.comparing.relabelling import Kind, Relabelling, relabellings_of
from retrain.dataset.measuring.coverage import camera_of
from retrain.dataset.stats import size_counts
from retrain.dataset.version import DatasetItem, DatasetVersion, Waiver

Counts = Mapping[str, tuple[int, int]]
"""Name → number before, number after."""
UNKNOWN_CAMERA = "(not known)"
_KEPT_FIELDS = ("source", "group", "pack", "metadata")
_HEADER_FIELDS = ("description", "parent", "parent_digest", "splits", "salt", "gold", "merged", "is_aside")


@dataclass(frozen=True)
class SplitChanges:
    """Images of one split."""

    added: int
    removed: int
    relabelled: int


@dataclass(frozen=True)
class DatasetDiff:
    """Attributes:
    added, removed, relabelled, moved: image digests, sorted. `moved` are in another split than before: never
        between a version and its parent.
    relabellings: the objects of `relabelled`, in the same order.
    changes_by_split: every split of either version; removed images count where they were.
    moves: (old split, new split, images), most images first.
    other_changes: field → images in both versions that differ in it although boxes and split may not.
    boxes_by_size: COCO's small, medium and large.
    header: field → old and new value, where they differ.
    """

    before: str
    after: str
    added: tuple[str, ...]
    removed: tuple[str, ...]
    relabelled: tuple[str, ...]
    moved: tuple[str, ...]
    images_by_split: Counts
    objects_by_class: Counts
    images_by_source: Counts
    relabellings: tuple[Relabelling, ...] = ()
    moves: tuple[tuple[str, str, int], ...] = ()
    changes_by_split: Mapping[str, SplitChanges] = field(default_factory=dict)
    other_changes: Mapping[str, int] = field(default_factory=dict)
    images_by_camera: Counts = field(default_factory=dict)
    boxes_by_size: Counts = field(default_factory=dict)
    classes_before: tuple[str, ...] = ()
    classes_after: tuple[str, ...] = ()
    waivers_before: tuple[Waiver, ...] = ()
    waivers_after: tuple[Waiver, ...] = ()
    header: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)

    @property
    def classes_added(self) -> tuple[str, ...]:
        return tuple(name for name in self.classes_after if name not in self.classes_before)

    @property
    def classes_removed(self) -> tuple[str, ...]:
        return tuple(name for name in self.classes_before if name not in self.classes_after)

    @property
    def are_classes_renumbered(self) -> bool:
        """Whether a class of both versions has another index: a model trained before reads the new labels wrongly."""
        old = {name: index for index, name in enumerate(self.classes_before)}
        return any(old.get(name, index) != index for index, name in enumerate(self.classes_after))

    @property
    def waivers_added(self) -> tuple[Waiver, ...]:
        return tuple(waiver for waiver in self.waivers_after if waiver not in self.waivers_before)

    @property
    def waivers_removed(self) -> tuple[Waiver, ...]:
        return tuple(waiver for waiver in self.waivers_before if waiver not in self.waivers_after)

    @property
    def waivers_kept(self) -> tuple[Waiver, ...]:
        return tuple(waiver for waiver in self.waivers_after if waiver in self.waivers_before)

    def objects_by_change(self) -> dict[Kind, int]:
        """Objects of relabelled images by what happened to them, most first."""
        kinds = Counter(change.kind for one in self.relabellings for change in one.changes)
        return dict(kinds.most_common())

    def to_json(self) -> dict[str, Any]:
        plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(self))
        return plain

    def summary(self) -> str:
        """One line: which versions, and how many images were added, removed, relabelled and moved."""
        changes = [
            f"{len(self.added)} added",
            f"{len(self.removed)} removed",
            f"{len(self.relabelled)} relabelled",
        ]
        if self.moved:
            changes.append(f"{len(self.moved)} in another split")
        return f"{self.before} → {self.after}: {', '.join(changes)}"

    def to_text(self) -> str:
        """A few lines for a terminal or a log."""
        lines = [self.summary(), *_remarks(self)]
        for title, counts in (
            ("images by split", self.images_by_split),
            ("images by source", self.images_by_source),
            ("images by camera", self.images_by_camera),
            ("objects by class", self.objects_by_class),
            ("boxes by size", self.boxes_by_size),
        ):
            lines.append(f"{title}:")
            width = max((len(name) for name in counts), default=0)
            lines += [
                f"  {name:<{width}} {old:>7} → {new:<7} {new - old:+d}" for name, (old, new) in counts.items()
            ]
        return "\n".join(lines)


def diff_versions(before: DatasetVersion, after: DatasetVersion) -> DatasetDiff:
    """Compare by image; `relabelled` are images in both whose boxes or classes differ."""
    old, new = before.by_image, after.by_image
    kept = [(old[image], new[image]) for image in sorted(old.keys() & new.keys())]
    relabellings = relabellings_of(kept, before.classes, after.classes)
    moved = [(one, other) for one, other in kept if one.split != other.split]
    moves = Counter((one.split, other.split) for one, other in moved)
    added, removed = tuple(sorted(new.keys() - old.keys())), tuple(sorted(old.keys() - new.keys()))
    relabelled = tuple(one.image for one in relabellings)
    return DatasetDiff(
        before=before.name,
        after=after.name,
        added=added,
        removed=removed,
        relabelled=relabelled,
        moved=tuple(one.image for one, _ in moved),
        images_by_split=_paired(before.images_by_split(), after.images_by_split()),
        objects_by_class=_paired(before.objects_by_class(), after.objects_by_class()),
        images_by_source=_counted(before, after, lambda item: item.source),
        relabellings=relabellings,
        moves=tuple((*pair, n) for pair, n in sorted(moves.items(), key=lambda one: (-one[1], one[0]))),
        changes_by_split=_changes_by_split(before, after, added, removed, relabelled),
        other_changes=_other_changes(kept),
        images_by_camera=_counted(before, after, lambda item: camera_of(item.metadata) or UNKNOWN_CAMERA),
        boxes_by_size=_paired(_sizes(before), _sizes(after)),
        classes_before=before.classes,
        classes_after=after.classes,
        waivers_before=before.waivers,
        waivers_after=after.waivers,
        header=_header(before, after),
    )


def _changes_by_split(
    before: DatasetVersion,
    after: DatasetVersion,
    added: Iterable[str],
    removed: Iterable[str],
    relabelled: Iterable[str],
) -> dict[str, SplitChanges]:
    here = [Counter(after.by_image[image].split for image in images) for images in (added, relabelled)]
    gone = Counter(before.by_image[image].split for image in removed)
    return {
        name: SplitChanges(here[0][name], gone[name], here[1][name])
        for name in (*before.splits, *after.splits)
    }


def _other_changes(kept: Iterable[tuple[DatasetItem, DatasetItem]]) -> dict[str, int]:
    changed: Counter[str] = Counter()
    for one, other in kept:
        changed.update(name for name in _KEPT_FIELDS if getattr(one, name) != getattr(other, name))
    return {name: changed[name] for name in _KEPT_FIELDS if changed[name]}


def _sizes(version: DatasetVersion) -> dict[str, int]:
    boxes = np.array([o.box for item in version.items for o in item.objects], dtype=np.float64).reshape(-1, 4)
    counts = size_counts((boxes[:, 2:] - boxes[:, :2]).prod(axis=1))
    return {"small": counts.small, "medium": counts.medium, "large": counts.large}


def _header(before: DatasetVersion, after: DatasetVersion) -> dict[str, tuple[Any, Any]]:
    pairs = {name: (getattr(before, name), getattr(after, name)) for name in _HEADER_FIELDS}
    return {name: (old, new) for name, (old, new) in pairs.items() if old != new}


def _remarks(diff: DatasetDiff) -> list[str]:
    """What a reviewer must not overlook, one line each."""
    changes = ", ".join(f"{n} {kind}" for kind, n in diff.objects_by_change().items())
    said = {
        "objects of relabelled images": changes,
        "images that changed split": ", ".join(f"{n} from {old} to {new}" for old, new, n in diff.moves),
        "classes added": ", ".join(diff.classes_added),
        "classes removed": ", ".join(diff.classes_removed),
        "classes": "renumbered; models trained before read the new labels wrongly"
        * diff.are_classes_renumbered,
        "leaks waived anew": str(len(diff.waivers_added) or ""),
    }
    return [f"{title}: {text}" for title, text in said.items() if text]


def _counted(before: DatasetVersion, after: DatasetVersion, key: Callable[[DatasetItem], str]) -> Counts:
    old, new = (Counter(map(key, version.items)) for version in (before, after))
    return _paired(dict(sorted(old.items())), dict(sorted(new.items())))


def _paired(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    return {name: (before.get(name, 0), after.get(name, 0)) for name in {**before, **after}}
