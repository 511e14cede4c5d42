"""Where `retrain collect` takes frames from: folders, globs, files, lists of paths, cameras and streams."""

import glob
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from retrain.data_collection.sources.frame import DoneBefore, Item, Source, SourceFrame, Unusable
from retrain.data_collection.sources.progress import FileIdentity, Progress, printable
from retrain.data_collection.sources.video import Stream, is_readable_video, video_frames, video_length
from retrain.errors import BadInput, NotFound

IMAGES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})
VIDEOS = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".ts", ".wmv"})
PATHS_ON_STDIN = "-"
_STREAMS = ("rtsp", "rtsps", "rtmp", "rtp", "http", "https", "udp", "tcp", "srt")
# What the columns of the sample index hold.
_CAMERA_LENGTH, _RECORDING_LENGTH = 200, 300


class Files:
    """Image and video files, each offered once as long as nobody writes to it."""

    def __init__(self, paths: Iterable[str], camera: str | None = None) -> None:
        """Nothing is opened yet.

        Args:
            paths: any number, in this order; perhaps ones that are only just being written to standard input.
            camera: of all frames. By default the folder of an image, which is its recording too, and for a video its
                own name; a video is a recording of its own.
        """
        self._paths, self._camera, self._again = paths, camera, False

    def count(self) -> int | None:
        if not isinstance(self._paths, Sequence):
            return None
        total = 0
        for path in self._paths:
            frames = video_length(path) if _suffix(path) in VIDEOS else 1
            if frames is None:
                return None
            total += frames
        return total

    def offer_again(self, progress: Progress, /) -> None:
        if isinstance(self._paths, Sequence):
            progress.forget(self._paths)
        else:
            # They are known only when they come.
            self._again = True

    def frames(self, progress: Progress, /) -> Iterator[Item]:
        """Frames of all files; one that cannot be used does not stop the others."""
        for path in self._paths:
            if self._again:
                progress.forget([path])
            try:
                file = FileIdentity.of(path)
            except (OSError, ValueError) as error:
                yield _unreadable(printable(path), error)
            else:
                yield from self._of_file(file, progress)

    def _of_file(self, file: FileIdentity, progress: Progress) -> Iterator[Item]:
        path, suffix = Path(file.path), _suffix(file.path)
        if suffix in VIDEOS:
            camera = self._camera or _ending(path.stem, _CAMERA_LENGTH)
            yield from video_frames(file, camera, _ending(file.path, _RECORDING_LENGTH), progress)
        elif suffix in IMAGES:
            yield from self._of_image(file, path, progress)
        else:
            yield Unusable(file.name, f"is neither an image nor a video; known are {_known()}")

    def _of_image(self, file: FileIdentity, path: Path, progress: Progress) -> Iterator[Item]:
        if progress.offered(file).finished:
            yield DoneBefore(1)
            return
        try:
            image = path.read_bytes()
        except OSError as error:
            yield _unreadable(file.name, error)
            return
        camera = self._camera or _ending(path.parent.name, _CAMERA_LENGTH)
        recording = _ending(str(path.parent), _RECORDING_LENGTH)
        yield SourceFrame(file.name, camera, recording, file.modified_ns / 1e9, image)
        progress.note(file, 1, finished=True)


def open_source(
    text: str,
    *,
    camera: str | None = None,
    leave_out: Path | None = None,
    stdin: Iterable[str] = (),
    clock: Callable[[], float] = time.time,
) -> Source:
    """The source that a person named.

    Args:
        text: a folder (with all folders in it), a file, a glob, the index of a camera, the URL of a stream, or `-` for
            paths on standard input, one a line.
        camera: name of the camera, instead of one made from the source.
        leave_out: a folder that is not searched, because the samples go there.

    Raises:
        NotFound: nothing of that name exists.
        BadInput: there is no image or video in it, or it cannot be read.
    """
    if text == PATHS_ON_STDIN:
        return Files((line.rstrip("\r\n") for line in stdin if line.strip()), camera)
    if text.isdecimal():
        return Stream(int(text), camera, clock)
    if "://" in text:
        return Stream(_stream(text), camera, clock)
    return Files(_found(text, leave_out), camera)


def _found(text: str, leave_out: Path | None) -> list[str]:
    if os.path.isdir(text):  # noqa: PTH112
        paths = list(_walk(text, leave_out))
        if not paths:
            raise BadInput(f"There is no image or video in {text}; known are {_known()}.")
        return paths
    if os.path.exists(text):  # noqa: PTH110
        _check_file(text)
        return [text]
    paths = [path for path in sorted(glob.glob(text, recursive=True)) if _suffix(path) in IMAGES | VIDEOS]  # noqa: PTH207
    if not paths:
        what = "No image or video matches" if glob.has_magic(text) else "There is no file, folder or camera"
        raise NotFound(f"{what} {text}.")
    return paths


def _walk(folder: str, leave_out: Path | None) -> Iterator[str]:
    """Images and videos below a folder by name, without hidden ones; links to folders are not followed."""
    for here, folders, files in os.walk(folder, onerror=_refuse):
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and not _same(here, name, leave_out)
        )
        for name in sorted(files):
            if not name.startswith(".") and _suffix(name) in IMAGES | VIDEOS:
                yield os.path.join(here, name)  # noqa: PTH118


def _refuse(error: OSError) -> None:
    raise error


def _same(here: str, name: str, folder: Path | None) -> bool:
    return folder is not None and os.path.realpath(os.path.join(here, name)) == os.path.realpath(folder)  # noqa: PTH118


def _check_file(path: str) -> None:
    suffix = _suffix(path)
    if suffix in VIDEOS and not is_readable_video(path):
        raise BadInput(f"{path} cannot be read as a video.")
    if suffix not in IMAGES | VIDEOS:
        raise BadInput(f"{path} is neither an image nor a video; known are {_known()}.")


def _stream(url: str) -> str:
    scheme = url.split("://", maxsplit=1)[0].lower()
    if scheme not in _STREAMS:
        raise BadInput(f"Frames cannot be read from {scheme}://; known are {', '.join(_STREAMS)}.")
    return url


def _unreadable(name: str, error: OSError | ValueError) -> Unusable:
    return Unusable(name, f"cannot be read: {getattr(error, 'strerror', None) or error}")


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()  # noqa: PTH122


def _known() -> str:
    return ", ".join(sorted(IMAGES | VIDEOS))


def _ending(name: str, length: int) -> str:
    """The end of a name, as much as the index holds of it."""
    return printable(name)[-length:] or "unknown"
