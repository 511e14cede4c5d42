"""The route record: the one pointer that says which release serves a model, changed by compare-and-set.

Replicas act only on a newer (epoch, revision) and acknowledge the digest they loaded, so a switch is proven
by what is served, not by what was written.
"""

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from retrain.errors import Conflict, NotFound, PostConditionFailed
from retrain.storage.journal import Journal
from retrain.storage.schema import journal, replicas, routes
from retrain.storage.state import StateStore

Guard = Callable[[Connection], None]
"""Raises unless the caller may still write; run inside the transaction (`Lease.check`)."""


@dataclass(frozen=True)
class RouteRecord:
    """Who gets the traffic of `model`.

    Attributes:
        epoch: fencing token of the writer; never falls.
        revision: grows by one with every change.
        attempt: id of the rollout that wrote it; a retry with the same id changes nothing.
    """

    model: str
    epoch: int
    revision: int
    control: str
    candidate: str | None
    mode: str
    traffic_fraction: float
    salt: str
    attempt: str

    @property
    def version(self) -> tuple[int, int]:
        return (self.epoch, self.revision)


@dataclass(frozen=True)
class Replica:
    """What one router last said it serves."""

    replica: str
    epoch: int
    revision: int
    digest: str
    seen_at: float

    @property
    def version(self) -> tuple[int, int]:
        return (self.epoch, self.revision)


class RouteStore:
    """Route records, their journal and the replicas' acknowledgements."""

    def __init__(self, state: StateStore) -> None:
        self._state = state

    def get(self, model: str) -> RouteRecord:
        """The current record.

        Raises:
            NotFound: the model has no route yet.
        """
        with self._state.read() as connection:
            return _current(connection, model)

    def initialise(self, model: str, control: str, now: float, attempt: str = "initial") -> RouteRecord:
        """Make the model's first route; a repeated call returns the route as it is now.

        Raises:
            Conflict: the model was first routed to another release.
        """
        with self._state.write() as connection:
            if (applied := _journalled(connection, model, attempt)) is not None:
                if applied["control"] != control:
                    raise Conflict(
                        f"Model {model!r} was first routed to {applied['control']}, not to {control}."
                    )
                return _current(connection, model)
            if connection.execute(select(routes.c.model).where(routes.c.model == model)).one_or_none():
                raise Conflict(f"Model {model!r} already has a route. Change it with a switch.")
            salt = hashlib.sha256(f"{model}:{control}".encode()).hexdigest()[:16]
            record = RouteRecord(model, 0, 1, control, None, "control", 0.0, salt, attempt)
            connection.execute(insert(routes).values(**asdict(record), updated_at=now))
            self._write_journal(connection, "route.initialised", record, now)
        return record

    def switch(
        self,
        model: str,
        control: str,
        *,
        expected: tuple[int, int],
        epoch: int,
        attempt: str,
        now: float,
        guard: Guard | None = None,
    ) -> RouteRecord:
        """Give all traffic to `control`, if nothing changed since the caller read `expected`.

        Args:
            expected: (epoch, revision) of the record the decision was made on.
            epoch: the caller's fencing token.
            attempt: names this one change; the same attempt applied twice is applied once.

        Raises:
            Conflict: the route moved on, a newer writer was here, or the attempt was used for something else.
        """
        with self._state.write() as connection:
            if guard is not None:
                guard(connection)
            current = _current(connection, model)
            if (applied := _journalled(connection, model, attempt)) is not None:
                return _already_applied(current, applied, control, attempt)
            _check_order(current, expected, epoch)
            record = replace(
                current,
                epoch=epoch,
                revision=current.revision + 1,
                control=control,
                candidate=None,
                mode="control",
                traffic_fraction=0.0,
                attempt=attempt,
            )
            changed = connection.execute(
                update(routes)
                .where(
                    routes.c.model == model, routes.c.epoch == expected[0], routes.c.revision == expected[1]
                )
                .values(**asdict(record), updated_at=now)
            )
            if changed.rowcount != 1:
                raise Conflict(f"The route of {model!r} changed while it was being switched. Read it again.")
            self._write_journal(connection, "route.switched", record, now)
        return record

    def changes(self, model: str) -> list[RouteRecord]:
        """Every record the route has had, oldest first, from the journal written with each change."""
        entries = Journal(self._state, _stream(model)).entries()
        return [RouteRecord(**entry.payload) for entry in entries]

    def acknowledge(self, model: str, replica: str, record: RouteRecord, digest: str, now: float) -> None:
        """Say that `replica` serves `digest` under `record`; also its sign of life."""
        values = {"epoch": record.epoch, "revision": record.revision, "digest": digest, "seen_at": now}
        mine = (replicas.c.model == model, replicas.c.replica == replica)
        with self._state.write() as connection:
            if connection.execute(update(replicas).where(*mine).values(**values)).rowcount == 0:
                connection.execute(insert(replicas).values(model=model, replica=replica, **values))

    def retire(self, model: str, replica: str) -> None:
        """Forget a replica that stopped on purpose, so that nobody waits for it."""
        with self._state.write() as connection:
            connection.execute(
                delete(replicas).where(replicas.c.model == model, replicas.c.replica == replica)
            )

    def replicas(self, model: str, alive_since: float) -> list[Replica]:
        """Replicas seen at or after `alive_since`, by name."""
        query = (
            select(replicas)
            .where(replicas.c.model == model, replicas.c.seen_at >= alive_since)
            .order_by(replicas.c.replica)
        )
        with self._state.read() as connection:
            return [
                Replica(row.replica, row.epoch, row.revision, row.digest, row.seen_at)
                for row in connection.execute(query)
            ]

    def _write_journal(self, connection: Connection, kind: str, record: RouteRecord, now: float) -> None:
        # In the transaction of the change itself: written after it, the journal could miss a change.
        Journal(self._state, _stream(record.model)).append(
            record.attempt, kind, asdict(record), now, connection=connection
        )


