"""The queue of frames that production hands over: a spool on disk, safe from a kill before the hand-over returns.

One writer per process fills segments of its own, so writers never wait for each other. A segment is a file whose room
is reserved when it is begun (a full disk is met there and nowhere else) and which is written through memory: half the
time of a system call per record, and what is written survives the process all the same. A record is a header, a body
and perhaps an image; linked images lie in a folder beside the segment. The header is written last, so a record that a
kill cut short does not exist for readers. They follow with a position per segment and remove it once its writer is gone
and everything in it was consumed.
"""

import errno
import fcntl
import mmap
import os
import secrets
import shutil
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from retrain.data_collection.spool.format import (
    HEADER,
    IMAGES,
    LINKED,
    MAGIC,
    SEGMENT,
    checksum,
    spool_bytes,
)
from retrain.data_collection.spool.reader import SpoolSegment, spool_depth
from retrain.errors import BadInput, ConfigError, StorageFull, Unavailable

_HEADER_BYTES = HEADER.size

WhenFull = Literal["drop_new", "drop_oldest", "block"]
_HARD_LINK_REFUSED = {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EACCES}
_BLOCKED_PAUSE_S = 0.01
_LOOK_AGAIN_S = 0.1
_NAMED_WITHIN_S = 600


@dataclass(frozen=True)
class SpoolLimits:
    """How much disk a spool may take, and what happens when it is full.

    Attributes:
        max_bytes: of all segments and images of the folder together.
        segment_bytes: what a writer reserves at a time, the unit that `drop_oldest` drops.
        when_full: `drop_new` refuses, `drop_oldest` makes room, `block` waits up to `block_s` and then refuses.
        sync: also survive a power cut, for one `msync` per frame (100 to 300 µs).
    """

    max_bytes: int = 2 * 2**30
    segment_bytes: int = 16 * 2**20
    when_full: WhenFull = "drop_new"
    block_s: float = 1.0
    sync: bool = False

    def __post_init__(self) -> None:
        if self.segment_bytes < 1 or self.max_bytes < 2 * self.segment_bytes:
            raise ConfigError(
                f"A spool must hold at least 2 segments, got max_bytes={self.max_bytes} and "
                f"segment_bytes={self.segment_bytes}."
            )
        if self.when_full not in ("drop_new", "drop_oldest", "block"):
            raise ConfigError(f"when_full must be drop_new, drop_oldest or block, got {self.when_full!r}.")
        if self.block_s < 0:
            raise ConfigError(f"block_s must be 0 or more seconds, got {self.block_s}.")


class SpoolFull(StorageFull):
    """The spool has reached its limit, or the disk its end; the frame was not taken."""


