"""`retrain.jsonl`: what YOLO and VOC have no place for, written beside an export of ours and read back from it.

Line 1 describes the whole: `{"retrain": 1, "classes": […], "splits": […]}`. Then one line per image: its `file`
(relative, with slashes), `group`, `source`, `metadata`, the ids of its `objects` in the order of its label file, and
the `labels` digest of that file: where somebody has changed the labels since, the ids are no longer theirs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from retrain.dataset.formats.checks import FoundBoxes
from retrain.dataset.formats.labelled import Problem
from retrain.dataset.formats.tree import Tree
from retrain.dataset.version import DatasetItem
from retrain.errors import BadInput
from retrain.storage.digests import content_digest

FILE = "retrain.jsonl"


class Note(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is known of one image beyond its boxes and split."""

    file: str
    group: str | None = None
    source: str | None = None
    metadata: Mapping[str, Any] = msgspec.field(default_factory=dict)
    objects: tuple[str, ...] = ()
    labels: str = ""


class Heading(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The first line."""

    retrain: int
    classes: tuple[str, ...]
    splits: tuple[str, ...]


@dataclass(frozen=True)
class Sidecar:
    """All of the file; empty where there is none."""

    classes: tuple[str, ...] = ()
    splits: tuple[str, ...] = ()
    notes: Mapping[str, Note] = field(default_factory=dict)

    def note(self, file: str) -> Note:
        return self.notes.get(file) or Note(file=file)

    def name_objects(
        self, found: FoundBoxes, file: str, label_file: str, label_bytes: bytes
    ) -> list[Problem]:
        """Give the boxes of one label file their ids, if the file is as it was when they were written."""
        note = self.note(file)
        if not note.objects:
            return []
        if note.labels != content_digest(label_bytes):
            return [Problem(label_file, "", f"was changed after {FILE}: its objects get new ids", "nothing")]
        # Fewer boxes are those that the reader accepted; it has reported the others.
        if len(note.objects) == len(found.boxes):
            found.ids[:] = note.objects
        return []


def read_sidecar(tree: Tree) -> Sidecar:
    """The sidecar of an import, where it has one.

    Raises:
        BadInput: the file is there, but a line of it is not as we write them.
    """
    if FILE not in tree.files:
        return Sidecar()
    heading, notes = None, {}
    with tree.path(FILE).open("rb") as lines:
        for index, line in enumerate(lines, 1):
            try:
                if heading is None:
                    heading = msgspec.json.decode(line, type=Heading)
                else:
                    note = msgspec.json.decode(line, type=Note)
                    notes[note.file] = note
            except (msgspec.DecodeError, RecursionError) as e:
                raise BadInput(f"{FILE}, line {index}: {e}. Repair the line, or remove the file.") from e
    if heading is None:
        raise BadInput(f"{FILE} is empty; remove it.")
    return Sidecar(heading.classes, heading.splits, notes)


def note_of(item: DatasetItem, file: str, labels: bytes) -> Note:
    """What a sidecar says of an item.

    Args:
        labels: the bytes of the item's label file, with the objects in the item's order.
    """
    ids = tuple(o.id for o in item.objects)
    return Note(
        file=file,
        group=item.group,
        source=item.source,
        metadata=item.metadata,
        objects=ids,
        labels=content_digest(labels),
    )


def write_sidecar(folder: Path, classes: tuple[str, ...], splits: tuple[str, ...], notes: list[Note]) -> None:
    heading = Heading(retrain=1, classes=classes, splits=splits)
    (folder / FILE).write_bytes(msgspec.json.Encoder(order="sorted").encode_lines([heading, *notes]))
