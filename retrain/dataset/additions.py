"""What adding an image to a draft means: new, known already, relabelled, or not acceptable."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from retrain.boxes import Annotations, iou_matrix
from retrain.dataset.drafts import Draft
from retrain.dataset.splitter import DatasetSplitter
from retrain.dataset.version import DatasetItem, DatasetVersion, LabelledObject, canonical_line
from retrain.errors import BadInput
from retrain.images import EncodedImage

_SAME_OBJECT_IOU = 0.5


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
    """Judges images one by one and collects the items they become."""

    def __init__(
        self, draft: Draft, parent: DatasetVersion | None, drafted: Mapping[str, DatasetItem], relabel: bool
    ) -> None:
        self._draft, self._relabel = draft, relabel
        self._known = {**(parent.by_image if parent else {}), **drafted}
        self._splits = {item.group: item.split for item in self._known.values()}
        self._splitter = DatasetSplitter(draft.splits, draft.salt)
        self.items: dict[str, DatasetItem] = {}
        self.added: list[str] = []
        self.unchanged: list[str] = []
        self.relabelled: list[str] = []

    def add(
        self,
        image: EncodedImage,
        annotations: Annotations,
        group: str | None,
        source: str,
        metadata: Mapping[str, Any],
    ) -> bool:
        """Judge one image and return whether its bytes are new.

        Raises:
            BadInput: why the image is not acceptable, without its name.
        """
        before = self._known.get(image.digest)
        item = DatasetItem(
            image=image.digest,
            pack=before.pack if before else "",
            format=image.format,
            width=image.width,
            height=image.height,
            objects=self._objects(image, annotations, before),
            split=self._split(image.digest, group, before),
            group=before.group if before else group or image.digest,
            source=source,
            metadata=json.loads(canonical_line(metadata)),
        )
        if before is None:
            self.added.append(image.digest)
        elif item.labels == before.labels:
            item = before
            self.unchanged.append(image.digest)
            return False
        elif not self._relabel:
            raise BadInput("is there already with other labels; pass relabel=True to replace them")
        else:
            self.relabelled.append(image.digest)
        self._known[item.image] = self.items[item.image] = item
        self._splits[item.group] = item.split
        return before is None

    def _split(self, image: str, group: str | None, before: DatasetItem | None) -> str:
        key = group or (before.group if before else image)
        # A group keeps the split it has, also when the fractions were changed since.
        split = self._splits.get(key) or self._splitter.split_of(key)
        if before is not None and before.split != split:
            raise BadInput(
                f"would leak: it is in {before.split} with group {before.group!r}, but group {key!r} is in {split}"
            )
        return split

    def _objects(
        self, image: EncodedImage, annotations: Annotations, before: DatasetItem | None
    ) -> tuple[LabelledObject, ...]:
        count = len(self._draft.classes)
        if len(annotations) and (worst := int(annotations.classes.max())) >= count:
            raise BadInput(f"has class {worst}, but the version has classes 0 to {count - 1}")
        edges = np.array([image.width, image.height] * 2, dtype=np.float64)
        boxes = np.clip(annotations.boxes, 0.0, edges)
        flat = (boxes[:, 2] <= boxes[:, 0]) | (boxes[:, 3] <= boxes[:, 1])
        if flat.any():
            bad = annotations.boxes[flat][0].tolist()
            raise BadInput(f"({image.width} x {image.height}) has a box with no area inside it: {bad}")
        clipped = Annotations(boxes, annotations.classes)
        ids = _object_ids(clipped, image.digest, before.objects if before else ())
        rows = zip(ids, clipped.classes.tolist(), boxes.tolist(), strict=True)
        return tuple(LabelledObject(name, index, (b[0], b[1], b[2], b[3])) for name, index, b in rows)


def with_pack(item: DatasetItem, pack: str) -> DatasetItem:
    """The item with its pack filled in, if it has none yet."""
    return item if item.pack else replace(item, pack=pack)


def _object_ids(annotations: Annotations, image: str, before: tuple[LabelledObject, ...]) -> list[str]:
    """An id for each box: that of the object it overlaps most in the previous labels, else a new one."""
    ids = [""] * len(annotations)
    if before and len(annotations):
        overlap = iou_matrix(annotations.boxes, np.array([o.box for o in before]))
        for flat in np.argsort(-overlap, axis=None, kind="stable"):
            new, old = divmod(int(flat), len(before))
            if overlap[new, old] >= _SAME_OBJECT_IOU and not ids[new] and before[old].id not in ids:
                ids[new] = before[old].id
    number = max((int(o.id.rpartition("-")[2]) for o in before), default=-1)
    for index, taken in enumerate(ids):
        if not taken:
            number += 1
            ids[index] = f"{image[:12]}-{number}"
    return ids
