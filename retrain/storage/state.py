"""The relational state: SQLite (WAL) on one machine, Postgres when it outgrows it, through SQLAlchemy Core.

The contract is the same on both:

* One writer at a time per database. `write()` waits for its turn (up to 30 s) *before* the first statement,
  so whatever it reads stays true until it commits. There are no serialisation failures, hence nothing to
  retry; keep the block short and free of network calls, because every other writer waits for it.
* `read()` sees one committed state, never waits for a writer and never delays one. It cannot write.
* A block that raises leaves nothing behind. `Unavailable` raised at the very end may hide a commit that did
  happen (a dropped connection), so what runs inside must be safe to run again.
* A store may be shared by threads and survives `fork` (each side gets its own connections); fork outside a
  transaction. SQLite needs a local disk: its locks do not work over NFS.
"""

import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from retrain.errors import BadInput, ConfigError, RetrainError, StorageFull, Unavailable
from retrain.storage.schema import metadata

LOCK_WAIT_S = 30
_WRITES = "retrain_writes"
# Any constant will do, as long as every Retrain process uses the same one.
_WRITER_LOCK = 0x7265_7472_6169_6E


class StateStore:
    """Tables of `schema.py` behind one engine; see the module for what callers may rely on."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._place = _place(engine.url)
        self._this_thread = threading.local()
        _open_stores.add(self)

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction that holds the write lock from its start: what it read stays true until it commits.

        Raises:
            StorageFull: no space; the transaction was undone.
            Unavailable: the database does not answer, or another writer kept the lock for 30 s.
            BadInput: this thread is already inside `write()`, and would wait for itself.
        """
        if getattr(self._this_thread, "writes", False):
            raise BadInput(
                "write() inside write() would wait for itself: pass the open connection on instead."
            )
        self._this_thread.writes = True
        try:
            with self._transaction(writes=True) as connection:
                yield connection
        finally:
            self._this_thread.writes = False

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One consistent view; a statement that would write raises `BadInput`."""
        with self._transaction(writes=False) as connection:
            yield connection

    def close(self) -> None:
        self._engine.dispose()

    @contextmanager
    def _transaction(self, *, writes: bool) -> Iterator[Connection]:
        try:
            with self._engine.connect() as connection:
                connection.execution_options(**{_WRITES: writes})
                with connection.begin():
                    yield connection
        except (DBAPIError, sqlite3.Error, PoolTimeout) as error:
            if (explained := _explain(error, self._place, writes=writes)) is None:
                raise
            raise explained from error


def open_state(url: str | URL) -> StateStore:
    """Connect and create missing tables; safe when several processes do it at once.

    Args:
        url: `sqlite:///<path>` or `postgresql://user:password@host:port/database`.

    Raises:
        ConfigError: the URL names no database that Retrain can use, or one that another version of it made.
        Unavailable: the folder is not writable, or the server does not answer.
    """
    parsed = _parse(url)
    store = StateStore(_sqlite(parsed) if parsed.get_backend_name() == "sqlite" else _postgres(parsed))
    try:
        with store.read() as connection:
            found = _columns(connection)
        _check_columns(found, store._place)
        if not set(metadata.tables) <= found.keys():
            with store.write() as connection:
                metadata.create_all(connection)
    except BaseException:
        store.close()
        raise
    return store


def _columns(connection: Connection) -> dict[str, set[str]]:
    """Of the tables that are there."""
    found = inspect(connection).get_multi_columns()
    return {table: {column["name"] for column in columns} for (_schema, table), columns in found.items()}


def _check_columns(found: Mapping[str, set[str]], place: str) -> None:
    for table in metadata.sorted_tables:
        missing = sorted({column.name for column in table.c} - found.get(table.name, set(table.c.keys())))
        if missing:
            raise ConfigError(
                f"The {place} was made by another version of Retrain: its table {table.name} has no "
                f"{', '.join(missing)}. Nothing was changed; go on with that version, or name another state by "
                "RETRAIN_HOME or storage.state_url."
            )


def _parse(url: str | URL) -> URL:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:
        # The text itself is not shown: it may hold a password.
        raise ConfigError("The state URL cannot be read; write sqlite:///<path> or postgresql://…") from error
    if parsed.drivername in {"postgres", "postgresql", "postgresql+psycopg"}:
        return parsed.set(drivername="postgresql+psycopg")
    if parsed.get_backend_name() != "sqlite":
        raise ConfigError(
            f"State cannot be kept in {parsed.drivername!r}; use sqlite:///<path> or postgresql://…"
        )
    if parsed.database in {None, "", ":memory:"}:
        raise ConfigError("State in memory would be lost and unshared; name a file: sqlite:///<path>")
    return parsed.set(database=str(Path(parsed.database or "").absolute()))


def _sqlite(url: URL) -> Engine:
    path = Path(url.database or "")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Unavailable(f"Cannot create {path.parent} for the state file: {error.strerror}.") from error
    # Readers never queue, so the pool must not make them: writers waiting for the lock hold connections.
    engine = create_engine(url, connect_args={"timeout": LOCK_WAIT_S}, max_overflow=-1)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None
    deadline = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            break
        except sqlite3.OperationalError as error:
            # The switch to WAL does not use the busy timeout: processes that start together must wait here.
            if not _code(error).startswith("SQLITE_BUSY") or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
    connection.execute("PRAGMA synchronous=FULL")


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql(f"PRAGMA query_only={'OFF' if writes else 'ON'}")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _postgres(url: URL) -> Engine:
    try:
        engine = create_engine(
            url,
            connect_args={"connect_timeout": 10},
            pool_pre_ping=True,
            max_overflow=20,
            hide_parameters=True,
        )
    except (ModuleNotFoundError, NoSuchModuleError) as error:
        raise ConfigError("State in Postgres needs psycopg: pip install 'retrain[postgres]'.") from error
    event.listen(engine, "begin", _begin_postgres)
    return engine


def _begin_postgres(connection: Connection) -> None:
    if not connection.get_execution_options().get(_WRITES, False):
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        return
    # A process frozen inside a transaction must not hold up all the others for ever.
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{LOCK_WAIT_S}s'")
    connection.exec_driver_sql(f"SET LOCAL idle_in_transaction_session_timeout = '{2 * LOCK_WAIT_S}s'")
    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_WRITER_LOCK})")


def _place(url: URL) -> str:
    """The database in words, without user, password or query."""
    if url.get_backend_name() == "sqlite":
        return f"state file {url.database}"
    return f"Postgres at {url.host or 'localhost'}:{url.port or 5432}/{url.database or ''}"


def _code(error: BaseException) -> str:
    return getattr(error, "sqlite_errorname", None) or getattr(error, "sqlstate", None) or ""


def _explain(error: Exception, place: str, *, writes: bool) -> RetrainError | None:
    """Our error for what the database reported; None for mistakes in the statement itself."""
    original = getattr(error, "orig", None) or error
    code = _code(original)
    said = " ".join(str(original).split())
    if code in {"SQLITE_FULL", "53100"} or (code.startswith("SQLITE_IOERR") and _is_full(place)):
        return StorageFull(
            f"No space left for the {place}; the transaction was undone. Free some space and retry."
        )
    if not writes and (code.startswith("SQLITE_READONLY") or code == "25006"):
        return BadInput(f"read() on the {place} was asked to write ({said}); use write().")
    if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")) or code == "55P03":
        return Unavailable(
            f"Another process kept the {place} locked for {LOCK_WAIT_S} s; is one stuck? ({said})"
        )
    if code in {"SQLITE_NOTADB", "SQLITE_CORRUPT"}:
        return BadInput(
            f"The {place} is damaged or no SQLite database ({said}); move it away or name another."
        )
    if code.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_PERM", "SQLITE_IOERR")):
        return Unavailable(f"Cannot use the {place} ({said}); check that its folder exists and is writable.")
    lost = isinstance(error, DBAPIError) and error.connection_invalidated
    # Classes: 08 connection, 28 login, 3D no such database, 42501 no right, 53 resources, 57 shut down.
    refused = code.startswith(("08", "28", "3D", "42501", "53", "57", "25P03"))
    no_answer = not code and type(original).__name__ == "OperationalError"
    if lost or refused or no_answer or isinstance(error, PoolTimeout):
        return Unavailable(f"The {place} does not answer ({said}); check that it runs and the URL is right.")
    return None


def _is_full(place: str) -> bool:
    """SQLite reports a full disk as a plain I/O error when it cannot grow its shared-memory file."""
    folder = Path(place.removeprefix("state file ")).parent
    usage = os.statvfs(folder)
    return usage.f_bavail * usage.f_frsize < 64 * 1024


_open_stores: "weakref.WeakSet[StateStore]" = weakref.WeakSet()


def _close_idle_connections() -> None:
    # A child that inherits an open SQLite connection believes in locks that only its parent holds.
    for store in list(_open_stores):
        store._engine.dispose()


def _forget_connections() -> None:
    for store in list(_open_stores):
        store._engine.dispose(close=False)
        store._this_thread = threading.local()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_close_idle_connections, after_in_child=_forget_connections)
