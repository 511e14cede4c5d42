"""Leaks between splits: the same recording, or the same picture, where one trains and the other judges."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from retrain.dataset.duplicates import NearPair
from retrain.dataset.version import DatasetItem, Waiver
from retrain.errors import Leakage

_SHOWN = 10


@dataclass(frozen=True)
class Leak:
    """Two images of one version that should be in one split and are not.

    Attributes:
        kind: `group` when they share a group key, `near-duplicate` when they show the same picture.
        images: digests.
        names: what people call them: `file` in their metadata, else how the digest begins.
        splits: where they are.
        distance: bits of 128 in which the perceptual hashes differ; None for a shared group.
    """

    kind: Literal["near-duplicate", "group"]
    images: tuple[str, str]
    names: tuple[str, str]
    splits: tuple[str, str]
    distance: int | None = None

    def to_text(self) -> str:
        a, b = (f"{name} ({split})" for name, split in zip(self.names, self.splits, strict=True))
        how = (
            "share a group" if self.distance is None else f"show the same, {self.distance} of 128 bits apart"
        )
        return f"{a} and {b} {how}"

    def waived(self, reason: str) -> Waiver:
        return Waiver(
            kind=self.kind, images=self.images, splits=self.splits, reason=reason, distance=self.distance
        )


@dataclass(frozen=True)
class LeakReport:
    """What the leak check of a version found.

    Attributes:
        leaks: those that nobody has accepted.
        waived: those that somebody has, with the reason.
        compared: new images whose pictures were compared with all others.
        not_compared: new images that were not, since they have more than 8 bits per channel.
    """

    leaks: tuple[Leak, ...]
    waived: tuple[Waiver, ...]
    compared: int
    not_compared: int = 0

    def to_text(self) -> str:
        """A few lines for a terminal or a log."""
        found = f"{len(self.leaks)} leaks between splits, {len(self.waived)} waived"
        lines = [
            f"{found}; {self.compared} new pictures compared",
            *(f"  {leak.to_text()}" for leak in self.leaks),
        ]
        for waiver in self.waived:
            a, b = (
                f"{image[:12]} ({split})" for image, split in zip(waiver.images, waiver.splits, strict=True)
            )
            lines.append(f"  waived: {a} and {b}: {waiver.reason}")
        if self.not_compared:
            lines.append(
                f"  {self.not_compared} new pictures were not compared: more than 8 bits per channel"
            )
        return "\n".join(lines)

    def accepted(self, reason: str | None) -> tuple[Waiver, ...]:
        """The waivers to record when every leak is accepted for this reason.

        Raises:
            Leakage: there are leaks and no reason to accept them.
        """
        if self.leaks and not (reason and reason.strip()):
            shown = "; ".join(leak.to_text() for leak in self.leaks[:_SHOWN])
            more = f"; and {len(self.leaks) - _SHOWN} more" if len(self.leaks) > _SHOWN else ""
            raise Leakage(
                f"{len(self.leaks)} pairs of images leak between splits: {shown}{more}. Put them in one group, leave "
                "one of each out, or commit with the reason for which they are accepted (waive=…), which is recorded."
            )
        return (*self.waived, *(leak.waived(str(reason)) for leak in self.leaks))


def find_leaks(
    items: Mapping[str, DatasetItem],
    pairs: Iterable[NearPair],
    waivers: Sequence[Waiver] = (),
    before: Mapping[str, DatasetItem] | None = None,
    compared: int = 0,
    not_compared: int = 0,
) -> LeakReport:
    """Leaks among the items of a version.

    Args:
        pairs: near-duplicates among them.
        waivers: those of the parent; they hold on while both images are where they were. That of a shared group is
            for the group in these two splits, whichever of its images are left.
        before: the parent's items, which tell the group of images that are gone.
    """
    found = [*_torn_groups(items.values()), *_straddling(items, pairs)]
    standing = {
        (waiver.kind, waiver.images): waiver
        for waiver in waivers
        if tuple(items[image].split if image in items else "" for image in waiver.images) == waiver.splits
    }
    groups = _waived_groups(waivers, {**(before or {}), **items})
    for leak in found:
        reason = (
            groups.get((items[leak.images[0]].group, frozenset(leak.splits)))
            if leak.kind == "group"
            else None
        )
        if reason is not None:
            standing.setdefault((leak.kind, leak.images), leak.waived(reason))
    leaks = (leak for leak in found if (leak.kind, leak.images) not in standing)
    ordered = tuple(sorted(leaks, key=lambda leak: (leak.images, leak.kind)))
    return LeakReport(ordered, tuple(standing.values()), compared, not_compared)


def _waived_groups(
    waivers: Iterable[Waiver], items: Mapping[str, DatasetItem]
) -> dict[tuple[str, frozenset[str]], str]:
    """Reason of each group that may be in two splits."""
    return {
        (items[waiver.images[0]].group, frozenset(waiver.splits)): waiver.reason
        for waiver in waivers
        if waiver.kind == "group" and waiver.images[0] in items
    }


def _straddling(items: Mapping[str, DatasetItem], pairs: Iterable[NearPair]) -> Iterable[Leak]:
    for pair in pairs:
        two = (items[min(pair.first, pair.second)], items[max(pair.first, pair.second)])
        if two[0].split != two[1].split:
            yield _leak("near-duplicate", two, pair.distance)


def _torn_groups(items: Iterable[DatasetItem]) -> Iterable[Leak]:
    first: dict[str, dict[str, DatasetItem]] = defaultdict(dict)
    for item in items:
        known = first[item.group].setdefault(item.split, item)
        if item.image < known.image:
            first[item.group][item.split] = item
    for by_split in first.values():
        one, *others = sorted(by_split.values(), key=lambda item: item.image)
        for other in others:
            yield _leak("group", (one, other))


def _leak(
    kind: Literal["near-duplicate", "group"],
    two: tuple[DatasetItem, DatasetItem],
    distance: int | None = None,
) -> Leak:
    a, b = two
    return Leak(kind, (a.image, b.image), (_name(a), _name(b)), (a.split, b.split), distance)


def _name(item: DatasetItem) -> str:
    return str(item.metadata.get("file") or item.image[:12])
