"""The same checkpoints in a store elsewhere, for when this machine's disk is lost. Being down never stops training."""

import logging
from collections.abc import Callable
from pathlib import Path

from retrain.errors import NotFound, PostConditionFailed
from retrain.storage.blobs import BlobStore, checked_key
from retrain.training.checkpoint_file import Position

# `Unavailable` and `StorageFull` are OSErrors; a mounted network folder has more of them.
_DOWN = (OSError, PostConditionFailed, NotFound)

logger = logging.getLogger(__name__)


class CheckpointMirror:
    """One job's checkpoints in a blob store.

    Args:
        store: puts are read back by the store itself, see `BlobStore`.
        prefix: the job's own, put before every key as a folder.
    """

    def __init__(self, store: BlobStore, prefix: str) -> None:
        self._store = store
        self._folder = f"{prefix}/" if prefix else ""
        checked_key(self._key(Position(0)))
        self._is_down = False

    def positions(self) -> list[Position]:
        """Oldest first; not checked.

        Raises:
            Unavailable: the store does not answer.
        """
        names = (key.removeprefix(self._folder) for key in self._store.keys(self._folder))
        return sorted(position for name in names if (position := Position.of(name)) is not None)

    def upload(
        self, position: Position, path: Path, superseded: Callable[[list[Position]], list[Position]]
    ) -> None:
        """Store one checkpoint, then drop those it supersedes. Failing is a warning, once until it works again."""
        try:
            self._store.put_file(self._key(position), path)
            for old in superseded(self.positions()):
                self._store.delete(self._key(old))
        except _DOWN as error:
            if not self._is_down:
                logger.warning(
                    "Checkpoints of %s are not mirrored from %s on, so losing that disk loses them: %s "
                    "Every save tries again.",
                    path.parent,
                    path.name,
                    error,
                )
            self._is_down = True
        else:
            if self._is_down:
                logger.info("Checkpoints of %s are mirrored again, %s is.", path.parent, path.name)
            self._is_down = False

    def fetch(self, position: Position, target: Path) -> None:
        """Raises `NotFound` when it is not there and `Unavailable` when the store does not answer."""
        self._store.fetch(self._key(position), target)

    def clear(self) -> None:
        """Delete every checkpoint, oldest first; what is left because the store is down is a warning."""
        try:
            for position in self.positions():
                self._store.delete(self._key(position))
        except _DOWN as error:
            logger.warning(
                "Checkpoints of a finished training stay in the mirror under %r: %s", self._folder, error
            )

    def _key(self, position: Position) -> str:
        return self._folder + position.file_name
