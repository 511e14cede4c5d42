"""Reading a spool: complete records only, each segment from where the last reader stopped."""

import functools
import logging
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from retrain.data_collection.locks import OwnDescriptor, lock_file
from retrain.data_collection.spool.format import (
    HEADER,
    IMAGES,
    LINKED,
    MAGIC,
    POSITION,
    READING,
    SEGMENT,
    SEGMENT_HEADER,
    SEGMENT_MAGIC,
    START,
    Position,
    checksum,
    read_position,
    spool_bytes,
)
from retrain.storage.files import write_whole

logger = logging.getLogger(__name__)

_LOOKED_AT = 4096
_NAME = re.compile(r"\d{20}-\d+-[0-9a-f]{8}" + re.escape(SEGMENT))


@dataclass(frozen=True)
class SpooledRecord:
    """One record as it was appended.

    Attributes:
        id: of the record, unique over all spools.
        end: position behind it in its segment.
        image_file: where a linked image is; else `image` holds the bytes, perhaps none.
        image_bytes: of the image, wherever it is.
        intact: False for a stretch of the segment that the disk changed after it was written; it holds nothing.
    """

    id: str
    end: int
    body: bytes
    image: bytes
    image_file: Path | None
    image_bytes: int
    intact: bool = True


class SpoolSegment:
    """One segment and the position up to which it was consumed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stem = path.name.removesuffix(SEGMENT)
        self._position_file = path.with_suffix(POSITION)
        self._images = path.with_name(self.stem + IMAGES)
        self._reading = path.with_name(self.stem + READING)
        self._lock: OwnDescriptor | None = None

    @property
    def position(self) -> Position:
        """Up to where everything was consumed; the start where that cannot be told."""
        try:
            return read_position(self.path)
        except (ValueError, PermissionError) as error:
            say_once(
                f"The position beside {self.path} cannot be read ({error}), so the segment is read from its start "
                "again. No record is stored twice."
            )
            return START

    def lock(self) -> bool:
        """Be the only one that reads or drops it; False when somebody else is, or when it is gone.

        Raises:
            OSError: its lock file can be neither made nor read.
        """
        if self._lock is None:
            try:
                self._lock = lock_file(self._reading, wait=False)
            except FileNotFoundError:
                return False
        if self._lock is not None and not self.path.exists():
            self.unlock()
        return self._lock is not None

    def unlock(self) -> None:
        if self._lock is not None:
            self._lock.unlock()
            self._lock = None
            if not self.path.exists():
                self._reading.unlink(missing_ok=True)

    def is_ours(self) -> bool:
        """Whether a writer of this version made it. Nothing but zeros is what a power cut may leave of its start."""
        with self.path.open("rb") as file:
            head = file.read(SEGMENT_HEADER.size)
        return head.startswith(SEGMENT_MAGIC) or not any(head)

    def is_finished(self) -> bool:
        """Whether its writer closed it or died, so that no more is appended."""
        try:
            descriptor = OwnDescriptor(self.path, os.O_RDONLY)
        except FileNotFoundError:
            return True
        if descriptor.lock(wait=False):
            descriptor.unlock()
            return True
        return False

    def records(self, until: int | None = None) -> Iterator[SpooledRecord]:
        """Complete records from `position` on, up to `until`, to the end or to one that is cut short."""
        try:
            file = self.path.open("rb", buffering=0)
        except FileNotFoundError:
            return
        with file:
            file.seek(self.position.end)
            while (until is None or file.tell() < until) and (record := self._next(file)) is not None:
                yield record

    def count(self) -> int:
        """Records from `position` on, by their headers alone; none that can be told of where it may not be read."""
        try:
            return self._look()[0]
        except FileNotFoundError:
            return 0
        except PermissionError as error:
            say_once(f"The records of a segment cannot be counted: {error}.")
            return 0

    def end(self) -> int:
        """Where ends what is there now; more may be appended meanwhile.

        By the headers alone. Where the disk changed one, all the room that the segment has is meant.
        """
        try:
            found, room = self._look()[1], self.path.stat().st_size
            with self.path.open("rb") as file:
                file.seek(found)
                return room if any(file.read(HEADER.size)) else found
        except (FileNotFoundError, PermissionError):
            return 0

    def consumed(self, position: Position) -> None:
        """Remember durably what is done."""
        write_whole(self._position_file, f"{position.end} {position.released}".encode())

    def is_torn(self, end: int) -> bool:
        """Whether a record was begun at `end`, behind the last complete one: a finished segment never completes it."""
        with self.path.open("rb") as file:
            file.seek(end)
            return any(file.read(_LOOKED_AT))

    def remove(self) -> None:
        """Delete it with its images; the segment itself last, so that a kill in between leaves it to be found."""
        shutil.rmtree(self._images, ignore_errors=True)
        self.path.unlink(missing_ok=True)
        self._position_file.unlink(missing_ok=True)

    def _look(self) -> tuple[int, int]:
        """How many whole records are there from `position` on, and where they end, by their headers."""
        with self.path.open("rb") as file:
            end, room, found = self.position.end, os.fstat(file.fileno()).st_size, 0
            while end + HEADER.size <= room:
                file.seek(end)
                size = _size(file.read(HEADER.size))
                if size is None or end + size > room:
                    break
                end += size
                found += 1
        return found, end

    def _next(self, file: IO[bytes]) -> SpooledRecord | None:
        start = file.tell()
        if (record := self._read(file, start)) is not None:
            return record
        finished = self.is_finished()
        if not any(file.read(HEADER.size)) and not finished:
            return None  # not written yet
        file.seek(start)
        damaged = _damaged_bytes(file.read(), finished)
        # What is followed by a record was complete by then, whatever was read of it while it was being written.
        file.seek(start)
        if damaged is None or (record := self._read(file, start)) is not None:
            return record
        file.seek(start + damaged)
        return SpooledRecord(f"{self.stem}:{start}", start + damaged, b"", b"", None, 0, intact=False)

    def _read(self, file: IO[bytes], start: int) -> SpooledRecord | None:
        """The record at `start`; None, and back to `start`, if there is no whole one."""
        header = file.read(HEADER.size)
        if len(header) == HEADER.size and header.startswith(MAGIC):
            _, check, body_bytes, flags, image_bytes = HEADER.unpack(header)
            linked = self._images / str(start) if flags & LINKED else None
            body = file.read(body_bytes)
            image = b"" if linked is not None else file.read(image_bytes)
            whole = len(body) == body_bytes and (linked is not None or len(image) == image_bytes)
            if whole and checksum(body, image, flags, image_bytes) == check:
                end = start + HEADER.size + len(body) + len(image)
                return SpooledRecord(f"{self.stem}:{start}", end, body, image, linked, image_bytes)
        file.seek(start)
        return None


@dataclass(frozen=True)
class SpoolDepth:
    """What waits in a spool: records not consumed yet, bytes on disk, and since when the oldest segment exists."""

    records: int
    bytes: int
    oldest_at: float | None


def spool_depth(folder: Path) -> SpoolDepth:
    """Looks at headers only, so it costs little however large the images are."""
    count, oldest = 0, None
    for segment in segments(folder):
        if unread := segment.count():
            count += unread
            began = int(segment.stem.split("-")[0]) / 1e9
            oldest = began if oldest is None else min(oldest, began)
    return SpoolDepth(count, spool_bytes(folder) if folder.is_dir() else 0, oldest)


def segments(folder: Path) -> list[SpoolSegment]:
    """All segments of a spool, oldest first; files of other names are none."""
    return [SpoolSegment(path) for path in sorted(folder.glob("*" + SEGMENT)) if _NAME.fullmatch(path.name)]


@functools.lru_cache(maxsize=1000)
def say_once(warning: str) -> None:
    """Log it, but not again with every pass over the spool."""
    logger.warning("%s", warning)


def _size(header: bytes) -> int | None:
    """Bytes of a record in its segment; None where there is no header."""
    if len(header) < HEADER.size or not header.startswith(MAGIC):
        return None
    _, _, body_bytes, flags, image_bytes = HEADER.unpack(header)
    return int(HEADER.size + body_bytes + (0 if flags & LINKED else image_bytes))


def _damaged_bytes(rest: bytes, finished: bool) -> int | None:
    """How long the damaged record at the start of `rest` is; None where it is one that was not written to its end."""
    size = _size(rest[: HEADER.size])
    if size is not None and size <= len(rest):
        behind = rest[size : size + HEADER.size]
        # Its own word counts first: an image may well hold the magic of a record.
        if behind.startswith(MAGIC) or (finished and not any(behind)):
            return size
    found = rest.find(MAGIC, 1)
    return found if found > 0 else None
