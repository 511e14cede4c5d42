"""The files of an import, found once; nothing outside the folder is ever opened, whatever a link or a name says."""

import os
import posixpath
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from retrain.dataset.formats.labelled import Problem
from retrain.errors import BadInput

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
_SKIPPED_FOLDERS = frozenset({"__MACOSX"})


class Tree:
    """Regular files below a folder, by their path in it (with slashes); hidden ones are left out.

    Links to files inside the folder count as files; links to folders are not followed (so loops cannot occur) and
    those that lead outside are reported.

    Raises:
        BadInput: it is no folder or cannot be listed.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.realpath(root))
        if not self.root.is_dir():
            raise BadInput(f"Datasets are imported from a folder, got {root}, which is none.")
        self.files: set[str] = set()
        self.folders: set[str] = {""}
        self.problems: list[Problem] = []
        self._normal: dict[str, str] | None = None
        self._walk()

    @classmethod
    def of(cls, given: "Path | str | Tree") -> "Tree":
        return given if isinstance(given, Tree) else cls(Path(given))

    def path(self, file: str) -> Path:
        return self.root / file

    def below(self, folder: str) -> list[str]:
        """All files in this folder and those in it, sorted."""
        prefix = f"{folder}/" if folder else ""
        return sorted(file for file in self.files if file.startswith(prefix))

    def images(self, folder: str = "") -> list[str]:
        return [file for file in self.below(folder) if is_image(file)]

    def find(self, name: str, folders: Iterable[str] = ("",)) -> list[str]:
        """Files that `name` means when read in each of these folders, without repetition.

        Unicode names match also when one is composed and the other decomposed, as archives from macOS have them.

        Raises:
            BadInput: the name leads outside, and is nowhere inside.
        """
        found, is_outside = [], False
        for place in self.places(name, folders):
            if place is None:
                is_outside = True
            elif (file := self._file(place)) is not None and file not in found:
                found.append(file)
        if is_outside and not found:
            raise BadInput(f"{name!r} leads outside the imported folder")
        return found

    def places(self, name: str, folders: Iterable[str]) -> list[str | None]:
        """`name` read in each folder, as a path in this tree; None where it leads outside."""
        plain = name.replace("\\", "/")
        if posixpath.isabs(plain):
            inside = posixpath.relpath(plain, self.root.as_posix())
            return [None if _leads_out(inside) else inside]
        joined = [posixpath.normpath(posixpath.join(folder, plain)) for folder in folders]
        return [None if _leads_out(place) else "" if place == "." else place for place in joined]

    def _file(self, place: str) -> str | None:
        if place in self.files:
            return place
        if place.isascii():
            return None
        if self._normal is None:
            self._normal = {unicodedata.normalize("NFC", file): file for file in self.files}
        return self._normal.get(unicodedata.normalize("NFC", place))

    def _walk(self) -> None:
        waiting = [""]
        while waiting:
            folder = waiting.pop()
            try:
                entries = list(os.scandir(self.root / folder))
            except OSError as e:
                raise BadInput(f"Cannot list {self.root / folder}: {e.strerror}.") from e
            for entry in entries:
                name = posixpath.join(folder, entry.name)
                if entry.name.startswith("."):
                    continue
                if not _is_utf8(entry.name):
                    self._report(name, "has a name that is not UTF-8")
                elif entry.is_dir(follow_symlinks=False):
                    if entry.name not in _SKIPPED_FOLDERS:
                        self.folders.add(name)
                        waiting.append(name)
                elif reason := self._refusal(entry):
                    self._report(name, reason)
                else:
                    self.files.add(name)

    def _refusal(self, entry: "os.DirEntry[str]") -> str:
        if not entry.is_symlink():
            # Opening a pipe would wait for ever.
            return "" if entry.is_file() else "is neither a file nor a folder"
        target = os.path.realpath(entry.path)
        if Path(target).is_dir():
            return "is a link to a folder, which is not followed"
        if not Path(target).is_file():
            return "is a link that leads nowhere"
        if _leads_out(os.path.relpath(target, self.root)):
            return "is a link that leads outside the imported folder; replace it by the file itself"
        return ""

    def _report(self, name: str, reason: str) -> None:
        shown = name.encode(errors="surrogateescape").decode(errors="replace")
        self.problems.append(Problem(shown, "", reason, "image" if is_image(name) else "nothing"))


def is_image(file: str) -> bool:
    return posixpath.splitext(file)[1].lower() in IMAGE_SUFFIXES


def _leads_out(place: str) -> bool:
    return place == ".." or place.startswith("../")


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
