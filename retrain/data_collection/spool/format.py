"""How a spool lies on disk: what its writers and readers have to agree on.

A segment is a file of records, one behind the other: a header, a body and perhaps an image. Before the first, the
segment's own header counts the linked images, which lie in a folder beside it. A reader notes its position in a third
file.
"""

import os
import struct
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

SEGMENT_HEADER = struct.Struct("<8sQ")
"""Magic, bytes of all images that were linked beside the segment."""
SEGMENT_MAGIC = b"RETSPOL2"
HEADER = struct.Struct("<4sIIIQ")
"""Magic, `checksum`, bytes of the body, flags, bytes of the image."""
MAGIC = b"RSP2"
LINKED = 1
"""Flag: the image is a file in the segment's folder, named by the record's offset; none of its bytes follow."""
SEGMENT, IMAGES, POSITION, READING = ".spool", ".images", ".position", ".reading"
_CHECKSUM_START = 0x5350_4F4C


def checksum(body: bytes | bytearray, image: bytes, flags: int, image_bytes: int) -> int:
    """CRC-32 of a record's body, of the image behind it, and of what its header says about the image."""
    # Never 0 for an empty record: magic before zeros, a header half seen, must not look like one.
    check = crc32(body, _CHECKSUM_START ^ image_bytes ^ flags)
    return crc32(image, check) if image else check


class Position(NamedTuple):
    """How far a segment was consumed.

    Attributes:
        end: byte up to which everything is done.
        released: bytes of the linked images before it, which are deleted.
    """

    end: int
    released: int


START = Position(SEGMENT_HEADER.size, 0)


def read_position(segment: Path) -> Position:
    """What the reader of a segment noted, `START` if nothing yet.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        end, released = map(int, segment.with_suffix(POSITION).read_bytes().split())
        room = segment.stat().st_size
    except FileNotFoundError:
        return START
    if not START.end <= end <= room or released < 0:
        raise ValueError(f"position {end} of {room} bytes, {released} bytes of images released")
    return Position(end, released)


def spool_bytes(folder: Path) -> int:
    """Bytes of all segments and images of a spool, also of segments that wait only to be removed.

    No image is looked at: a full spool holds a great many, and production waits for this.
    """
    total = 0
    with os.scandir(folder) as found:
        entries = {entry.name: entry for entry in found}
    for name, entry in entries.items():
        if name.endswith(SEGMENT):
            try:
                total += entry.stat().st_size
                if name.removesuffix(SEGMENT) + IMAGES in entries:
                    total += _waiting_image_bytes(folder / name)
            except FileNotFoundError:
                continue  # a reader just removed it
    return total


def _waiting_image_bytes(segment: Path) -> int:
    try:
        with segment.open("rb", buffering=0) as file:
            head = file.read(SEGMENT_HEADER.size)
    except PermissionError:
        return 0  # another user's; whoever drains says so
    if len(head) < SEGMENT_HEADER.size or not head.startswith(SEGMENT_MAGIC):
        return 0
    try:
        released = read_position(segment).released
    except (ValueError, PermissionError):
        released = 0  # all of it is read again
    return max(0, int(SEGMENT_HEADER.unpack(head)[1]) - released)
