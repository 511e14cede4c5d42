"""Reading a spool: complete records only, each segment from where the last reader stopped."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from retrain.data_collection.spool import (
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
            os.close(descriptor)
        return True

    def records(self) -> Iterator[SpooledRecord]:
        """Complete records from `position` on, up to the end or to one that is cut short."""
        try:
            file = self.path.open("rb")
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

    def torn_bytes(self) -> int:
        """Bytes behind the last complete record; of a finished segment they never become one."""
        last = self.position
        for record in self.records():
            last = record.end
        return self.path.stat().st_size - last

    def remove(self) -> None:
        """Delete it with its images; the segment itself last, so that a kill in between leaves it to be found."""
        shutil.rmtree(self._images, ignore_errors=True)
        self.path.unlink(missing_ok=True)
        self._position_file.unlink(missing_ok=True)

    def _next(self, file: IO[bytes]) -> SpooledRecord | None:
        start = file.tell()
        header = file.read(HEADER.size)
        if len(header) < HEADER.size:
            return None
        magic, check, body_size, flags, image_size = HEADER.unpack(header)
        if magic != MAGIC:
            return self._skip(file, start)
        body, image = file.read(body_size), file.read(image_size)
        if len(body) < body_size or len(image) < image_size:
            # Cut short, unless a damaged size only makes it look so.
            return self._skip(file, start, or_cut_short=True)
        if checksum(body, flags, image_size) != check:
            return self._skip(file, start)
        linked = self._images / str(start) if flags & LINKED else None
        return SpooledRecord(f"{self.stem}:{start}", file.tell(), body, image, linked)

    def _skip(self, file: IO[bytes], start: int, *, or_cut_short: bool = False) -> SpooledRecord | None:
        """One lost stretch, up to the next record or the end."""
        file.seek(start + 1)
        rest = file.read()
        found = rest.find(MAGIC)
        if found < 0 and or_cut_short:
            return None
        end = start + 1 + (found if found >= 0 else len(rest))
        file.seek(end)
        return SpooledRecord(f"{self.stem}:{start}", end, b"", b"", None, intact=False)


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
