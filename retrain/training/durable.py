"""Files that are either whole or absent, whatever happens while they are written."""

import errno
import os
import tempfile
from pathlib import Path

from retrain.errors import StorageFull


def write_bytes(path: Path, data: bytes) -> None:
    """Replace `path` with `data` in one step that survives a crash.

    Raises:
        StorageFull: no space; the old content, if any, is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        # Made private by default, but others may serve what we train.
        os.fchmod(handle, 0o644)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise StorageFull(
                f"No space left in {path.parent} for {path.name}; free some and run again."
            ) from error
        raise
    _sync_folder(path.parent)


def remove_leftovers(folder: Path) -> None:
    """Delete temporary files a killed writer left. Call only while no other process writes to `folder`."""
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
