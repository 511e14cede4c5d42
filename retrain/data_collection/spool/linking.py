"""How the image of a frame gets into the spool: as a hard link, or as a copy where there can be none."""

import errno
import os
import shutil
from pathlib import Path

_HARD_LINK_REFUSED = {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EACCES}


def link_or_copy(path: str | os.PathLike[str], target: str, descriptor: int) -> None:
    """Give a file, or what a symbolic link leads to, a second name; what has that name already goes.

    Args:
        descriptor: any open file of this process.

    Raises:
        OSError: neither is possible; a part of a copy may be left.
    """
    source = os.fspath(path)
    if not os.path.isabs(source):  # noqa: PTH117 - pathlib takes ten times as long, on the hot path
        source = os.path.abspath(source)  # noqa: PTH100
    try:
        try:
            # Given a descriptor, it follows symbolic links, as `os.stat` does; without one, Linux links to the link
            # itself. What the descriptor is of does not matter to an absolute path.
            os.link(source, target, src_dir_fd=descriptor)
        except FileExistsError:
            # Of a frame that was interrupted after it was linked: its record does not exist.
            Path(target).unlink()
            os.link(source, target, src_dir_fd=descriptor)
    except OSError as error:
        if error.errno not in _HARD_LINK_REFUSED:
            raise
        # Never onto what is there: that may be a link to somebody's file.
        Path(target).unlink(missing_ok=True)
        # With its times, by which a later change of the original is told from this copy.
        shutil.copy2(source, target)
