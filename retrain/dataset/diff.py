"""What changed from one dataset version to another."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from retrain.dataset.version import DatasetItem, DatasetVersion

Counts = Mapping[str, tuple[int, int]]
"""Name → number before, number after."""


@dataclass(frozen=True)
class DatasetDiff:
    before: str
    after: str
    added: tuple[str, ...]
    """Image digests, sorted; likewise below."""
    removed: tuple[str, ...]
    relabelled: tuple[str, ...]
    moved: tuple[str, ...]
    """In another split than before; never between a version and its parent."""
    images_by_split: Counts
    objects_by_class: Counts
    images_by_source: Counts

    def to_json(self) -> dict[str, Any]:
        return {name: _plain(value) for name, value in asdict(self).items()}

    def to_text(self) -> str:
        """A few lines for a terminal or a log."""
        changes = [
            f"{len(self.added)} added",
            f"{len(self.removed)} removed",
            f"{len(self.relabelled)} relabelled",
        ]
        if self.moved:
            changes.append(f"{len(self.moved)} in another split")
        lines = [f"{self.before} → {self.after}: {', '.join(changes)}"]
        for title, counts in (
            ("images by split", self.images_by_split),
            ("images by source", self.images_by_source),
            ("objects by class", self.objects_by_class),
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
    kept = sorted(old.keys() & new.keys())
    return DatasetDiff(
        before=before.name,
        after=after.name,
        added=tuple(sorted(new.keys() - old.keys())),
        removed=tuple(sorted(old.keys() - new.keys())),
        relabelled=tuple(image for image in kept if _said(old[image], before) != _said(new[image], after)),
        moved=tuple(image for image in kept if old[image].split != new[image].split),
        images_by_split=_paired(before.images_by_split(), after.images_by_split()),
        objects_by_class=_paired(before.objects_by_class(), after.objects_by_class()),
        images_by_source=_paired(
            dict(sorted(Counter(item.source for item in before.items).items())),
            dict(sorted(Counter(item.source for item in after.items).items())),
        ),
    )


def _said(item: DatasetItem, version: DatasetVersion) -> list[tuple[str, tuple[float, ...]]]:
    # By class name: unrelated versions may number their classes differently.
    return sorted((version.classes[index], box) for index, box in item.labels)


def _paired(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    return {name: (before.get(name, 0), after.get(name, 0)) for name in {**before, **after}}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    return value
