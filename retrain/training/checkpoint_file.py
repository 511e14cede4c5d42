"""One checkpoint as a file that knows its own sha256: written whole or not at all, and never unpickled blindly."""

import hashlib
import pickle
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import torch

from retrain.errors import BadInput
from retrain.storage.files import beside, disk_errors, whole_file

_MAGIC = b"retrain-checkpoint-1\n"
_DIGEST_BYTES = 64
_HEADER_BYTES = len(_MAGIC) + _DIGEST_BYTES
_READ_BYTES = 2**20
# All that torch's careful reader knows without being told.
_MAPPINGS, _SEQUENCES = {dict, OrderedDict}, {list, tuple}
_PLAIN = {torch.Tensor, torch.nn.Parameter, str, bytes, int, float, bool, type(None)}
_NAME = re.compile(r"epoch-(\d{5})(?:-images-(\d{10}))?\.ckpt")


@dataclass(frozen=True, order=True)
class Position:
    """How far a training is; later ones compare greater.

    Attributes:
        epoch: finished epochs.
        images: of the next epoch, already trained on; 0 at an epoch's end.
    """

    epoch: int
    images: int = 0

    def __post_init__(self) -> None:
        if not (0 <= self.epoch < 10**5 and 0 <= self.images < 10**10):
            raise BadInput(
                f"A position has 0 to 99999 epochs and 0 to 9999999999 images, got {self.epoch} and {self.images}."
            )

    @property
    def is_epoch_end(self) -> bool:
        return self.images == 0

    @property
    def file_name(self) -> str:
        within = "" if self.is_epoch_end else f"-images-{self.images:010d}"
        return f"epoch-{self.epoch:05d}{within}.ckpt"

    @classmethod
    def of(cls, file_name: str) -> "Position | None":
        """The position that a checkpoint's file is named after, or `None` for any other file."""
        match = _NAME.fullmatch(file_name)
        if match is None:
            return None
        position = cls(int(match[1]), int(match[2] or 0))
        return position if position.file_name == file_name else None


def write_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write the state durably, once it is sure that it can be loaded.

    Args:
        state: tensors and plain values only. It is streamed, so no copy of it is made.

    Raises:
        StorageFull: no space; what was at `path` is untouched.
        BadInput: the state holds something that loading would refuse; likewise.
    """
    # Not read back instead: torch's careful reader takes as long as half of the writing.
    if (refused := _refused(dict(state))) is not None:
        raise BadInput(f"The state for {path} may hold only tensors and plain values, got a {refused}.")
    temporary = beside(path)
    with whole_file(path, temporary) as file:
        file.write(_MAGIC.ljust(_HEADER_BYTES, b"0"))
        hashing = _Hashing(file)
        torch.save(dict(state), cast(IO[bytes], hashing))
        digest = hashing.digest()
        file.seek(len(_MAGIC))
        file.write(digest)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The state, tensors on the CPU.

    Raises:
        BadInput: the file is torn, damaged, or holds something else than tensors and plain values.
        Unavailable: it is there, but cannot be read.
    """
    with disk_errors(path.parent), path.open("rb") as file:
        header = file.read(_HEADER_BYTES)
        sha256 = hashlib.sha256()
        while chunk := file.read(_READ_BYTES):
            sha256.update(chunk)
        if header != _MAGIC + sha256.hexdigest().encode():
            raise BadInput(f"{path} is damaged: its content does not have the sha256 it was written with.")
        file.seek(_HEADER_BYTES)
        return _load(file, path)


def _load(file: IO[bytes], path: Path) -> dict[str, Any]:
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError) as error:
        raise BadInput(
            f"{path} is no checkpoint: it may hold only tensors and plain values ({_reason(error)})."
        ) from error
    if not isinstance(state, dict):
        raise BadInput(f"{path} is no checkpoint: it holds a {type(state).__name__}, not a mapping.")
    return state


def _refused(value: Any) -> str | None:
    """The type of the first part that loading would refuse; a subclass is another type."""
    kind = type(value)
    if kind in _MAPPINGS:
        return _first(_refused(part) for pair in value.items() for part in pair)
    if kind in _SEQUENCES:
        return _first(_refused(part) for part in value)
    return None if kind in _PLAIN else f"{kind.__module__}.{kind.__qualname__}"


def _first(found: Iterator[str | None]) -> str | None:
    return next((one for one in found if one is not None), None)


def _reason(error: Exception) -> str:
    # Torch's text is mostly advice to switch its safety off; what it met is a global.
    refused = re.search(r"GLOBAL (\S+)", str(error))
    return f"it names {refused[1]}" if refused else str(error).partition("\n")[0]


class _Hashing:
    """Passes bytes on to a file. Enough for torch, which writes from the first byte to the last in one go."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._failure: OSError | None = None
        self._sha256 = hashlib.sha256()

    def write(self, data: bytes | memoryview) -> int:
        if self._failure is None:
            self._sha256.update(data)
            try:
                self._file.write(data)
            except OSError as error:
                # Raised here, a full disk comes out of torch as "unexpected pos"; so torch is let finish first.
                self._failure = error
        return len(data)

    def flush(self) -> None:
        """Left to whoever opened the file."""

    def digest(self) -> bytes:
        """sha256 of what was written, or the error that writing met."""
        if self._failure is not None:
            raise self._failure
        return self._sha256.hexdigest().encode()
