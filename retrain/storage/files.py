"""Files that appear whole, durably, or not at all, and the disk's errors in words."""

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from retrain.errors import BadInput, StorageFull, Unavailable


@contextmanager
def whole_file(target: Path, temporary: Path) -> Iterator[IO[bytes]]:
    """A file to write that becomes `target`, durably, when the block ends well, and vanishes otherwise."""
    with disk_errors(target.parent):
        make_folder(target.parent)
        try:
            with temporary.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(target.parent)


def write_whole(target: Path, data: bytes) -> None:
    """Replace a file in one step that survives a crash and a full disk.

    Raises:
        StorageFull: no space; what was there before is untouched.
    """
    with whole_file(target, beside(target)) as file:
        file.write(data)


def remove_leftovers(folder: Path) -> None:
    """Delete what killed writers left. Call only while no other process writes to `folder`."""
    for leftover in folder.glob(".*.partial"):
        leftover.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    # A new name is durable only once its folder is.
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise StorageFull(
                f"No space left in {folder}; nothing was written. Free some space and retry."
            ) from error
        if error.errno in {errno.EISDIR, errno.ENOTDIR, errno.EEXIST}:
            raise BadInput(f"One key is a folder of another under {folder}: {error.filename}.") from error
        if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ENOENT, errno.ESTALE}:
            raise Unavailable(f"Cannot use the folder {folder}: {error.strerror}.") from error
        raise


def beside(target: Path) -> Path:
    return target.with_name(f".{target.name[:100]}.{secrets.token_hex(8)}.partial")
