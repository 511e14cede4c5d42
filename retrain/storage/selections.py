"""Selections: which images of which packs are trained on, with their labels, in one file named by its content.

A dataset writes them, training reads them; neither needs to know the other.
"""

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import msgspec

from retrain.errors import BadInput, NotFound
from retrain.storage.digests import content_digest
from retrain.storage.files import write_whole

_FORMAT = 1
_SUFFIX = ".jsonl"
_Count = Annotated[int, msgspec.Meta(gt=0)]


class SelectedImage(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True, omit_defaults=True):
    """One image to train on.

    Attributes:
        name: in its pack: the digest of the bytes and a suffix.
        pack: index into the packs of the selection.
        width, height: pixels, after the EXIF orientation is applied.
        labels: YOLO text, one line per object: class, centre x, centre y, width, height, these as fractions. It is
            kept as text because that is what a label file holds: training parses both into the same float32.
        weight: how often balanced sampling draws it, relative to the others; above 0.
        slice: the part of the data that it is scored in apart, such as its camera.
    """

    name: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\.[a-z0-9]+$")]
    pack: Annotated[int, msgspec.Meta(ge=0)]
    width: _Count
    height: _Count
    labels: str
    weight: Annotated[float, msgspec.Meta(gt=0)] | None = None
    # Left out of the file while it is None, as the weight is: files written before there were slices keep their names.
    slice: str | None = None

    @property
    def digest(self) -> str:
        return self.name.partition(".")[0]


@dataclass(frozen=True)
class Selection:
    """Images in the order in which a folder of them would be read: by name.

    Attributes:
        packs: where the pack files are.
        images: each name once.
    """

    packs: tuple[Path, ...]
    images: tuple[SelectedImage, ...]

    def check(self) -> None:
        """Raise `BadInput` for an order, a pack, a weight or a slice that cannot be."""
        names = [image.name for image in self.images]
        if not names:
            raise BadInput("A selection needs at least one image.")
        if twice := [name for earlier, name in pairwise(names) if earlier >= name]:
            raise BadInput(
                f"Selected images must be sorted by name and occur once, got {twice[0]} too late or twice."
            )
        if unknown := [image for image in self.images if image.pack >= len(self.packs)]:
            raise BadInput(
                f"Image {unknown[0].name} is in pack {unknown[0].pack}, there are {len(self.packs)}."
            )
        weights = [image.weight for image in self.images if image.weight is not None]
        if weights and (len(weights) != len(names) or not all(0 < weight < math.inf for weight in weights)):
            raise BadInput("Every selected image or none needs a weight, a finite number above 0.")
        if nameless := [image.name for image in self.images if image.slice == ""]:
            raise BadInput(f"The slice of image {nameless[0]} is empty; name it, or leave it out.")


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: int
    packs: tuple[str, ...]
    """Relative to the folder of the selection, so that both can be moved together."""
    images: int


_ENCODER = msgspec.json.Encoder()
_IMAGES = msgspec.json.Decoder(SelectedImage)


def write_selection_file(folder: Path, packs: Sequence[Path], images: Iterable[SelectedImage]) -> Path:
    """Write a selection, named by its content, in one step; a whole one that is there already is left alone.

    Raises:
        BadInput: as `Selection.check`.
        StorageFull: no space; nothing was written.
    """
    selection = Selection(tuple(packs), tuple(images))
    selection.check()
    # Resolved, because `..` behind a link does not lead back.
    here = folder.resolve()
    places = tuple(Path(os.path.relpath(pack.resolve(), here)).as_posix() for pack in selection.packs)
    header = _Header(_FORMAT, places, len(selection.images))
    data = _ENCODER.encode_lines((header, *selection.images))
    path = folder / f"{content_digest(data)}{_SUFFIX}"
    if not (path.is_file() and path.read_bytes() == data):
        write_whole(path, data)
    return path


def read_selection_file(path: Path) -> Selection:
    """The selection in a file.

    What its digest covers was checked when it was written, so a right digest is all that reading has to prove.

    Raises:
        NotFound: there is no such file.
        BadInput: it is damaged, or of another format.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as e:
        raise NotFound(f"Selection {path} does not exist; write it again from its dataset version.") from e
    if f"{content_digest(data)}{_SUFFIX}" != path.name:
        raise BadInput(f"Selection {path} is damaged: its content is not what its name says; write it again.")
    first, _, rest = data.partition(b"\n")
    try:
        header = msgspec.json.decode(first, type=_Header)
        images = _IMAGES.decode_lines(rest)
    except msgspec.MsgspecError as e:
        raise BadInput(f"{path} is not a selection of format {_FORMAT}: {e}.") from e
    if header.format != _FORMAT or header.images != len(images):
        raise BadInput(
            f"{path} is not a selection of format {_FORMAT}, it says it has format {header.format}."
        )
    here = path.resolve().parent
    return Selection(tuple(Path(os.path.normpath(here / pack)) for pack in header.packs), tuple(images))
