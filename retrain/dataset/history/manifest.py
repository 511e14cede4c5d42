"""How a version is written down: a small header under Git and segments of items under DVC.

A version shares its parent's segments and adds one with what is new or changed, of which the last word counts. So
one percent more images move one percent of the manifest, too.
"""

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from retrain.dataset.splitter import checked_fractions
from retrain.dataset.version import FORMAT, DatasetItem, DatasetVersion, Header, check_items
from retrain.errors import BadInput
from retrain.storage.digests import content_digest

_CANONICAL = msgspec.json.Encoder(order="sorted")
_ITEM = msgspec.json.Decoder(DatasetItem)
_MOST_SEGMENTS = 64


class Stored(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What Git keeps of a version.

    Attributes:
        digest: of the version, whose text is the header and its items.
        segments: digests of the segments, oldest first.
    """

    header: Header
    digest: str
    segments: tuple[str, ...]

    def to_bytes(self) -> bytes:
        return msgspec.json.format(_CANONICAL.encode(self), indent=1) + b"\n"


def read_stored(data: bytes) -> Stored:
    """The inverse of `Stored.to_bytes`.

    Raises:
        BadInput: anything else.
    """
    try:
        given = msgspec.json.decode(data)
        found = given["header"]["format"]
    except (msgspec.MsgspecError, TypeError, KeyError) as e:
        raise BadInput(f"The header of a dataset version is damaged: {e}.") from e
    if found != FORMAT:
        raise BadInput(f"The dataset version has format {found!r}, this Retrain reads {FORMAT}.")
    try:
        return msgspec.convert(given, Stored)
    except msgspec.ValidationError as e:
        raise BadInput(f"The header of a dataset version is damaged: {e}.") from e


def segment(items: Iterable[DatasetItem]) -> tuple[str, bytes]:
    """Name and bytes of a segment that holds these items."""
    data = _CANONICAL.encode_lines(items)
    return content_digest(data), data


def new_segments(
    version: DatasetVersion, parent: DatasetVersion | None, inherited: Sequence[str]
) -> tuple[tuple[str, ...], dict[str, bytes]]:
    """Which segments make up a version, and the bytes of those that its parent does not have.

    Where images were taken out, or most of what the parent's segments say no longer holds, all are written anew.

    Args:
        inherited: the parent's segments.
    """
    known: Mapping[str, DatasetItem] = parent.by_image if parent else {}
    changed = [item for item in version.items if known.get(item.image) != item]
    rewritten = sum(item.image in known for item in changed)
    removed = bool(known.keys() - version.by_image.keys())
    if removed or rewritten > len(known) // 2 or len(inherited) >= _MOST_SEGMENTS:
        changed, inherited = list(version.items), ()
    if not changed:
        return tuple(inherited), {}
    name, data = segment(changed)
    if _ITEM.decode_lines(data) != changed:
        raise BadInput(f"Items of {version.name} cannot be written so that they read back the same.")
    return (*inherited, name), {name: data}


def read_version(stored: Stored, segments: Iterable[bytes]) -> DatasetVersion:
    """The version of a header and its segments, in the header's order.

    Its items were checked and its digest computed when it was committed. Git vouches for the header, and the digests
    in the header for the segments, so nothing is computed again.

    Raises:
        BadInput: a segment is not the one the header names.
    """
    items: dict[str, DatasetItem] = {}
    for name, data in zip(stored.segments, segments, strict=True):
        if content_digest(data) != name:
            raise BadInput(f"Manifest segment {name} of {stored.header.name} is damaged: it has other bytes.")
        items.update((item.image, item) for item in _ITEM.decode_lines(data))
    head = stored.header
    if len(items) != head.images:
        raise BadInput(
            f"The header of {head.name} says {head.images} images, its segments have {len(items)}."
        )
    checked_fractions(head.splits)
    version = DatasetVersion.of(head, (items[image] for image in sorted(items)))
    vars(version)["digest"] = stored.digest  # what the cached property would come to
    return version


def check_version(version: DatasetVersion, parent: DatasetVersion | None = None) -> DatasetVersion:
    """The version itself, if it may be committed. What it shares with its parent was checked for that.

    Raises:
        BadInput: no images, no classes, an image twice, an unwaived group in two splits, or an impossible item.
    """
    if not version.items:
        raise BadInput(f"Version {version.name!r} would have no images; add some first.")
    if not version.classes:
        raise BadInput(f"Version {version.name!r} would have no classes; name them in create_version.")
    waived = {w.images for w in version.waivers if w.kind == "group"}
    groups = {version.by_image[image].group for pair in waived for image in pair if image in version.by_image}
    # A child's classes begin with its parent's, or the parent counts for nothing.
    known = parent.by_image if parent and version.classes[: len(parent.classes)] == parent.classes else None
    check_items(version.items, version.classes, version.splits, groups, known)
    return version
