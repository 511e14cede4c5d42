"""Reading a spool: complete records only, each segment from where the last reader stopped."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from retrain.data_collection.spool.format import (
    HEADER,
    IMAGES,
    LINKED,
    MAGIC,
    POSITION,
    SEGMENT,
    checksum,
    spool_bytes,
)
from retrain.storage.files import write_whole

_LOOKED_AT = 4096


@dataclass(frozen=True)
class SpooledRecord:
    """One record as it was appended.

    Attributes:
        id: of the record, unique over all spools.
        end: position behind it in its segment.
        image_file: where a linked image is; else `image` holds the bytes, perhaps none.
        intact: False for a stretch of the segment that the disk changed after it was written; it holds nothing.
    """

    id: str
    end: int
    body: bytes
    image: bytes
    image_file: Path | None
    intact: bool = True

    @property
    def image_bytes(self) -> int:
        if self.image_file is None:
            return len(self.image)
        return self.image_file.stat().st_size if self.image_file.exists() else 0


class SpoolSegment:
    """One segment and the position up to which it was consumed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stem = path.name.removesuffix(SEGMENT)
        self._position_file = path.with_name(self.stem + POSITION)
        self._images = path.with_name(self.stem + IMAGES)
        self._locked: int | None = None

    @property
    def position(self) -> int:
        """Byte up to which everything was consumed."""
        try:
            return int(self._position_file.read_bytes() or b"0")
        except FileNotFoundError:
            return 0

    def lock(self) -> bool:
        """Be the only one that reads or drops it; False when somebody else is."""
        if self._locked is None:
            try:
                descriptor = os.open(
                    self.path.with_name(self.stem + ".reading"), os.O_RDWR | os.O_CREAT, 0o644
                )
            except FileNotFoundError:
                return False
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                return False
            self._locked = descriptor
        return self.path.exists()

    def unlock(self) -> None:
        if self._locked is not None:
            # Closing alone leaves it locked while a child that was forked meanwhile lives.
            fcntl.flock(self._locked, fcntl.LOCK_UN)
            os.close(self._locked)
            self._locked = None
            if not self.path.exists():
                self.path.with_name(self.stem + ".reading").unlink(missing_ok=True)

    def is_finished(self) -> bool:
        """Whether its writer closed it or died, so that no more is appended."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY)
        except FileNotFoundError:
            return True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)
        return True

    def records(self) -> Iterator[SpooledRecord]:
        """Complete records from `position` on, up to the end or to one that is cut short."""
        try:
            file = self.path.open("rb", buffering=0)
        except FileNotFoundError:
            return
        with file:
            file.seek(self.position)
            while (record := self._next(file)) is not None:
                yield record

    def count(self) -> int:
        """Records from `position` on, by their headers alone."""
        try:
            with self.path.open("rb") as file:
                at, end, found = self.position, self.path.stat().st_size, 0
                while at + HEADER.size <= end:
                    file.seek(at)
                    magic, _, body, _, image = HEADER.unpack(file.read(HEADER.size))
                    at += HEADER.size + body + image
                    if magic != MAGIC or at > end:
                        break
                    found += 1
        except FileNotFoundError:
            return 0
        return found

    def consumed(self, end: int) -> None:
        """Remember durably that everything before `end` is done."""
        write_whole(self._position_file, str(end).encode())

    def is_torn(self) -> bool:
        """Whether a record was begun behind the last complete one; in a finished segment it never gets complete."""
        end = self.position
        for record in self.records():
            end = record.end
        with self.path.open("rb") as file:
            file.seek(end)
            return any(file.read(_LOOKED_AT))

    def remove(self) -> None:
        """Delete it with its images; the segment itself last, so that a kill in between leaves it to be found."""
        shutil.rmtree(self._images, ignore_errors=True)
        self.path.unlink(missing_ok=True)
        self._position_file.unlink(missing_ok=True)

    def _next(self, file: IO[bytes]) -> SpooledRecord | None:
        start = file.tell()
        if (record := self._read(file, start)) is not None:
            return record
        if not any(file.read(HEADER.size)) and not self.is_finished():
            return None  # not written yet
        file.seek(start)
        rest = file.read()
        if (found := rest.find(MAGIC, 1)) < 0:
            return None
        # What is followed by a record was complete by then, whatever was read of it while it was being written.
        file.seek(start)
        if (record := self._read(file, start)) is not None:
            return record
        file.seek(start + found)
        return SpooledRecord(f"{self.stem}:{start}", start + found, b"", b"", None, intact=False)

    def _read(self, file: IO[bytes], start: int) -> SpooledRecord | None:
        """The record at `start`; None, and back to `start`, if there is no whole one."""
        header = file.read(HEADER.size)
        if len(header) == HEADER.size and header.startswith(MAGIC):
            _, check, body_size, flags, image_size = HEADER.unpack(header)
            body, image = file.read(body_size), file.read(image_size)
            whole = len(body) == body_size and len(image) == image_size
            if whole and checksum(body, flags, image_size) == check:
                linked = self._images / str(start) if flags & LINKED else None
                end = start + HEADER.size + body_size + image_size
                return SpooledRecord(f"{self.stem}:{start}", end, body, image, linked)
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
    """All segments of a spool, oldest first."""
    return [SpoolSegment(path) for path in sorted(folder.glob("*" + SEGMENT))]
