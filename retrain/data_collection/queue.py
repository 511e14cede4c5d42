"""The queue of frames that production hands over: a spool on disk, safe from a kill before the hand-over returns.

One writer per process fills segments of its own, so writers never wait for each other. A segment is a file whose room
is reserved when it is begun (a full disk is met there and nowhere else) and which is written through memory: half the
time of a system call per record, and what is written survives the process all the same. A record is a header, a body
and perhaps an image; linked images lie in a folder beside the segment. The header is written last, so a record that a
kill cut short does not exist for readers. They follow with a position per segment and remove it once its writer is gone
and everything in it was consumed.
"""

import errno
import mmap
import os
import secrets
import struct
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from retrain.data_collection.locks import OwnDescriptor
from retrain.data_collection.spool.format import (
    HEADER,
    IMAGES,
    LINKED,
    MAGIC,
    SEGMENT,
    SEGMENT_HEADER,
    SEGMENT_MAGIC,
    checksum,
    spool_bytes,
)
from retrain.data_collection.spool.leftovers import remove_unnamed
from retrain.data_collection.spool.linking import link_or_copy
from retrain.data_collection.spool.reader import segments, spool_depth
from retrain.errors import BadInput, ConfigError, StorageFull, Unavailable

_HEADER_BYTES = HEADER.size
_SEGMENT_HEADER_BYTES, _LINKED_AT = SEGMENT_HEADER.size, len(SEGMENT_MAGIC)
_LINKED = struct.Struct("<Q")
_ARRIVING = ".arriving"

WhenFull = Literal["drop_new", "drop_oldest", "block"]
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_WRITTEN_FROM = 4096
"""Bytes from which an image is written by a system call: memory that was never touched costs a page fault per page."""
_BLOCKED_PAUSE_S = 0.01
_SHARES = 8
_LOOK_AGAIN_S, _PAUSE_PER_LOOK = 0.1, 100
"""When a full spool is looked at again: looking takes at most a hundredth of the time."""


