"""The whole difference between two versions, from which either one can be made out of the other."""

from collections.abc import Iterable, Mapping

import msgspec

from retrain.dataset.version import DatasetItem, DatasetVersion, Header
from retrain.errors import BadInput, Conflict


class DatasetPatch(msgspec.Struct, frozen=True):
    """What turns one version into another, exactly: `apply(patch(a, b), a) == b`.

    Attributes:
        before, after: digests of the version it applies to and of the one it gives.
        header: the new version's; None where the old one's holds.
        removed: image digests, sorted.
        written: items that are new or differ in anything, by image digest.
    """

    before: str
    after: str
    header: Header | None = None
    removed: tuple[str, ...] = ()
    written: tuple[DatasetItem, ...] = ()

    @property
    def is_empty(self) -> bool:
        return self.before == self.after


def patch(before: DatasetVersion, after: DatasetVersion) -> DatasetPatch:
    """The patch that turns `before` into `after`; empty when they are equal."""
    old = before.by_image
    return DatasetPatch(
        before=before.digest,
        after=after.digest,
        header=None if before.header == after.header else after.header,
        removed=tuple(sorted(old.keys() - after.by_image.keys())),
        written=tuple(item for item in after.items if old.get(item.image) != item),
    )


def apply(change: DatasetPatch, version: DatasetVersion) -> DatasetVersion:
    """The version that the patch gives, whose digest is proven.

    Raises:
        Conflict: the patch is for another version.
        BadInput: the patch was damaged: its result has another digest than it names.
    """
    if change.before != version.digest:
        raise Conflict(
            f"The patch applies to a version with digest {change.before[:12]}, but {version.name} has "
            f"{version.digest[:12]}. Make the patch again from this version."
        )
    if change.is_empty:
        return version
    items = _changed(version.by_image, change.removed, change.written)
    result = DatasetVersion.of(change.header or version.header, items.values())
    if result.digest != change.after:
        raise BadInput(
            f"The patch to {version.name} gives digest {result.digest[:12]}, but names {change.after[:12]}: "
            f"it was damaged or edited."
        )
    return result


def compose(first: DatasetPatch, second: DatasetPatch) -> DatasetPatch:
    """One patch that does what `first` and then `second` do; empty when the second undoes the first.

    Raises:
        Conflict: the second does not apply to what the first gives.
    """
    if first.after != second.before:
        raise Conflict(
            f"The second patch applies to digest {second.before[:12]}, but the first gives {first.after[:12]}."
        )
    if first.before == second.after:
        return DatasetPatch(first.before, second.after)
    written = _changed({item.image: item for item in first.written}, second.removed, second.written)
    removed = ({*first.removed} | {*second.removed}) - written.keys()
    header = first.header if second.header is None else second.header
    return DatasetPatch(first.before, second.after, header, tuple(sorted(removed)), tuple(written.values()))


def _changed(
    items: Mapping[str, DatasetItem], removed: Iterable[str], written: Iterable[DatasetItem]
) -> dict[str, DatasetItem]:
    """Sorted by image."""
    gone = set(removed)
    found = {image: item for image, item in items.items() if image not in gone}
    found |= {item.image: item for item in written}
    return {image: found[image] for image in sorted(found)}
