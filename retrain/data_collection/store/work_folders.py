"""Scratch folders that a killed process leaves locked by nobody, so that others can tell and delete them."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from retrain.data_collection.locks import OwnDescriptor


@contextmanager
def work_folder(root: Path) -> Iterator[Path]:
    """A new folder under `root`, deleted at the end of the block."""
    root.mkdir(parents=True, exist_ok=True)
    folder, lock = _locked_folder(root)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
        lock.close()


def remove_left_folders(root: Path) -> None:
    """Delete the folders under `root` whose process was killed."""
    for folder in root.iterdir() if root.is_dir() else ():
        if (lock := _lock(folder, wait=False)) is not None:
            shutil.rmtree(folder, ignore_errors=True)
            lock.close()


def _locked_folder(root: Path) -> tuple[Path, OwnDescriptor]:
    while True:
        folder = root / secrets.token_hex(8)
        folder.mkdir()
        # Between the two lines somebody may take it for a killed one's and delete it.
        lock = _lock(folder, wait=True)
        if lock is not None:
            if folder.exists():
                return folder, lock
            lock.close()


def _lock(folder: Path, *, wait: bool) -> OwnDescriptor | None:
    """The folder's lock, which the kernel frees with the process; None where that fails."""
    try:
        lock = OwnDescriptor(folder, os.O_RDONLY | os.O_DIRECTORY)
    # Another user's folder that may not be read cannot be deleted either.
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None
    return lock if lock.lock(wait=wait) else None
