"""Bytes by key: what every store of them promises, and what all of them need.

Keys are relative paths of letters, digits and `. _ = + @ -`. Never use one key as the folder of another
(`a` and `a/b`): a folder refuses it and S3 servers differ.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Protocol

from retrain.errors import BadInput

_SEGMENT = r"[A-Za-z0-9_=+@-][A-Za-z0-9._=+@-]{0,199}"
_KEY = re.compile(rf"{_SEGMENT}(/{_SEGMENT})*")
PART_BYTES = 8 * 2**20
DAY_S = 86_400


class BlobStore(Protocol):
    """A put is all or nothing: readers, also those after a crash, see the old bytes or the new ones.

    Any number of threads and processes may use one store. Of two simultaneous puts of other bytes to one
    key the last wins, and the first may be told so (`PostConditionFailed`, where puts are read back). Every
    method raises `BadInput` for a malformed key and `Unavailable` when the store does not answer or permit.
    """

    def put(self, key: str, data: bytes) -> None:
        """Store durably, replacing what was there. `StorageFull` leaves the old bytes."""

    def get(self, key: str) -> bytes:
        """All bytes, or `NotFound`."""

    def exists(self, key: str) -> bool: ...

    def delete(self, key: str) -> None:
        """Remove; does nothing when there is no such key."""

    def keys(self, prefix: str = "") -> Iterator[str]:
        """Keys that start with these characters (not necessarily a whole folder name), sorted."""

    def put_file(self, key: str, path: Path) -> None:
        """Like `put`, for a file too large for memory."""

    def fetch(self, key: str, target: Path) -> None:
        """Write the bytes to `target`, which appears complete or not at all, or `NotFound`."""

    def remove_unfinished(self) -> None:
        """Delete the bytes of puts that were killed; what may still be under way stays."""


def is_key(key: str) -> bool:
    return len(key) <= 500 and _KEY.fullmatch(key) is not None


def checked_key(key: str) -> str:
    """The key, if it is one; otherwise `BadInput`."""
    if not is_key(key):
        raise BadInput(
            f"A blob key is a relative path of at most 500 letters, digits and . _ = + @ -, but got {key!r}."
        )
    return key


@contextmanager
def readable(path: Path) -> Iterator[IO[bytes]]:
    """A file that is to be put, open for reading; `BadInput` if it cannot be read."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise BadInput(f"Cannot read {path} to store it: {error.strerror}.") from error
    with file:
        yield file
