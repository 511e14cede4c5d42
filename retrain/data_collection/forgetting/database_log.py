"""What a database keeps of deleted rows outside its tables."""

import sqlite3
from contextlib import closing

from retrain.storage.state import StateStore

_WAIT_S = 5.0


def empty_log(state: StateStore) -> str:
    """Empty SQLite's write-ahead log, which holds deleted rows as they were as long as any process has it open.

    Returns:
        What is left of them, in words; empty when nothing is.
    """
    with state.read() as connection:
        url = connection.engine.url
    if url.get_backend_name() != "sqlite":
        return (
            "Postgres keeps the deleted rows (metadata and likenesses, no images) until it vacuums the tables, and in "
            "its log and backups as long as it keeps those."
        )
    try:
        # Not inside a transaction, which is all that the state gives.
        with closing(sqlite3.connect(str(url.database), timeout=_WAIT_S)) as own:
            busy = own.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    except sqlite3.OperationalError as error:
        return _left(str(url.database), str(error))
    return _left(str(url.database), "another process reads or writes") if busy else ""


def _left(database: str, why: str) -> str:
    return (
        f"{database}-wal may still hold the deleted rows (metadata and likenesses, no images), because it could not "
        f"be emptied ({why}); run the same command again."
    )
