"""Blobs in a folder of this machine, or of one that several machines share."""

import os
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import psutil

from retrain.errors import NotFound, PostConditionFailed, Unavailable
from retrain.storage.blobs import DAY_S, PART_BYTES, checked_key, is_key, readable
from retrain.storage.digests import content_digest, file_digest
from retrain.storage.files import beside, disk_errors, whole_file

_HOST = socket.gethostname().replace("/", "_")[:100]


class LocalBlobs:
    """Blobs as plain files under one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        # Half-written files live here, out of the way of `keys`; a leading dot is never a key.
        self._incoming = self.root / ".incoming"
        with disk_errors(self.root):
            self._incoming.mkdir(parents=True, exist_ok=True)
        self.remove_unfinished()

    def put(self, key: str, data: bytes) -> None:
        target = self._path(key)
        with self._arriving(target) as file:
            file.write(data)
        self._verify(key, content_digest(data))

    def get(self, key: str) -> bytes:
        with self._open(key) as file, disk_errors(self.root):
            return file.read()

    def exists(self, key: str) -> bool:
        return self._path(key).is_file()

    def delete(self, key: str) -> None:
        with disk_errors(self.root):
            if self.exists(key):
                self._path(key).unlink(missing_ok=True)

    def keys(self, prefix: str = "") -> Iterator[str]:
        folder, _, _ = prefix.rpartition("/")
        if folder:
            checked_key(folder)
        return (key for key in self._walk(folder) if key.startswith(prefix))

    def put_file(self, key: str, path: Path) -> None:
        target = self._path(key)
        with readable(path) as source, self._arriving(target) as file:
            shutil.copyfileobj(source, file, PART_BYTES)
        self._verify(key, file_digest(path))

    def fetch(self, key: str, target: Path) -> None:
        with self._open(key) as source, whole_file(target, beside(target)) as file:
            shutil.copyfileobj(source, file, PART_BYTES)

    def remove_unfinished(self) -> None:
        """A put of another machine that shares the folder counts as killed after a day."""
        with disk_errors(self.root):
            for left in self._incoming.iterdir():
                writer, _, host = left.name.partition("-")
                with suppress(FileNotFoundError):
                    written_at = left.stat().st_mtime
                    is_ours = writer.isdecimal() and host.startswith(_HOST)
                    if (
                        not _is_writing(int(writer), written_at)
                        if is_ours
                        else written_at < time.time() - DAY_S
                    ):
                        left.unlink()

    def _verify(self, key: str, digest: str) -> None:
        """Read back what is stored."""
        with disk_errors(self.root):
            try:
                stored = file_digest(self._path(key))
            except FileNotFoundError:
                return  # deleted by another process since
        if stored != digest:
            raise PostConditionFailed(
                f"{self.root} holds other bytes for {key!r} than were just put: "
                "another process wrote it at the same time, or the disk is broken."
            )

    def _path(self, key: str) -> Path:
        return self.root / checked_key(key)

    @contextmanager
    def _open(self, key: str) -> Iterator[IO[bytes]]:
        try:
            file = self._path(key).open("rb")
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            raise NotFound(f"There is no blob {key!r} under {self.root}.") from error
        except OSError as error:
            raise Unavailable(f"Cannot read blob {key!r} under {self.root}: {error.strerror}.") from error
        with file:
            yield file

    @contextmanager
    def _arriving(self, target: Path) -> Iterator[IO[bytes]]:
        with whole_file(target, self._incoming / f"{os.getpid()}-{_HOST}-{secrets.token_hex(8)}") as file:
            yield file

    def _walk(self, folder: str) -> Iterator[str]:
        try:
            with os.scandir(self.root / folder) as found:
                # The slash makes folders sort where their keys do: "a.b" < "a/b" < "a0".
                names = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in found)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise Unavailable(f"Cannot list {self.root / folder}: {error.strerror}.") from error
        for name in names:
            key = f"{folder}/{name}" if folder else name
            if name.endswith("/"):
                if name != ".incoming/":
                    yield from self._walk(key[:-1])
            elif is_key(key):
                yield key


def _is_writing(pid: int, written_at: float) -> bool:
    """Whether the process that wrote at that time still runs; another may have got its number since."""
    if pid == os.getpid():
        return True
    try:
        process = psutil.Process(pid)
        return bool(process.status() != psutil.STATUS_ZOMBIE and process.create_time() <= written_at)
    except psutil.NoSuchProcess:
        return False
