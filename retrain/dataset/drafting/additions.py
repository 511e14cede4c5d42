"""What adding an image to a draft means: new, known already, relabelled, or not acceptable."""

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

import msgspec
import numpy as np

from retrain.boxes import Annotations, FloatArray, iou_matrix
from retrain.dataset.drafting.candidates import Candidate
from retrain.dataset.drafting.draft import Draft
from retrain.dataset.version import DatasetItem, LabelledObject, canonical_line
from retrain.errors import BadInput

_SAME_OBJECT_IOU = 0.5
_PAIRS_AT_ONCE = 4_000_000
_STRIP = 256
"""Boxes at a time; so many are, in a crowded image, in a narrow strip of it."""


@dataclass(frozen=True)
class AddReport:
    """What became of the images handed to `add_images`; digests, and for `rejected` name → reason.

    The name of a file is its path, that of encoded bytes `image <index>`.
    """

    added: tuple[str, ...]
    unchanged: tuple[str, ...]
    relabelled: tuple[str, ...]
    rejected: Mapping[str, str]


class Additions:
    """Judges images one by one and collects the items they become.

    Args:
        known: images that are there, by digest.
        forgotten: image → reason; those are never added again.
        gold: images of the frozen gold test, whose labels never change.
    """

    def __init__(
        self,
        draft: Draft,
        known: Mapping[str, DatasetItem],
        relabel: bool,
        forgotten: Mapping[str, str] | None = None,
        gold: Collection[str] = (),
        left_out: Collection[str] = (),
    ) -> None:
        self._draft, self._relabel = draft, relabel
        self._forgotten, self._gold = forgotten or {}, gold
        self._known, self._left_out = dict(known), set(left_out)
        self._splits = {item.group: item.split for item in self._known.values() if item.split}
        self.items: dict[str, DatasetItem] = {}
        self.added: list[str] = []
        self.unchanged: list[str] = []
        self.relabelled: list[str] = []

    def add(
        self,
        image: Candidate,
        annotations: Annotations,
        group: str | None,
        source: str,
        metadata: Mapping[str, Any],
        split: str | None = None,
    ) -> bool:
        """Judge one image and return whether it is new, so that its bytes are needed.

        Args:
            split: where it must go; by default where its group is, or undecided until the commit.

        Raises:
            BadInput: why the image is not acceptable, without its name.
        """
        if (reason := self._forgotten.get(image.digest)) is not None:
            raise BadInput(f"was forgotten for good ({reason})")
        before = self._known.get(image.digest)
        item = DatasetItem(
            image=image.digest,
            pack=before.pack if before else "",
            format=image.format,
            width=image.width,
            height=image.height,
            objects=self._objects(image, annotations, before),
            split=self._split(image.digest, group, split, before),
            group=_group(image.digest, group, before),
            source=source,
            metadata=json.loads(canonical_line(metadata)),
        )
        _require_storable(item)
        if before is None:
            self.added.append(image.digest)
        elif item.labels == before.labels and image.digest in self._left_out:
            item = before
            self.added.append(image.digest)
        elif item.labels == before.labels and item.group == before.group:
            self.unchanged.append(image.digest)
            return False
        elif item.labels == before.labels:
            item = msgspec.structs.replace(before, group=item.group, split=item.split)
            self.unchanged.append(image.digest)
        else:
            self._require_relabelling(image.digest)
            self.relabelled.append(image.digest)
        self._known[item.image] = self.items[item.image] = item
        self._left_out.discard(item.image)
        if item.split:
            self._splits.setdefault(item.group, item.split)
        return before is None

    def settled(self) -> dict[str, DatasetItem]:
        """The items, with the split of those whose group turned out to have one."""
        return {
            image: item
            if item.split
            else msgspec.structs.replace(item, split=self._splits.get(item.group, ""))
            for image, item in self.items.items()
        }

    def _require_relabelling(self, image: str) -> None:
        if not self._relabel:
            raise BadInput("is there already with other labels; pass relabel=True to replace them")
        if image in self._gold:
            raise BadInput(
                f"is in the frozen gold test of {self._draft.gold}, whose labels never change; to correct them, "
                f"begin the draft with gold={self._draft.name!r}, which declares a new gold test"
            )

    def _split(self, image: str, group: str | None, wanted: str | None, before: DatasetItem | None) -> str:
        if wanted is not None and wanted not in self._draft.splits:
            raise BadInput(f"cannot go to split {wanted!r}; splits are {', '.join(self._draft.splits)}")
        if before is None:
            # A group keeps the split it has, also when the fractions were changed since.
            return wanted or self._splits.get(group or image, "")
        if wanted and before.split and wanted != before.split:
            raise BadInput(f"is in {before.split} and cannot go to {wanted}: an image's split never changes")
        elsewhere = self._splits.get(group or before.group, before.split)
        if before.split and elsewhere != before.split:
            raise BadInput(
                f"would leak: it is in {before.split} with group {before.group!r}, "
                f"but group {group!r} is in {elsewhere}"
            )
        if before.split and group:
            # The rest of this recording belongs where its known picture is.
            self._splits.setdefault(group, before.split)
        return before.split or wanted or elsewhere

    def _objects(
        self, image: Candidate, annotations: Annotations, before: DatasetItem | None
    ) -> tuple[LabelledObject, ...]:
        count = len(self._draft.classes)
        wrong = annotations.classes[(annotations.classes < 0) | (annotations.classes >= count)]
        if len(wrong):
            worst = int(wrong[0])
            raise BadInput(f"has class {worst}, but the version has classes 0 to {count - 1}")
        edges = np.array([image.width, image.height] * 2, dtype=np.float64)
        boxes = np.clip(annotations.boxes, 0.0, edges)
        # So asked, NaN is refused too.
        flat = ~((boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1]))
        if flat.any():
            bad = annotations.boxes[flat][0].tolist()
            raise BadInput(f"({image.width} x {image.height}) has a box with no area inside it: {bad}")
        clipped = Annotations(boxes, annotations.classes)
        ids = _object_ids(clipped, image.digest, before.objects if before else ())
        rows = zip(ids, clipped.classes.tolist(), boxes.tolist(), strict=True)
        return tuple(LabelledObject(name, index, (b[0], b[1], b[2], b[3])) for name, index, b in rows)


