"""Files in a spool that belong to nothing, because a process was killed before it deleted them."""

import shutil
import time
from contextlib import suppress
from pathlib import Path

from retrain.data_collection.spool.format import IMAGES, POSITION, READING, SEGMENT

_WRITTEN_WITHIN_S = 600
"""Naming a file takes milliseconds: an unnamed one that is older has nobody."""


def remove_unnamed(folder: Path, suffix: str) -> None:
    """Delete the files that a killed process wrote and did not live to name."""
    for path in folder.glob(".*" + suffix):
        with suppress(FileNotFoundError):
            if path.stat().st_mtime < time.time() - _WRITTEN_WITHIN_S:
                path.unlink()


def remove_orphans(folder: Path) -> None:
    """Delete what lies beside segments that are gone; a segment is always there before that is made."""
    for suffix in (POSITION, READING, IMAGES):
        for path in folder.glob("*" + suffix):
            if not path.with_name(path.name.removesuffix(suffix) + SEGMENT).exists():
                if suffix == IMAGES:
                    # What another user made may not be ours to delete, and is no reason to stop.
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)
