"""How a spool lies on disk: what its writers and readers have to agree on.

A segment is a file of records, one behind the other: a header, a body and perhaps an image. Linked images lie in a
folder beside it, and a reader notes its position in a third file.
"""

import os
import struct
import zlib
from pathlib import Path

HEADER = struct.Struct("<4sIIIQ")
"""Magic, `checksum`, bytes of the body, flags, bytes of the image."""
_CHECKSUM_START = 0x5350_4F4C
MAGIC = b"RSP1"
LINKED = 1
"""Flag: the image is a file in the segment's folder, named by the record's offset."""
SEGMENT, IMAGES, POSITION = ".spool", ".images", ".position"


def checksum(body: bytes | bytearray, flags: int, image_bytes: int) -> int:
    """CRC-32 of a record's body and of what its header says about its image."""
    # Never 0 for an empty record: magic before zeros, a header half seen, must not look like one.
    return zlib.crc32(body, _CHECKSUM_START ^ image_bytes ^ flags)


def spool_bytes(folder: Path) -> int:
    """Bytes of all segments and images of a spool, also those that wait only to be removed."""
    total = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                if entry.name.endswith(IMAGES):
                    with os.scandir(entry.path) as images:
                        total += sum(image.stat().st_size for image in images)
                elif entry.name.endswith(SEGMENT):
                    total += entry.stat().st_size
            except FileNotFoundError:
                continue  # a reader just removed it
    return total
