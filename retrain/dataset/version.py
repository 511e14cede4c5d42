"""What a dataset version is: an immutable list of labelled images, whose canonical text is its identity."""

import json
import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import msgspec

from retrain.boxes import Annotations
from retrain.errors import BadInput
from retrain.storage.digests import content_digest

FORMAT = 2
_DIGEST = re.compile(r"[0-9a-f]{64}")
_IMAGE_FORMATS = ("bmp", "jpg", "png", "tif", "webp")
_CANONICAL = msgspec.json.Encoder(order="sorted")


class LabelledObject(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One true box. Its id stays the same through later versions, also when its box or class is corrected."""

    id: str
    class_index: int
    box: tuple[float, float, float, float]
    """xyxy in pixels, inside the image, with an area."""


class DatasetItem(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """One labelled image of a version. `msgspec.structs.replace` makes a changed copy."""

    image: str
    """`content_digest` of the encoded bytes."""
    pack: str
    """Digest of the pack file that holds the bytes; empty while the image is in a draft."""
    format: str
    width: int
    height: int
    objects: tuple[LabelledObject, ...]
    split: str
    """Empty while the image is in a draft and its split is decided at the commit."""
    group: str
    """Images of one group are never in two splits."""
    source: str
    """Who labelled it: seed, auto, human, …"""
    metadata: Mapping[str, Any] = msgspec.field(default_factory=dict)

    @property
    def file_name(self) -> str:
        return f"{self.image}.{self.format}"

    @property
    def annotations(self) -> Annotations:
        return Annotations.of([o.box for o in self.objects], [o.class_index for o in self.objects])

    @property
    def labels(self) -> tuple[tuple[int, tuple[float, float, float, float]], ...]:
        """What the objects say, without their ids and in a fixed order."""
        return tuple(sorted((o.class_index, o.box) for o in self.objects))


class Waiver(msgspec.Struct, frozen=True):
    """A leak between splits that somebody accepted, recorded in the version for good.

    Attributes:
        images: the two image digests.
        splits: where they are, in the same order.
        reason: in their words.
        distance: bits of 128 in which the perceptual hashes differ; None when the images share a group.
    """

    kind: Literal["near-duplicate", "group"]
    images: tuple[str, str]
    splits: tuple[str, str]
    reason: str
    distance: int | None = None


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The first line of a manifest: what holds for the version as a whole."""

    name: str
    description: str
    classes: tuple[str, ...]
    parent: str | None
    parent_digest: str | None
    splits: Mapping[str, float]
    salt: str
    images: int
    waivers: tuple[Waiver, ...] = ()
    gold: str | None = None
    merged: str | None = None
    is_aside: bool = False
    format: int = FORMAT


_TOLD = tuple(name for name in Header.__struct_fields__ if name not in {"images", "format", "splits"})
"""What a header says that its version says, too."""


@dataclass(frozen=True)
class DatasetVersion:
    """A named, immutable dataset; equal content has an equal `digest`."""

    name: str
    description: str
    classes: tuple[str, ...]
    parent: str | None
    parent_digest: str | None
    splits: Mapping[str, float]
    salt: str
    items: tuple[DatasetItem, ...]
    """Sorted by image digest; an image occurs once."""
    waivers: tuple[Waiver, ...] = ()
    gold: str | None = None
    """The version whose test images are the frozen gold test: their labels never change again."""
    merged: str | None = None
    """The version that was merged into the parent."""
    is_aside: bool = False
    """Beside the line of versions, such as a subset: nothing starts from it unless it is named."""

    @classmethod
    def of(cls, header: Header, items: Iterable[DatasetItem]) -> "DatasetVersion":
        """The version of a header and its items, sorted by image."""
        told = {name: getattr(header, name) for name in _TOLD}
        return cls(**told, splits=dict(header.splits), items=tuple(items))

    @property
    def header(self) -> Header:
        told = {name: getattr(self, name) for name in _TOLD}
        return Header(**told, splits=dict(self.splits), images=len(self.items))

    def to_manifest(self) -> bytes:
        """Canonical JSON lines: a header, then one line per image."""
        return _CANONICAL.encode_lines((self.header, *self.items))

    @cached_property
    def digest(self) -> str:
        """`content_digest` of `to_manifest()`."""
        return content_digest(self.to_manifest())

    @cached_property
    def by_image(self) -> Mapping[str, DatasetItem]:
        return {item.image: item for item in self.items}

    def in_split(self, split: str) -> tuple[DatasetItem, ...]:
        return tuple(item for item in self.items if item.split == split)

    def images_by_split(self) -> dict[str, int]:
        counts = Counter(item.split for item in self.items)
        return {split: counts[split] for split in self.splits}

    def objects_by_class(self) -> dict[str, int]:
        counts = Counter(o.class_index for item in self.items for o in item.objects)
        return {name: counts[index] for index, name in enumerate(self.classes)}


def canonical_line(value: Mapping[str, Any]) -> bytes:
    """One line of canonical JSON: equal values give equal bytes.

    Raises:
        BadInput: NaN, infinity or something JSON cannot hold.
    """
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return text.encode() + b"\n"
    except RecursionError as e:
        raise BadInput(
            "Only plain JSON values can be kept with an image, got one that is nested too deep."
        ) from e
    except (TypeError, ValueError) as e:
        raise BadInput(f"Only plain JSON values can be kept with an image, got {value!r}: {e}.") from e


def check_items(
    items: Sequence[DatasetItem],
    classes: Sequence[str],
    splits: Mapping[str, float],
    torn: Collection[str] = (),
    known: Mapping[str, DatasetItem] | None = None,
) -> None:
    """What must hold between the items of one version.

    Args:
        torn: groups that may be in several splits.
        known: items by image that were checked before, under these classes and splits.

    Raises:
        BadInput: an image twice, a group in two splits (every one of them is listed), or an impossible item.
    """
    seen: dict[str, set[str]] = {}
    for previous, item in zip((None, *items), items, strict=False):
        if previous is not None and previous.image >= item.image:
            raise BadInput(f"Images must be sorted and occur once, got {item.image} after {previous.image}.")
        if known is None or known.get(item.image) is not item:
            check_item(item, len(classes), splits)
        seen.setdefault(item.group, set()).add(item.split)
    if leaks := [
        f"{group!r} ({', '.join(sorted(names))})"
        for group, names in seen.items()
        if len(names) > 1 and group not in torn
    ]:
        raise BadInput(f"A group must be in one split only; in several are {', '.join(sorted(leaks))}.")


def check_item(item: DatasetItem, classes: int, splits: Mapping[str, float]) -> None:
    """Raise `BadInput` when a field has the wrong type or range."""
    texts = (item.image, item.pack, item.format, item.split, item.group, item.source)
    problem = ""
    if not all(isinstance(text, str) for text in texts) or not isinstance(item.metadata, Mapping):
        problem = "text fields must be strings and metadata a mapping"
    elif not (_DIGEST.fullmatch(item.image) and _DIGEST.fullmatch(item.pack)):
        problem = f"image and pack must be 64 hex characters, got {item.image!r} and {item.pack!r}"
    elif item.format not in _IMAGE_FORMATS:
        problem = f"format must be one of {', '.join(_IMAGE_FORMATS)}, got {item.format!r}"
    elif item.split not in splits:
        problem = f"split must be one of {', '.join(splits)}, got {item.split!r}"
    elif not (_is_count(item.width) and _is_count(item.height)):
        problem = f"width and height must be whole pixels, got {item.width!r} and {item.height!r}"
    elif len({o.id for o in item.objects}) != len(item.objects):
        problem = "two objects have the same id"
    elif bad := [o for o in item.objects if not _is_object(o, item, classes)]:
        problem = (
            f"object {bad[0].id!r} must have a class below {classes} and a box inside the image, got {bad[0]}"
        )
    if problem:
        raise BadInput(f"Image {item.image}: {problem}.")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_object(item: LabelledObject, image: DatasetItem, classes: int) -> bool:
    if not isinstance(item.id, str) or not isinstance(item.class_index, int):
        return False
    if not all(isinstance(edge, float) and math.isfinite(edge) for edge in item.box):
        return False
    x1, y1, x2, y2 = item.box
    inside = 0 <= x1 < x2 <= image.width and 0 <= y1 < y2 <= image.height
    return inside and 0 <= item.class_index < classes