class DataCollectionQueue:
    """Between production and whatever drains the folder. Safe for threads; a forked child gets segments of its own."""

    def __init__(
        self,
        folder: Path,
        limits: SpoolLimits = SpoolLimits(),
        on_dropped: Callable[[int], None] = lambda _count: None,
    ) -> None:
        """Open the folder; the first append makes a segment.

        Args:
            on_dropped: told how many records `drop_oldest` removed.

        Raises:
            Unavailable: the folder cannot be made.
        """
        self.folder = folder.absolute()
        self.limits = limits
        self._on_dropped = on_dropped
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Unavailable(f"Cannot make the spool {self.folder}: {error.strerror}.") from error
        self._memory: mmap.mmap | None = None
        self._full_until = 0.0
        self._has_images = False
        self._offset = self._end = self._used = 0
        self._forget()
        _queues.add(self)

    def append(
        self,
        body: bytes | bytearray,
        image: bytes = b"",
        file: str | os.PathLike[str] | None = None,
        file_bytes: int = 0,
    ) -> None:
        """Store a record; it survives a kill of this process from here on.

        Args:
            image: bytes kept with it.
            file: or its image as a file of `file_bytes`, which is linked (copied where it cannot be). The caller may
                delete its own name afterwards, and must not write to the file.

        Raises:
            SpoolFull: no room; nothing of the record was kept.
            BadInput: the file cannot be read.
        """
        flags = 0 if file is None else LINKED
        body_bytes, image_bytes = len(body), len(image)
        header = HEADER.pack(MAGIC, checksum(body, flags, image_bytes), body_bytes, flags, image_bytes)
        size = _HEADER_BYTES + body_bytes + image_bytes
        with self._lock:
            if file is not None and self._used + file_bytes > self.limits.max_bytes:
                self._make_room(file_bytes)
            if self._offset + size > self._end:
                self._begin_segment(size)
            start = self._offset
            if file is not None:
                self._link(file, f"{self._images}/{start}")
                self._used += file_bytes
            memory, middle, end = self._memory, start + _HEADER_BYTES, start + size
            assert memory is not None
            memory[middle : middle + body_bytes] = body
            if image:
                memory[end - image_bytes : end] = image
            # Last and in one copy: a reader meets the record whole or not at all.
            memory[start:middle] = header
            if self.limits.sync:
                page = start - start % mmap.PAGESIZE
                memory.flush(page, end - page)
            self._offset = end

    def __len__(self) -> int:
        """Records that wait in the folder, whoever appended them."""
        return spool_depth(self.folder).records

    def close(self) -> None:
        """Let readers finish and remove this process's segment. The next append begins another."""
        with self._lock:
            self._end_segment()

    def _link(self, path: str | os.PathLike[str], target: str) -> None:
        try:
            if not self._has_images:
                Path(self._images).mkdir(exist_ok=True)
                self._has_images = True
            try:
                os.link(path, target)
            except OSError as error:
                if error.errno not in _HARD_LINK_REFUSED:
                    raise
                # With its times, by which a later change of the original is told from this copy.
                shutil.copy2(path, target)
        except OSError as error:
            if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                raise SpoolFull(f"No space left in {self.folder}; the frame was not taken.") from error
            raise BadInput(f"The image {os.fspath(path)} cannot be read: {error.strerror}.") from error

    def _begin_segment(self, needed: int) -> None:
        """A new file with room for at least `needed` bytes."""
        self._end_segment()
        size = max(self.limits.segment_bytes, needed)
        self._make_room(size)
        self._remove_leftovers()
        # Names sort by age, whoever writes them.
        stem = f"{time.time_ns():020d}-{os.getpid()}-{secrets.token_hex(4)}"
        arriving = self.folder / f".{stem}.arriving"
        descriptor = -1
        try:
            descriptor = os.open(arriving, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
            # Readers see by this lock whether more may come; the kernel frees it when the process dies.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Reserved now: memory that has no disk behind it would end the process when it is written to.
            os.posix_fallocate(descriptor, 0, size)
            self._memory = mmap.mmap(descriptor, size)
            # Named last: a reader that met it unlocked would take it for finished, and remove it.
            arriving.rename(self.folder / (stem + SEGMENT))
        except OSError as error:
            if descriptor >= 0:
                os.close(descriptor)
                arriving.unlink(missing_ok=True)
            if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
                raise SpoolFull(f"No space left in {self.folder}; the frame was not taken.") from error
            raise Unavailable(f"Cannot write to the spool {self.folder}: {error.strerror}.") from error
        self._descriptor, self._stem = descriptor, stem
        self._images, self._has_images = str(self.folder / (stem + IMAGES)), False
        self._offset, self._end = 0, size
        self._used += size

    def _remove_leftovers(self) -> None:
        """Files that a killed writer reserved and did not live to name."""
        for path in self.folder.glob(".*.arriving"):
            with suppress(FileNotFoundError):
                # Naming takes milliseconds: what is older has nobody.
                if path.stat().st_mtime < time.time() - _NAMED_WITHIN_S:
                    path.unlink()

    def _end_segment(self) -> None:
        if self._memory is not None:
            self._memory.close()
            os.ftruncate(self._descriptor, self._offset)
            os.close(self._descriptor)
            self._memory, self._descriptor = None, -1
            self._offset = self._end = 0

    def _make_room(self, needed: int) -> None:
        """Return once there is room for `needed` bytes, or raise."""
        if time.monotonic() < self._full_until:
            raise self._full()
        deadline = time.monotonic() + (self.limits.block_s if self.limits.when_full == "block" else 0.0)
        while (used := spool_bytes(self.folder)) + needed > self.limits.max_bytes:
            if self.limits.when_full == "drop_oldest" and (dropped := self._drop_oldest()) is not None:
                self._on_dropped(dropped)
                continue
            if (now := time.monotonic()) >= deadline:
                # Looking costs more than production may wait for each frame.
                self._used, self._full_until = used, now + _LOOK_AGAIN_S
                raise self._full()
            time.sleep(_BLOCKED_PAUSE_S)
        self._used = used

    def _full(self) -> SpoolFull:
        return SpoolFull(
            f"The spool {self.folder} is at its limit of {self.limits.max_bytes} bytes. Is something draining it? "
            "`retrain collect drain` does; data_collection.spool.max_bytes sets the limit."
        )

    def _drop_oldest(self) -> int | None:
        """Remove the oldest segment nobody writes or reads.

        Returns:
            How many unread records went with it; None if there is no such segment.
        """
        for path in sorted(self.folder.glob("*" + SEGMENT)):
            if path.stem == self._stem:
                # Our own is the oldest left: end it, so that it can go.
                self._end_segment()
            segment = SpoolSegment(path)
            if segment.is_finished() and segment.lock():
                try:
                    unread = sum(1 for _ in segment.records())
                    segment.remove()
                finally:
                    segment.unlock()
                return unread
        return None

    def _forget(self) -> None:
        """Start without a segment."""
        self._lock = threading.Lock()
        self._memory = None
        self._descriptor = -1
        self._stem, self._images, self._has_images = "", "", False
        self._offset = self._end = self._used = 0
        self._full_until = 0.0

    def _after_fork(self) -> None:
        """The parent's segment must not be written to, nor its end cut off, by a child."""
        if self._memory is not None:
            self._memory.close()
            os.close(self._descriptor)
        self._forget()


_queues: "weakref.WeakSet[DataCollectionQueue]" = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for writer in list(_queues):
        writer._after_fork()


os.register_at_fork(after_in_child=_after_fork_in_child)
