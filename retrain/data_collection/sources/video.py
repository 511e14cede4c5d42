"""Frames of video files, cameras and network streams, through OpenCV."""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from retrain.data_collection.sources.frame import DoneBefore, Item, SourceFrame, Unusable
from retrain.data_collection.sources.progress import FileIdentity, Progress
from retrain.errors import Unavailable

logger = logging.getLogger(__name__)

_WHOLE = 0.9
"""Share of the stated frames from which on a video that ends is taken to be whole."""


def video_length(path: str) -> int | None:
    """Frames of a video as its header says; None when it cannot be opened or does not say."""
    with _opened(path) as capture:
        if capture is None:
            return None
        stated = int(capture.get(_cv2().CAP_PROP_FRAME_COUNT))
        return stated if stated > 0 else None


def is_readable_video(path: str) -> bool:
    """Whether the first frame can be decoded."""
    with _opened(path) as capture:
        return capture is not None and bool(capture.grab())


def video_frames(file: FileIdentity, camera: str, recording: str, progress: Progress) -> Iterator[Item]:
    """Every frame of a video file that was not offered before, in order.

    One that ends well before its stated length is not noted as finished: the next run goes on from there.
    """
    before = progress.offered(file)
    if before.frames:
        yield DoneBefore(before.frames)
    if before.finished:
        return
    with _opened(file.path) as capture:
        if capture is None:
            yield Unusable(file.name, "cannot be opened as a video")
            return
        number = before.frames
        began_at, frame_s = _timing(capture, file)
        # Jumping to a frame number misses by some frames in many formats.
        for _ in range(number):
            capture.grab()
        while (pixels := _read(capture)) is not None:
            at = began_at + number * frame_s
            yield SourceFrame(f"{file.name} frame {number}", camera, recording, at, pixels, number)
            number += 1
            progress.note(file, number, finished=False)
    if not number:
        yield Unusable(file.name, "no frame of it can be read")
    elif not _ended_early(file, number):
        progress.note(file, number, finished=True)


class Stream:
    """A camera or network stream, of which only the newest frame counts: what is sent meanwhile is passed over."""

    def __init__(
        self, address: int | str, camera: str | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        """Not connected yet.

        Args:
            address: the index of a camera of this machine, or a URL such as rtsp://host/stream.
        """
        self._address, self._clock = address, clock
        self.name = f"camera-{address}" if isinstance(address, int) else _without_secrets(address)
        self._camera = camera or self.name

    def count(self) -> None:
        """Nobody knows."""

    def offer_again(self, _progress: Progress, /) -> None:
        """Does nothing: no frame comes twice."""

    def frames(self, _progress: Progress, /) -> Iterator[Item]:
        """Frames until the stream ends.

        Raises:
            Unavailable: it cannot be opened, or it ended.
        """
        number = 0
        with _opened(self._address) as capture:
            if capture is None:
                raise Unavailable(f"{self.name} cannot be opened; is it there, and may it be used?")
            newest = _NewestFrame(capture)
            try:
                while (pixels := newest.take()) is not None:
                    now = self._clock()
                    day = datetime.fromtimestamp(now, UTC).date()
                    recording = f"{self._camera}/{day}"
                    yield SourceFrame(
                        f"{self.name} frame {number}", self._camera, recording, now, pixels, number
                    )
                    number += 1
            finally:
                newest.stop()
        raise Unavailable(f"{self.name} ended after {number} frames.")


class _NewestFrame:
    """Reads as fast as the stream sends, in a thread; otherwise frames queue up and get older and older."""

    def __init__(self, capture: Any) -> None:
        self._capture = capture
        self._changed = threading.Condition()
        self._frame: NDArray[np.uint8] | None = None
        self._stopped = self._ended = False
        self._thread = threading.Thread(target=self._run, name="stream-reader", daemon=True)
        self._thread.start()

    def take(self) -> NDArray[np.uint8] | None:
        """The newest frame not taken yet, waiting for one if need be; None once the stream has ended."""
        with self._changed:
            self._changed.wait_for(lambda: self._frame is not None or self._ended)
            frame, self._frame = self._frame, None
            return frame

    def stop(self) -> None:
        self._stopped = True
        # A capture must not be released while it reads; OpenCV gives up on a silent stream after 30 s.
        self._thread.join()

    def _run(self) -> None:
        frame: NDArray[np.uint8] | None = None
        while not self._stopped and (frame := _read(self._capture)) is not None:
            with self._changed:
                self._frame = frame
                self._changed.notify()
        with self._changed:
            self._ended = True
            self._changed.notify()


@contextmanager
def _opened(address: int | str) -> Iterator[Any]:
    """An OpenCV capture, or None when it cannot be opened."""
    cv2 = _cv2()
    # Named, because by default a % in a file's name would make it a pattern of image files.
    capture = cv2.VideoCapture(address, cv2.CAP_ANY if isinstance(address, int) else cv2.CAP_FFMPEG)
    try:
        yield capture if capture.isOpened() else None
    finally:
        capture.release()


def _cv2() -> Any:
    # Both print to standard error what our own messages say better.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    import cv2

    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    return cv2


def _read(capture: Any) -> NDArray[np.uint8] | None:
    read, pixels = capture.read()
    return pixels if read else None


def _timing(capture: Any, file: FileIdentity) -> tuple[float, float]:
    """When the video began, and seconds per frame; a camera writes to its file until it ends."""
    cv2 = _cv2()
    rate, frames = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
    frame_s = 1.0 / rate if rate > 0 else 0.0
    return file.modified_ns / 1e9 - max(frames, 0.0) * frame_s, frame_s


def _ended_early(file: FileIdentity, read: int) -> bool:
    """Whether its end was not about reached: its storage may only have failed for a moment."""
    stated = video_length(file.path)
    # Headers of some formats only estimate the number.
    if stated is None or read >= _WHOLE * stated:
        return False
    logger.warning(
        "%s ended after %d of %d frames; the next run goes on from there. Is it damaged?",
        file.name,
        read,
        stated,
    )
    return True


def _without_secrets(url: str) -> str:
    """Host and path; user, password and query may hold what must not be stored with every frame."""
    parts = urlsplit(url)
    return f"{(parts.hostname or '')}{f':{parts.port}' if parts.port else ''}{parts.path}"[:200]
