"""Takes out of a spool what was stored or refused: a segment keeps the bytes of its records until it is done."""

import os
import time

from retrain.data_collection.background import SpoolDrainer
from retrain.data_collection.spool.drain_pass import lock_segment, only_one
from retrain.data_collection.spool.format import IMAGES, START
from retrain.data_collection.spool.reader import SpoolSegment, segments
from retrain.errors import Unavailable

_ZEROS = bytes(2**20)
_LOCKED_S = 5.0


def scrub(drainer: SpoolDrainer) -> int:
    """Drain the spool, then write zeros over every record that was read.

    Other drainers wait meanwhile, producers do not. Written in place: a file system that copies on write, or a
    solid-state disk, may keep the old blocks for a while.

    Returns:
        How many waiting records were refused because they are forgotten.

    Raises:
        RetrainError: the store does not take what waits, or a segment cannot be cleared; nothing is lost, call again.
    """
    report = drainer.drain(wait=True)
    deadline = time.monotonic() + _LOCKED_S
    with only_one(drainer.spool, wait=True):
        for segment in segments(drainer.spool):
            # Locked by nobody but a producer that is just dropping it.
            if why := lock_segment(segment, deadline):
                raise Unavailable(f"What was read of a segment is not cleared: {why}.")
            try:
                _scrub(segment)
            except FileNotFoundError:
                continue  # dropped
            finally:
                segment.unlock()
    return report.outcomes["forgotten"]


def _scrub(segment: SpoolSegment) -> None:
    end = segment.position.end
    images = segment.path.with_name(segment.stem + IMAGES)
    for image in images.iterdir() if images.is_dir() else ():
        if int(image.name) < end:
            image.unlink(missing_ok=True)
    with segment.path.open("r+b") as file:
        file.seek(START.end)
        for start in range(START.end, end, len(_ZEROS)):
            file.write(_ZEROS[: end - start])
        file.flush()
        os.fsync(file.fileno())
