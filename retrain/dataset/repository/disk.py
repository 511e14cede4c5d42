"""Durable writes, and what a full or unwritable disk means."""

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from retrain.errors import RetrainError, StorageFull, Unavailable
from retrain.storage.digests import file_digest

_FULL = {errno.ENOSPC, errno.EDQUOT}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Say in words that the disk is full or may not be written; other errors pass."""
    try:
        yield
    except RetrainError:
        raise
    except OSError as e:
        if e.errno in _FULL:
            raise storage_full(folder) from e
        if e.errno in _DENIED:
            raise not_writable(folder) from e
        raise


def storage_full(folder: Path) -> StorageFull:
    return StorageFull(
        f"No space left in {folder}. Nothing is lost: free some space, then run the same again."
    )


def not_writable(folder: Path) -> Unavailable:
    return Unavailable(
        f"No permission to write in {folder}. Make it writable or set dataset.versions_path to a folder that is."
    )


def write_durably(path: Path, data: bytes) -> None:
    """Replace a file so that it has the old or the new bytes, also after a crash."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def show(source: Path, target: Path) -> None:
    """As `link`, but a target that is another file, such as one edited by hand, is replaced."""
    if target.exists() and not target.samefile(source):
        same_size = target.stat().st_size == source.stat().st_size
        if not (same_size and file_digest(target) == file_digest(source)):
            target.unlink()
    link(source, target)


def link(source: Path, target: Path) -> None:
    """Give a file a second name, or copy it where that cannot be; does nothing when the target is there."""
    try:
        os.link(source, target)
    except FileExistsError:
        return
    except OSError:
        # Another file system, or one without hard links.
        arriving = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
        shutil.copyfile(source, arriving)
        arriving.replace(target)
