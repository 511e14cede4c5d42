"""Checkpoints: one self-checking file per epoch, written whole or not at all."""

import hashlib
import io
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from retrain.errors import BadInput, NotFound
from retrain.storage import files

_MAGIC = b"retrain-checkpoint-1\n"
_NAME = re.compile(r"epoch-(\d{5})\.ckpt")
_DIGEST_BYTES = 64

logger = logging.getLogger(__name__)


class CheckpointManager:
    """Saves and finds the checkpoints of one job, in a folder that is its alone.

    Each file carries the sha256 of its content, so that a torn or damaged one is known and the one before it used.

    Args:
        folder: created on first save.
        keep: how many of the newest to keep.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        if keep < 1:
            raise BadInput(f"At least one checkpoint must be kept, got keep={keep}.")
        self._folder = folder
        self._keep = keep
        files.remove_leftovers(folder)

    def epochs(self) -> list[int]:
        """Numbers of the saved epochs, oldest first; files are not checked."""
        if not self._folder.is_dir():
            return []
        names = (_NAME.fullmatch(path.name) for path in self._folder.iterdir())
        return sorted(int(match[1]) for match in names if match)

    def save(self, epoch: int, state: Mapping[str, Any]) -> Path:
        """Write the state after `epoch` (from 1), then drop the oldest beyond `keep`.

        Args:
            epoch: finished epochs.
            state: tensors and plain values only.

        Raises:
            StorageFull: no space; earlier checkpoints are untouched.
        """
        buffer = io.BytesIO()
        torch.save(dict(state), buffer)
        payload = buffer.getvalue()
        path = self._path(epoch)
        files.write_whole(path, _MAGIC + hashlib.sha256(payload).hexdigest().encode() + payload)
        for old in self.epochs()[: -self._keep]:
            self._path(old).unlink(missing_ok=True)
        return path

    def load(self, epoch: int) -> dict[str, Any]:
        """The state saved after `epoch`, tensors on the CPU.

        Raises:
            NotFound: no such checkpoint.
            BadInput: the file is torn or damaged.
        """
        path = self._path(epoch)
        if not path.is_file():
            raise NotFound(f"{path} does not exist; saved epochs are {self.epochs()}.")
        data = path.read_bytes()
        start = len(_MAGIC) + _DIGEST_BYTES
        digest, payload = data[len(_MAGIC) : start], data[start:]
        if not data.startswith(_MAGIC) or hashlib.sha256(payload).hexdigest().encode() != digest:
            raise BadInput(f"{path} is damaged: its content does not have the sha256 it was written with.")
        state: dict[str, Any] = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
        return state

    def newest_good(self) -> tuple[int, dict[str, Any]] | None:
        """The newest checkpoint that is whole, or `None`. Damaged newer ones are removed."""
        for epoch in reversed(self.epochs()):
            try:
                return epoch, self.load(epoch)
            except BadInput as error:
                logger.warning("%s Using the checkpoint before it.", error)
                self._path(epoch).unlink()
        return None

    def clear(self) -> None:
        """Delete every checkpoint."""
        for epoch in self.epochs():
            self._path(epoch).unlink(missing_ok=True)

    def _path(self, epoch: int) -> Path:
        return self._folder / f"epoch-{epoch:05d}.ckpt"
