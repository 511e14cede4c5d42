"""Small real videos, lossless, so that each frame can be told from the others."""

import cv2
import numpy as np

SIZE = 16
FPS = 10


def write_video(path, frames, first=0, codec="FFV1"):
    """Frame `i` is grey of brightness `4 * (first + i)`."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), FPS, (SIZE, SIZE))
    assert writer.isOpened()
    for number in range(first, first + frames):
        writer.write(np.full((SIZE, SIZE, 3), 4 * number, np.uint8))
    writer.release()
    return path


def brightness(frame):
    """The number that `write_video` gave a frame."""
    return int(frame.image[0, 0, 0]) // 4
