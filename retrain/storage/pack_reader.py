"""Random access to the images of many packs, for threads and for data loader processes."""

import os
import struct
import zipfile
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retrain.errors import BadInput, NotFound, Unavailable
from retrain.storage.digests import content_digest

# A local file header (APPNOTE.TXT 6.3.10, 4.3.7), up to the lengths of the name and the extra field behind it.
_HEADER = struct.Struct("<4s22xHH")
_MAGIC = b"PK\x03\x04"
# Read along with the image, in case an extra field is there: then one read is enough.
_EXTRA = 64
_ENCRYPTED = 0x1


def digest_in(name: str) -> str:
    """What the bytes of an image of this name in a pack must have as their digest."""
    return name.partition(".")[0]


class PackReader:
    """Reads single images out of any number of packs.

    The list of what is in a pack is read once, an image then costs one `pread`. It has no lock and shares no file
    position, so threads may use it at once, and forked processes too; a pickled one starts afresh.

    Args:
        open_packs: files held open at the same time.
    """

    def __init__(self, open_packs: int = 64) -> None:
        self._open_packs = open_packs
        # Thread-safe by itself. What it drops is closed once the last read of it has ended.
        self._file = lru_cache(open_packs)(_PackFile)
        self._contents: dict[Path, _Contents] = {}

    def __reduce__(self) -> tuple[type["PackReader"], tuple[int]]:
        return type(self), (self._open_packs,)

    def read(self, path: Path, name: str) -> bytes:
        """The bytes of image `name` in the pack at `path`, checked against the digest in its name.

        Raises:
            NotFound: the pack is not on this machine.
            BadInput: the pack is damaged, or has no such image.
            Unavailable: it may not be read, or this process has too many files open.
        """
        file = self._file(path)
        contents = self._contents.get(path)
        if contents is None:
            contents = self._contents[path] = _Contents(path)
        data = file.image(name, *contents.place(name))
        if content_digest(data) != digest_in(name):
            raise BadInput(f"Pack {path} is damaged: image {name} has other bytes than its name says.")
        return data

    def close(self) -> None:
        """Close all files; reading opens them again."""
        self._file.cache_clear()


class _PackFile:
    """An open pack. Closed when nobody refers to it any more, so never while another thread reads from it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError) as e:
            raise _missing(path) from e
        except OSError as e:
            raise Unavailable(f"Pack {path} cannot be opened: {e.strerror}.") from e

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def image(self, name: str, offset: int, size: int) -> bytes:
        """The bytes behind the local header at `offset`, whose name and extra field have lengths of their own."""
        given = self._read(offset, _HEADER.size + len(name) + _EXTRA + size)
        if len(given) < _HEADER.size:
            raise BadInput(f"Pack {self._path} is damaged: it ends before image {name}.")
        magic, name_length, extra_length = _HEADER.unpack_from(given)
        start = _HEADER.size + name_length + extra_length
        if magic != _MAGIC or given[_HEADER.size : _HEADER.size + name_length] != name.encode():
            raise BadInput(
                f"Pack {self._path} is damaged: image {name} is not where its list of contents says."
            )
        if start + size > len(given):
            given, start = self._read(offset + start, size), 0
        if len(given) < start + size:
            raise BadInput(f"Pack {self._path} is damaged: it ends within image {name}.")
        return given[start : start + size]

    def _read(self, offset: int, size: int) -> bytes:
        try:
            return os.pread(self._descriptor, size, offset)
        except OSError as e:
            raise BadInput(f"Pack {self._path} is damaged: {e}.") from e


class _Contents:
    """Where each image of a pack is: sorted arrays, which forked processes share, unlike objects."""

    def __init__(self, path: Path) -> None:
        self._path = path
        entries = sorted(_entries(path), key=lambda entry: entry.filename)
        self._names: NDArray[np.bytes_] = np.array(
            [entry.filename.encode() for entry in entries], dtype=np.bytes_
        )
        self._offsets = np.array([entry.header_offset for entry in entries], dtype=np.int64)
        self._sizes = np.array([entry.file_size for entry in entries], dtype=np.int64)

    def place(self, name: str) -> tuple[int, int]:
        """Offset of the local header and number of bytes of the image."""
        wanted = np.bytes_(name.encode())
        index = int(self._names.searchsorted(wanted)) if len(self._names) else 0
        if index == len(self._names) or self._names[index] != wanted:
            raise BadInput(f"Pack {self._path} is damaged: there is no image {name} in it.")
        return int(self._offsets[index]), int(self._sizes[index])


def _entries(path: Path) -> list[zipfile.ZipInfo]:
    try:
        # Opened anew: a position shared with threads and forked processes is none to read a list at.
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            entries, end = archive.infolist(), os.fstat(file.fileno()).st_size
    except FileNotFoundError as e:
        raise _missing(path) from e
    # Zip reads damage as what it cannot do, or as a place before the file.
    except (zipfile.BadZipFile, NotImplementedError, struct.error, ValueError, OSError) as e:
        raise BadInput(f"Pack {path} is damaged: {e}.") from e
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & _ENCRYPTED:
            raise BadInput(f"Pack {path} is damaged: image {entry.filename} is not stored as it is.")
        if not 0 <= entry.header_offset <= entry.header_offset + entry.file_size <= end:
            raise BadInput(f"Pack {path} is damaged: it ends before image {entry.filename}.")
    return entries


def _missing(path: Path) -> NotFound:
    return NotFound(f"Pack {path} is not on this machine. Pull the dataset from its remote first.")
