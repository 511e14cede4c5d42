"""Which files and how much of each video were offered already, so that a run that was stopped goes on where it was."""

import os
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from retrain.errors import BadInput, Unavailable

_WAIT_S = 30.0
_TABLE = """
CREATE TABLE IF NOT EXISTS offered (
    pass TEXT NOT NULL,
    path BLOB NOT NULL,
    bytes INTEGER NOT NULL,
    modified_ns INTEGER NOT NULL,
    frames INTEGER NOT NULL,
    finished INTEGER NOT NULL,
    PRIMARY KEY (pass, path)
) WITHOUT ROWID
"""


@dataclass(frozen=True)
class FileIdentity:
    """A file as it is now; written to, it is another one."""

    path: str
    bytes: int
    modified_ns: int

    @classmethod
    def of(cls, path: str) -> "FileIdentity":
        found = os.stat(path)  # noqa: PTH116 - names in a folder are plain strings, perhaps a million of them
        return cls(_absolute(path), found.st_size, found.st_mtime_ns)

    @property
    def name(self) -> str:
        """The path as text that can be shown and stored, whatever bytes it is made of."""
        return printable(self.path)


@dataclass(frozen=True)
class Offered:
    """How many frames of a file were offered, and whether that was all."""

    frames: int
    finished: bool


def printable(path: str) -> str:
    """A path as text, without what is no UTF-8."""
    return os.fsencode(path).decode("utf-8", "replace")


class Progress:
    """What one kind of pass has offered. Several processes may share the file.

    A frame is noted after it was taken or left, so a kill in between has it offered twice and never not at all. That a
    power cut keeps the note and loses the frame is for the spool to prevent (`SpoolLimits.sync`).
    """

    def __init__(self, file: Path, pass_name: str) -> None:
        """Open the file.

        Args:
            pass_name: names model and strategy; with others, the same files are offered again.

        Raises:
            BadInput: the file is no database of ours.
            Unavailable: it cannot be used.
        """
        self._file, self._pass = file, pass_name
        try:
            self._connection = sqlite3.connect(file, timeout=_WAIT_S, isolation_level=None)
        except sqlite3.Error as error:
            raise self._explained(error) from error
        try:
            for statement in ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=NORMAL", _TABLE):
                self._execute(statement)
        except BaseException:
            self._connection.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def offered(self, file: FileIdentity) -> Offered:
        """What is noted of the file as it is now."""
        query = "SELECT frames, finished FROM offered WHERE pass=? AND path=? AND bytes=? AND modified_ns=?"
        row = self._execute(
            query, (self._pass, os.fsencode(file.path), file.bytes, file.modified_ns)
        ).fetchone()
        return Offered(row[0], bool(row[1])) if row else Offered(0, finished=False)

    def note(self, file: FileIdentity, frames: int, *, finished: bool) -> None:
        """Remember that the first `frames` frames of the file are done."""
        values = (self._pass, os.fsencode(file.path), file.bytes, file.modified_ns, frames, finished)
        self._execute("INSERT OR REPLACE INTO offered VALUES (?, ?, ?, ?, ?, ?)", values)

    def forget(self, paths: Iterable[str]) -> None:
        """Offer these files again, all or, if the process is killed, none of them."""
        self._execute("BEGIN IMMEDIATE")
        try:
            for path in paths:
                named = (self._pass, os.fsencode(_absolute(path)))
                self._execute("DELETE FROM offered WHERE pass=? AND path=?", named)
            self._execute("COMMIT")
        except BaseException:
            self._connection.rollback()
            raise

    def _execute(self, statement: str, values: tuple[object, ...] = ()) -> sqlite3.Cursor:
        try:
            return self._connection.execute(statement, values)
        except sqlite3.Error as error:
            raise self._explained(error) from error

    def _explained(self, error: sqlite3.Error) -> Exception:
        if isinstance(error, sqlite3.OperationalError):
            return Unavailable(f"Cannot note progress in {self._file} ({error}); nothing else is lost.")
        return BadInput(f"{self._file} is damaged ({error}); delete it, then all files are offered again.")


def _absolute(path: str) -> str:
    return os.path.abspath(path)  # noqa: PTH100