def _group(image: str, wanted: str | None, before: DatasetItem | None) -> str:
    """Its group; an image that was by itself joins the one that is named now."""
    known = before.group if before else image
    return wanted if wanted and known == image else known


def in_packs(items: Mapping[str, DatasetItem], packs: Mapping[str, str]) -> dict[str, DatasetItem]:
    """The items with the packs (image → pack) filled in."""
    return {
        image: msgspec.structs.replace(item, pack=packs[image]) if image in packs else item
        for image, item in items.items()
    }


def _require_storable(item: DatasetItem) -> None:
    """Refuse what would not read back, such as a number as group: later it would make the whole draft unreadable."""
    try:
        back = msgspec.json.decode(msgspec.json.encode(item), type=DatasetItem)
    except (msgspec.MsgspecError, OverflowError, RecursionError, UnicodeEncodeError) as e:
        raise BadInput(f"cannot be kept with this group, source or metadata: {e}") from e
    if back != item:
        raise BadInput("cannot be kept: its metadata would read back as something else")


def _object_ids(annotations: Annotations, image: str, before: tuple[LabelledObject, ...]) -> list[str]:
    """An id for each box: that of the object it overlaps most in the previous labels, else a new one."""
    ids = [""] * len(annotations)
    if before and len(annotations):
        taken: set[int] = set()
        for _, new, old in _overlapping(annotations.boxes, np.array([o.box for o in before])):
            if not ids[new] and old not in taken:
                ids[new] = before[old].id
                taken.add(old)
    taken_ids = {*ids, *(o.id for o in before)}
    for index, known in enumerate(ids):
        if not known:
            ids[index] = _new_id(image, annotations, index, taken_ids)
            taken_ids.add(ids[index])
    return ids


def _new_id(image: str, annotations: Annotations, index: int, taken: Collection[str]) -> str:
    """From what the object is, so that no later object gets the id of one that was taken out."""
    said = f"{annotations.classes[index]} {annotations.boxes[index].tolist()}"
    ids = (
        f"{image[:12]}-{hashlib.blake2b(f'{said} {number}'.encode(), digest_size=5).hexdigest()}"
        for number in count()
    )
    return next(found for found in ids if found not in taken)


def _overlapping(new: FloatArray, old: FloatArray) -> list[tuple[float, int, int]]:
    """(-IoU, new, old) of pairs that may be the same object, the most alike first."""
    pairs: list[tuple[float, int, int]] = []
    # In strips from left to right, against what reaches into them: all pairs of 10^5 boxes would take minutes.
    from_left, rows = np.argsort(new[:, 0], kind="stable"), max(1, min(_STRIP, _PAIRS_AT_ONCE // len(old)))
    for start in range(0, len(new), rows):
        strip = from_left[start : start + rows]
        left, right = new[strip, 0].min(), new[strip, 2].max()
        near = np.flatnonzero((old[:, 0] < right) & (old[:, 2] > left))
        overlap = iou_matrix(new[strip], old[near])
        alike = np.argwhere(overlap >= _SAME_OBJECT_IOU)
        pairs += [(-float(overlap[a, b]), int(strip[a]), int(near[b])) for a, b in alike]
    return sorted(pairs)
