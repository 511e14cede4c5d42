"""Takes out of a spool what was stored or refused: a segment keeps the bytes of its records until it is done."""

import os

from retrain.data_collection.background import SpoolDrainer
from retrain.data_collection.spool.drain_pass import only_one
from retrain.data_collection.spool.format import IMAGES
from retrain.data_collection.spool.reader import SpoolSegment, segments

_ZEROS = bytes(2**20)


def scrub(drainer: SpoolDrainer) -> int:
    """Drain the spool, then write zeros over every record that was read.

    Other drainers wait meanwhile, producers do not. Written in place: a file system that copies on write, or a
    solid-state disk, may keep the old blocks for a while.

    Returns:
        How many waiting records were refused because they are forgotten.

    Raises:
        RetrainError: the store does not take what waits; nothing is lost, call again.
    """
    report = drainer.drain(wait=True)
    with only_one(drainer.spool, wait=True):
        for segment in segments(drainer.spool):
            # Locked by nobody but a producer that is just dropping it.
            if segment.lock():
                try:
                    _scrub(segment)
                finally:
                    segment.unlock()
    return report.outcomes["forgotten"]


def _scrub(segment: SpoolSegment) -> None:
    end = segment.position
    images = segment.path.with_name(segment.stem + IMAGES)
    for image in images.iterdir() if images.is_dir() else ():
        if int(image.name) < end:
            image.unlink(missing_ok=True)
    with segment.path.open("r+b") as file:
        for start in range(0, end, len(_ZEROS)):
            file.write(_ZEROS[: end - start])
        file.flush()
        os.fsync(file.fileno())
