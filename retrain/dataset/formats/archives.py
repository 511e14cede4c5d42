"""Unpacking archives that somebody sent: only plain files, only below one folder, only as much as is sensible."""

import gzip
import posixpath
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from retrain.dataset.repository.disk import disk_errors, storage_full
from retrain.errors import BadInput

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")
_CHUNK = 1024 * 1024
_LARGEST_HEADER = 16 * 1024 * 1024


@dataclass(frozen=True)
class Limits:
    """What an archive may become.

    Attributes:
        bytes: unpacked, in all.
        entries: files and folders.
        ratio: unpacked bytes per byte of the archive; images hardly shrink, and text by 10 to 20.
        free_ratio_bytes: an archive that unpacks to no more than this may have any ratio.
    """

    bytes: int = 1024**4
    entries: int = 5_000_000
    ratio: float = 100.0
    free_ratio_bytes: int = 64 * 1024**2


DEFAULT_LIMITS = Limits()


@contextmanager
def opened(
    source: str | Path, scratch: Path | None = None, limits: Limits = DEFAULT_LIMITS
) -> Iterator[Path]:
    """The folder to import from: `source` itself, or what is in it, unpacked until the end of the block.

    Args:
        source: a folder, or a .zip, .tar, .tar.gz or .tgz file.
        scratch: folder in which a temporary one is made; the system's by default.

    Raises:
        BadInput: it is neither, or the archive is damaged or has something in it that is not accepted: a name that
            leads outside, a link, a device, one name twice, or more than `limits`.
        StorageFull: no space left.
    """
    path = Path(source)
    if path.is_dir():
        yield path
        return
    if not path.is_file() or not path.name.lower().endswith(SUFFIXES):
        raise BadInput(f"Datasets are imported from a folder or a {', '.join(SUFFIXES)} file, got {path}.")
    with tempfile.TemporaryDirectory(prefix="retrain-import-", dir=scratch) as folder:
        unpack(path, Path(folder), limits)
        yield Path(folder)


def unpack(archive: Path, target: Path, limits: Limits = DEFAULT_LIMITS) -> None:
    """Unpack into an empty folder; see `opened` for what is raised (some files may be there then)."""
    is_zip = archive.name.lower().endswith(".zip")
    try:
        with disk_errors(target):
            (_unpack_zip if is_zip else _unpack_tar)(archive, _Sink(archive, target, limits))
    except BadInput as e:
        raise BadInput(f"Archive {archive}: {e}.") from e
    except (
        zipfile.BadZipFile,
        tarfile.TarError,
        gzip.BadGzipFile,
        zlib.error,
        EOFError,
        NotImplementedError,
    ) as e:
        raise BadInput(f"Archive {archive} is damaged, or of a kind that is not accepted: {e}.") from e


class _Sink:
    """Where entries go, one by one, each checked before a byte of it is written."""

    def __init__(self, archive: Path, target: Path, limits: Limits) -> None:
        self.target, self._limits = target, limits
        by_ratio = max(int(archive.stat().st_size * limits.ratio), limits.free_ratio_bytes)
        self.allowed_bytes = min(limits.bytes, by_ratio)
        self._names: set[str] = set()
        self._bytes = 0

    def folder(self, name: str) -> None:
        self._accept(name).mkdir(parents=True, exist_ok=True)

    def file(self, name: str, size: int, content: IO[bytes]) -> None:
        """Write one file.

        Args:
            size: as stated; no more is written.
        """
        path = self._accept(name)
        if path.exists():
            raise BadInput(f"{name!r} is in it twice")
        self._bytes += size
        if self._bytes > self.allowed_bytes:
            raise _too_large(self.allowed_bytes)
        if size > shutil.disk_usage(self.target).free:
            raise storage_full(self.target)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            left = size
            while left and (chunk := content.read(min(left, _CHUNK))):
                file.write(chunk)
                left -= len(chunk)
        if left:
            raise BadInput(f"{name!r} ends {left} bytes early")

    def _accept(self, name: str) -> Path:
        parts = name.split("/")
        is_bad = name.startswith("/") or ".." in parts or any(c in name for c in "\0\\") or ":" in parts[0]
        plain = posixpath.normpath(name)
        if is_bad or not name:
            raise BadInput(f"the name {name[:200]!r} leads, or may lead, outside the folder")
        if any(len(part.encode(errors="surrogateescape")) > 255 for part in parts) or len(name) > 4000:
            raise BadInput(f"the name {name[:60]!r}… is too long")
        self._names.add(plain)
        if len(self._names) > self._limits.entries:
            raise BadInput(f"it has more than {self._limits.entries} entries")
        return self.target / plain


def _too_large(allowed: int) -> BadInput:
    return BadInput(
        f"it unpacks to more than {allowed} bytes, which its own size does not justify or a limit forbids"
    )


def _unpack_zip(archive: Path, sink: _Sink) -> None:
    with zipfile.ZipFile(archive) as file:
        for entry in file.infolist():
            # Windows leaves the mode 0.
            kind = stat.S_IFMT(entry.external_attr >> 16)
            if kind not in {0, stat.S_IFREG, stat.S_IFDIR}:
                raise BadInput(f"{entry.filename!r} is a link or a device")
            if entry.flag_bits & 1:
                raise BadInput(f"{entry.filename!r} is encrypted")
            if entry.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
                raise BadInput(f"{entry.filename!r} is compressed in another way than Deflate")
            if entry.is_dir():
                sink.folder(entry.filename)
            else:
                with file.open(entry) as content:
                    sink.file(entry.filename, entry.file_size, content)


def _unpack_tar(archive: Path, sink: _Sink) -> None:
    is_packed = archive.name.lower().endswith("gz")
    with (
        archive.open("rb") as raw,
        gzip.GzipFile(fileobj=raw) if is_packed else raw as plain,
        tarfile.open(fileobj=cast("IO[bytes]", _Bounded(plain, sink.allowed_bytes)), mode="r:") as file,
    ):
        for member in file:
            # Sparse files state more bytes than the archive has.
            if not (member.isreg() or member.isdir()) or member.issparse():
                raise BadInput(f"{member.name!r} is a link, a device or a sparse file")
            # Python's own filter (PEP 706) must agree. It would strip a leading slash, which is refused here.
            tarfile.data_filter(member, str(sink.target))
            if member.isdir():
                sink.folder(member.name)
            elif (content := file.extractfile(member)) is not None:
                sink.file(member.name, member.size, content)


class _Bounded:
    """What tarfile reads from, which takes headers of any length into memory and skips over files of any size."""

    def __init__(self, plain: IO[bytes] | gzip.GzipFile, allowed_bytes: int) -> None:
        self._plain = plain
        # Headers and padding are a part of the archive that is not unpacked.
        self._end = 2 * allowed_bytes + _LARGEST_HEADER
        self.tell = plain.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _LARGEST_HEADER:
            raise BadInput(f"it has a header of {size} bytes")
        self._check(self.tell() + size)
        return self._plain.read(size)

    def seek(self, position: int, whence: int = 0) -> int:
        self._check(position)
        return self._plain.seek(position, whence)

    def _check(self, position: int) -> None:
        if position > self._end:
            raise _too_large(self._end)
