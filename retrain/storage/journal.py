"""What happened, in order: the append-only record that a run repeated after a crash cannot double."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, insert, select

from retrain.errors import BadInput
from retrain.storage.schema import journal
from retrain.storage.state import StateStore


@dataclass(frozen=True)
class JournalEntry:
    """One thing that happened; `seq` grows with time, may skip numbers, and is shared by all streams."""

    seq: int
    stream: str
    key: str
    kind: str
    payload: Mapping[str, Any]
    at: float


class Journal:
    """One named stream of entries. Any number of threads and processes may append to it."""

    def __init__(self, state: StateStore, stream: str) -> None:
        self._state = state
        self._stream = _short_text("stream", stream)

    def append(
        self,
        key: str,
        kind: str,
        payload: Mapping[str, Any],
        now: float,
        connection: Connection | None = None,
    ) -> bool:
        """Record something unless `key` is already in this stream, whose entry then stays as it is.

        Args:
            key: names the fact, e.g. "cycle-3/promoted"; the same on every retry.
            payload: JSON values only; NaN and infinity are not JSON.
            connection: an open `StateStore.write()`, to record and act in one transaction.

        Returns:
            Whether an entry was added.
        """
        row = {
            "stream": self._stream,
            "key": _short_text("key", key),
            "kind": _short_text("kind", kind),
            "payload": _json(payload),
            "at": now,
        }
        if connection is not None:
            return self._append(connection, row)
        with self._state.write() as own:
            return self._append(own, row)

    def entries(self, kind: str | None = None) -> list[JournalEntry]:
        """All entries, oldest first, or those of one kind."""
        query = select(journal).where(journal.c.stream == self._stream).order_by(journal.c.seq)
        if kind is not None:
            query = query.where(journal.c.kind == kind)
        with self._state.read() as connection:
            return [JournalEntry(**row) for row in connection.execute(query).mappings()]

    def _append(self, connection: Connection, row: dict[str, Any]) -> bool:
        # Looking first is enough: the write lock keeps everybody else out until we commit.
        same = select(journal.c.seq).where(journal.c.stream == row["stream"], journal.c.key == row["key"])
        if connection.execute(same).first() is not None:
            return False
        connection.execute(insert(journal).values(row))
        return True


def _short_text(column: str, value: str) -> str:
    # SQLite would take any length and Postgres would refuse: refuse on both.
    longest = journal.c[column].type.length  # type: ignore[attr-defined]
    if not value or len(value) > longest or "\0" in value:
        raise BadInput(f"Journal {column} must be 1 to {longest} characters without NUL, but got {value!r}.")
    return value


def _json(payload: Mapping[str, Any]) -> Any:
    try:
        return json.loads(json.dumps(dict(payload), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise BadInput(f"Journal payload must be JSON values ({error}), but got {payload!r}.") from error