@dataclass(frozen=True)
class SpoolLimits:
    """How much disk a spool may take, and what happens when it is full.

    Attributes:
        max_bytes: of all segments and images of the folder together.
        segment_bytes: what a writer reserves at a time. `drop_oldest` drops one with the images linked beside it, which
            are at most an eighth of the spool.
        when_full: `drop_new` refuses, `drop_oldest` makes room, `block` waits up to `block_s` and then refuses.
        sync: also survive a power cut, for one `msync` per frame (100 to 300 µs).
    """

    max_bytes: int = 2 * 2**30
    segment_bytes: int = 16 * 2**20
    when_full: WhenFull = "drop_new"
    block_s: float = 1.0
    sync: bool = False

    @property
    def linked_bytes(self) -> int:
        """Of the images that are linked beside one segment: they are dropped together."""
        return max(self.segment_bytes, self.max_bytes // _SHARES)

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
        self._forget()
        _queues.add(self)

    def _forget(self) -> None:
        """Start without a segment."""
        self._lock = threading.Lock()
        self._memory: mmap.mmap | None = None
        self._descriptor: OwnDescriptor | None = None
        self._stem, self._images, self._has_images = "", "", False
        self._offset = self._end = 0
        self._linked = self._may_link = 0
        self._full_until, self._refused = 0.0, 0

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
            BadInput: the file cannot be read, or the frame is larger than the spool may be.
            Unavailable: the disk does not take it. If only the sync failed, it may be stored all the same.
        """
        body_bytes, flags, image_bytes = len(body), 0, len(image)
        size = _HEADER_BYTES + body_bytes + image_bytes
        if file is not None:
            flags, image_bytes = LINKED, file_bytes
        header = HEADER.pack(MAGIC, checksum(body, image, flags, image_bytes), body_bytes, flags, image_bytes)
        with self._lock:
            if file is not None and self._linked + file_bytes > self._may_link:
                self._prepare_link(size, file_bytes)
            if self._offset + size > self._end:
                self._begin_segment(size, file_bytes)
            start = self._offset
            if file is not None:
                self._link(file, f"{self._images}/{start}")
            memory, middle, end = self._memory, start + _HEADER_BYTES, start + size
            assert memory is not None
            memory[middle : middle + body_bytes] = body
            if image:
                if image_bytes < _WRITTEN_FROM:
                    memory[end - image_bytes : end] = image
                else:
                    self._write(image, end - image_bytes)
            # Last and in one copy: a reader meets the record whole or not at all. Nothing may come between it and the
            # next line, not even a signal: the following record would take the place of one that was perhaps read.
            memory[start:middle] = header
            self._offset = end
            if file is not None:
                self._linked += file_bytes
                memory[_LINKED_AT:_SEGMENT_HEADER_BYTES] = _LINKED.pack(self._linked)
            if self.limits.sync:
                self._sync(start, end)

    def __len__(self) -> int:
        """Records that wait in the folder, whoever appended them."""
        return spool_depth(self.folder).records

    def close(self) -> None:
        """Let readers finish and remove this process's segment. The next append begins another."""
        with self._lock:
            self._end_segment()

    def _write(self, image: bytes, start: int) -> None:
        assert self._descriptor is not None
        left = memoryview(image)
        try:
            while left:
                done = os.pwrite(self._descriptor.number, left, start)
                left, start = left[done:], start + done
        except OSError as error:
            raise _refused(error, self.folder) from error

    def _sync(self, start: int, end: int) -> None:
        assert self._memory is not None
        page = start - start % mmap.PAGESIZE
        try:
            self._memory.flush(page, end - page)
        except OSError as error:
            raise Unavailable(
                f"The spool {self.folder} cannot be synced ({error.strerror}): the frame would not survive a power cut."
            ) from error

    def _link(self, path: str | os.PathLike[str], target: str) -> None:
        try:
            if not self._has_images:
                Path(self._images).mkdir(exist_ok=True)
                self._has_images = True
            assert self._descriptor is not None
            link_or_copy(path, target, self._descriptor.number)
        except BaseException as error:
            # Whatever it was, also a signal's: the next frame takes the same name.
            with suppress(OSError):
                Path(target).unlink()
            if not isinstance(error, OSError):
                raise
            if error.errno in _NO_SPACE:
                raise _refused(error, self.folder) from error
            raise BadInput(f"The image {os.fspath(path)} cannot be read: {error.strerror}.") from error

    def _prepare_link(self, size: int, file_bytes: int) -> None:
        """Room for another linked image: in the segment, unless that has its share of them.

        Looked at again after `segment_bytes` of them, because other processes fill the spool meanwhile.
        """
        linked = self._linked + file_bytes
        if self._memory is None or (self._linked and linked > self.limits.linked_bytes):
            self._begin_segment(size, file_bytes)
            return
        self._check_size(self.limits.segment_bytes + file_bytes)
        room = self.limits.max_bytes - self._make_room(file_bytes)
        self._may_link = min(self._linked + min(room, self.limits.segment_bytes), self.limits.linked_bytes)

    def _begin_segment(self, record_bytes: int, file_bytes: int) -> None:
        """A new file with room for at least the record, beside which the file may be linked."""
        size = max(self.limits.segment_bytes, _SEGMENT_HEADER_BYTES + record_bytes)
        self._check_size(size + file_bytes)
        # The old one ends only then: while there is no room for this frame, smaller ones go there.
        used = self._make_room(size + file_bytes, ending=True)
        self._end_segment()
        remove_unnamed(self.folder, _ARRIVING)
        # Names sort by age, whoever writes them.
        stem = f"{time.time_ns():020d}-{os.getpid()}-{secrets.token_hex(4)}"
        named = self.folder / (stem + SEGMENT)
        arriving = self.folder / f".{stem}{_ARRIVING}"
        descriptor = memory = None
        try:
            descriptor = OwnDescriptor(arriving, os.O_RDWR | os.O_CREAT | os.O_EXCL)
            # Readers see by this lock whether more may come; the kernel frees it when the process dies.
            descriptor.lock(wait=False)
            # Reserved now: memory that has no disk behind it would end the process when it is written to.
            os.posix_fallocate(descriptor.number, 0, size)
            memory = mmap.mmap(descriptor.number, size)
            memory[:_SEGMENT_HEADER_BYTES] = SEGMENT_HEADER.pack(SEGMENT_MAGIC, 0)
            images, room = str(self.folder / (stem + IMAGES)), self.limits.max_bytes - used - size
            may_link = min(self.limits.segment_bytes, room)
            # Named last: a reader that met it unlocked would take it for finished, and remove it.
            arriving.rename(named)
        except BaseException as error:
            if memory is not None:
                memory.close()
            if descriptor is not None:
                descriptor.close()
            arriving.unlink(missing_ok=True)
            named.unlink(missing_ok=True)
            if not isinstance(error, OSError):
                raise
            raise _refused(error, self.folder) from error
        # No calls from here on: a signal could raise out of one, and leave a segment that is named and not ours.
        self._descriptor, self._stem, self._images, self._has_images = descriptor, stem, images, False
        self._linked, self._may_link = 0, may_link
        self._memory, self._offset, self._end = memory, _SEGMENT_HEADER_BYTES, size

    def _end_segment(self) -> None:
        memory, descriptor, end = self._memory, self._descriptor, self._offset
        self._memory = self._descriptor = None
        self._offset = self._end = self._linked = self._may_link = 0
        if memory is not None and descriptor is not None:
            try:
                memory.close()
                os.ftruncate(descriptor.number, end)
            finally:
                descriptor.unlock()

    def _check_size(self, needed: int) -> None:
        if needed > self.limits.max_bytes:
            raise BadInput(
                f"The frame needs a spool of {needed} bytes, and data_collection.spool.max_bytes is "
                f"{self.limits.max_bytes}."
            )

    def _make_room(self, needed: int, *, ending: bool = False) -> int:
        """Return once there is room for `needed` bytes, or raise.

        Args:
            ending: this process's segment is about to end, and to give back what it reserved and did not use.

        Returns:
            Bytes that are taken.
        """
        if needed >= self._refused and time.monotonic() < self._full_until:
            raise self._full()
        deadline = time.monotonic() + (self.limits.block_s if self.limits.when_full == "block" else 0.0)
        while True:
            looked = time.monotonic()
            used = spool_bytes(self.folder) - (self._end - self._offset if ending else 0)
            if used + needed <= self.limits.max_bytes:
                return used
            if self.limits.when_full == "drop_oldest" and (dropped := self._drop_oldest()) is not None:
                self._on_dropped(dropped)
                continue
            if (now := time.monotonic()) >= deadline:
                # Looking costs more than production may wait for each frame.
                self._full_until = now + max(_LOOK_AGAIN_S, _PAUSE_PER_LOOK * (now - looked))
                self._refused = needed
                raise self._full()
            time.sleep(_BLOCKED_PAUSE_S)

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
        for segment in segments(self.folder):
            if segment.stem == self._stem:
                # Our own is the oldest left: end it, so that it can go.
                self._end_segment()
            try:
                # Another user's cannot be dropped by us, and other programs' files are not ours to drop.
                if segment.is_ours() and segment.is_finished() and segment.lock():
                    unread = segment.count()
                    segment.remove()
                    return unread
            except (FileNotFoundError, PermissionError):
                continue
            finally:
                segment.unlock()
        return None

    def _after_fork(self) -> None:
        """The parent's segment must not be written to, nor its end cut off, by a child."""
        if self._memory is not None:
            self._memory.close()
        if self._descriptor is not None:
            self._descriptor.close()
        self._forget()


def _refused(error: OSError, folder: Path) -> StorageFull | Unavailable:
    if error.errno in _NO_SPACE:
        return SpoolFull(f"No space left in {folder}; the frame was not taken.")
    return Unavailable(f"Cannot write to the spool {folder}: {error.strerror}.")


_queues: "weakref.WeakSet[DataCollectionQueue]" = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for writer in list(_queues):
        writer._after_fork()


os.register_at_fork(after_in_child=_after_fork_in_child)
