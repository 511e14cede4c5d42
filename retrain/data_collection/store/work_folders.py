"""Scratch folders that a killed process leaves locked by nobody, so that others can tell and delete them."""

import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def work_folder(root: Path) -> Iterator[Path]:
    """A new folder under `root`, deleted at the end of the block."""
    root.mkdir(parents=True, exist_ok=True)
    folder, descriptor = _locked_folder(root)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
        os.close(descriptor)


def remove_left_folders(root: Path) -> None:
    """Delete the folders under `root` whose process was killed."""
    for folder in root.iterdir() if root.is_dir() else ():
        if (descriptor := _lock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)) is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(descriptor)


def _locked_folder(root: Path) -> tuple[Path, int]:
    while True:
        folder = root / secrets.token_hex(8)
        folder.mkdir()
        # Between the two lines somebody may take it for a killed one's and delete it.
        descriptor = _lock(folder, fcntl.LOCK_EX)
        if descriptor is not None:
            if folder.exists():
                return folder, descriptor
            os.close(descriptor)


def _lock(folder: Path, how: int) -> int | None:
    """A descriptor that holds the folder's lock, which the kernel frees with the process; None where that fails."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        fcntl.flock(descriptor, how)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