def wait_until_served(
    routes: RouteStore,
    model: str,
    record: RouteRecord,
    digest: str,
    *,
    deadline_s: float,
    min_replicas: int,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
    poll_s: float = 0.2,
    alive_within_s: float = 10.0,
) -> list[Replica]:
    """Wait until every live replica, and at least `min_replicas`, acknowledged `digest` at `record` or newer.

    Args:
        deadline_s: how long to wait from now.
        clock: the clock replicas stamp their acknowledgements with.
        alive_within_s: a replica silent for longer when the wait begins is taken as gone and not waited for.
            One that falls silent later is: it may be loading the release, or have crashed on it. Only a
            replica that retires drops out.

    Raises:
        PostConditionFailed: not all did in time; the message names those that lag and what they serve.
    """
    began = clock()
    since, end = began - alive_within_s, began + deadline_s
    while True:
        now = clock()
        alive = routes.replicas(model, alive_since=since)
        served = [one for one in alive if one.version >= record.version and one.digest == digest]
        if len(served) >= min_replicas and len(served) == len(alive):
            return served
        if now >= end:
            raise PostConditionFailed(
                f"{len(served)} of {len(alive)} live replicas of {model!r} serve release {digest[:12]} after "
                f"{deadline_s:g} s; all of them and at least {min_replicas} must. {_laggards(alive, served)}"
            )
        sleep(min(poll_s, max(end - now, 0.0)))


def _laggards(alive: list[Replica], served: list[Replica]) -> str:
    lagging = [
        f"{one.replica} (serves {one.digest[:12]} at {one.version})" for one in alive if one not in served
    ]
    return f"Lagging: {', '.join(lagging)}." if lagging else "None lags."


def _check_order(current: RouteRecord, expected: tuple[int, int], epoch: int) -> None:
    if epoch < current.epoch:
        raise Conflict(
            f"Epoch {epoch} is older than {current.epoch}, which wrote the route of {current.model!r}. "
            "Another process took over; stop."
        )
    if current.version != expected:
        raise Conflict(
            f"The route of {current.model!r} is at {current.version}, not at {expected} as when the decision "
            "was made. Read it again and decide anew."
        )


def _already_applied(
    current: RouteRecord, applied: dict[str, Any], control: str, attempt: str
) -> RouteRecord:
    if applied["control"] != control:
        raise Conflict(
            f"Attempt {attempt!r} already routed {current.model!r} to {applied['control']}, not {control}."
        )
    if current.attempt != attempt:
        raise Conflict(
            f"Attempt {attempt!r} was applied at revision {applied['revision']}, but {current.attempt!r} "
            f"changed the route of {current.model!r} since. It is not applied again."
        )
    return current


def _current(connection: Connection, model: str) -> RouteRecord:
    row = connection.execute(select(routes).where(routes.c.model == model)).one_or_none()
    if row is None:
        raise NotFound(
            f"Model {model!r} has no champion yet. `retrain cycle first VERSION` makes one from a dataset version."
        )
    return RouteRecord(
        row.model,
        row.epoch,
        row.revision,
        row.control,
        row.candidate,
        row.mode,
        row.traffic_fraction,
        row.salt,
        row.attempt,
    )


def _stream(model: str) -> str:
    return f"route/{model}"


def _journalled(connection: Connection, model: str, attempt: str) -> dict[str, Any] | None:
    query = select(journal.c.payload).where(journal.c.stream == _stream(model), journal.c.key == attempt)
    row = connection.execute(query).one_or_none()
    return None if row is None else dict(row.payload)
