"""Which checkpoints of a training there are, which are kept, and which one to go on from."""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from retrain.errors import BadInput, NotFound, Unavailable
from retrain.storage import files
from retrain.storage.blobs import BlobStore
from retrain.training.checkpoint_file import Position, read_checkpoint, write_checkpoint
from retrain.training.checkpoint_mirror import CheckpointMirror

__all__ = ["CheckpointManager", "Position"]

logger = logging.getLogger(__name__)


class CheckpointManager:
    """Saves and finds the checkpoints of one job, in a folder that is its alone and, if given, in a mirror.

    Only one process may save; any may look at the same time, because making a manager, `positions` and `load`
    change nothing.

    Args:
        folder: created on first save.
        keep: how many epoch ends to keep, the newest. Beside them there is at most one checkpoint within an epoch.
        mirror: where each checkpoint is copied to, so that another machine can go on from it.
        prefix: of the keys in the mirror, this job's own.
    """

    def __init__(
        self, folder: Path, keep: int = 2, mirror: BlobStore | None = None, prefix: str = ""
    ) -> None:
        if keep < 1:
            raise BadInput(f"At least one checkpoint must be kept, got keep={keep}.")
        self._folder = folder
        self._keep = keep
        self._mirror = None if mirror is None else CheckpointMirror(mirror, prefix)

    def positions(self) -> list[Position]:
        """Of the checkpoints on this machine, oldest first; files are not checked."""
        if not self._folder.is_dir():
            return []
        found = (Position.of(path.name) for path in self._folder.iterdir())
        return sorted(position for position in found if position is not None)

    def save(self, position: Position, state: Mapping[str, Any]) -> Path:
        """Write the state durably, mirror it, and only then drop the checkpoints it supersedes.

        A mirror that is down is a warning: training goes on, and the next save tries again.

        Args:
            state: tensors and plain values only.

        Raises:
            StorageFull: no space on this machine; earlier checkpoints are untouched.
            BadInput: the state holds something that could not be loaded again; likewise.
        """
        files.remove_leftovers(self._folder)
        path = self._path(position)
        write_checkpoint(path, state)
        for old in superseded(self.positions(), position, self._keep):
            self._path(old).unlink(missing_ok=True)
        if self._mirror is not None:
            self._mirror.upload(position, path, lambda there: superseded(there, position, self._keep))
        return path

    def load(self, position: Position) -> dict[str, Any]:
        """The state saved on this machine at that position, tensors on the CPU.

        Raises:
            NotFound: no such checkpoint.
            BadInput: the file is torn or damaged.
            Unavailable: the file cannot be read.
        """
        path = self._path(position)
        if not path.is_file():
            saved = ", ".join(position.file_name for position in self.positions()) or "nothing"
            raise NotFound(f"{path} does not exist; saved there: {saved}.")
        return read_checkpoint(path)

    def newest_good(self) -> tuple[Position, dict[str, Any]] | None:
        """The newest checkpoint that is whole, here or in the mirror; `None` only if there surely is none.

        One that only the mirror has whole is fetched. A damaged one here is removed, with a warning; one in the mirror
        stays, since it may be the way here that damaged it, until a save replaces or supersedes it.

        Raises:
            Unavailable: nothing good was found, but the mirror or a file could not be read.
            StorageFull: no space to fetch a checkpoint into.
        """
        there, unread = self._mirrored()
        copies = [(position, True) for position in self.positions()] + [
            (position, False) for position in there
        ]
        # Of two copies the one here comes first.
        for position, is_here in sorted(copies, reverse=True):
            try:
                return position, self.load(position) if is_here else self._fetched(position)
            except (BadInput, NotFound) as error:
                logger.warning("%s It is skipped; the newest good copy is used instead.", error)
                self._path(position).unlink(missing_ok=True)
            except Unavailable as error:
                logger.warning("%s It is skipped; the newest good copy is used instead.", error)
                unread = error
        if unread is not None:
            raise Unavailable(
                f"No good checkpoint was found in {self._folder}, but there may be one elsewhere: {unread} "
                "Retry when it answers; training would otherwise start from scratch."
            ) from unread
        return None

    def clear(self) -> None:
        """Delete every checkpoint, here and in the mirror (unless that is down: a warning). The training is done."""
        files.remove_leftovers(self._folder)
        for position in self.positions():
            self._path(position).unlink(missing_ok=True)
        if self._mirror is not None:
            self._mirror.clear()

    def _mirrored(self) -> tuple[list[Position], Unavailable | None]:
        if self._mirror is None:
            return [], None
        try:
            return self._mirror.positions(), None
        except Unavailable as error:
            logger.warning("The mirror cannot be asked whether it has a newer checkpoint: %s", error)
            return [], error

    def _fetched(self, position: Position) -> dict[str, Any]:
        assert self._mirror is not None
        self._mirror.fetch(position, self._path(position))
        return self.load(position)

    def _path(self, position: Position) -> Path:
        return self._folder / position.file_name


def superseded(saved: Iterable[Position], newest: Position, keep: int) -> list[Position]:
    """Those that are not needed once `newest` is durable.

    Later ones than `newest` count for nothing: they are another machine's or unreadable, and never a reason to drop
    what was just written.
    """
    past = sorted(position for position in saved if position <= newest)
    needed = {newest, *[position for position in past if position.is_epoch_end][-keep:]}
    return [position for position in past if position not in needed]
