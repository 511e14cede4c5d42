"""When enough new samples wait: the durable record of it, and the claim of samples by the cycle that answers.

The record is the truth and an event only a hint: a crossing whose cycle never finished stays `unhandled`,
however many events were lost, and no second crossing is recorded until it is handled.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, and_, func, insert, select, update

from retrain.data_collection.sample import DataSample
from retrain.errors import BadInput, NotFound
from retrain.storage.schema import crossings, cycles, samples
from retrain.storage.state import StateStore

Guard = Callable[[Connection], None]
"""Raises unless the caller may still write; run inside the transaction (`Lease.check`)."""


@dataclass(frozen=True)
class Crossing:
    """The number of waiting samples reached the threshold."""

    id: str
    model: str
    number: int
    count: int
    threshold: int
    crossed_at: float
    emitted_at: float | None


def waiting_count(state: StateStore, model: str) -> int:
    """Distinct stored samples that no cycle has selected yet."""
    with state.read() as connection:
        return _waiting(connection, model)


def record_crossing(state: StateStore, model: str, threshold: int, now: float) -> Crossing | None:
    """Record that the threshold is reached, exactly once until a cycle has answered it.

    Any number of watchers in any number of processes may call this at any time.

    Returns:
        The new crossing, to be announced; None when too few samples wait or an earlier crossing is unhandled.
    """
    if threshold < 1:
        raise BadInput(f"The threshold must be at least 1 sample, got {threshold}.")
    with state.write() as connection:
        count = _waiting(connection, model)
        if count < threshold or connection.execute(_unhandled(model).limit(1)).first():
            return None
        last = connection.execute(
            select(func.max(crossings.c.number)).where(crossings.c.model == model)
        ).scalar_one()
        number = (last or 0) + 1
        crossing = Crossing(f"{model}-samples-{number}", model, number, count, threshold, now, None)
        connection.execute(insert(crossings).values(**vars(crossing)))
    return crossing


def mark_emitted(state: StateStore, crossing_id: str, now: float) -> None:
    """Note when the event was handed over.

    Raises:
        NotFound: no such crossing.
    """
    with state.write() as connection:
        change = update(crossings).where(crossings.c.id == crossing_id).values(emitted_at=now)
        if connection.execute(change).rowcount == 0:
            raise NotFound(f"No crossing {crossing_id!r}.")


def find_crossing(state: StateStore, model: str, crossing_id: str) -> Crossing:
    """The stored record of a model's crossing.

    Raises:
        NotFound: the model has no such crossing.
    """
    query = select(crossings).where(crossings.c.id == crossing_id, crossings.c.model == model)
    with state.read() as connection:
        row = connection.execute(query).one_or_none()
    if row is None:
        raise NotFound(
            f"Model {model!r} has no crossing {crossing_id!r}; start without a trigger to run by hand."
        )
    return _crossing(row)


def unhandled(state: StateStore, model: str, older_than: float) -> list[Crossing]:
    """Crossings of up to `older_than` whose cycle never started or never finished, oldest first."""
    query = _unhandled(model).where(crossings.c.crossed_at <= older_than).order_by(crossings.c.number)
    with state.read() as connection:
        return [_crossing(row) for row in connection.execute(query)]


def select_samples(
    state: StateStore, model: str, cycle_id: str, limit: int, guard: Guard | None = None
) -> list[str]:
    """Claim up to `limit` waiting samples for a cycle, oldest first; a repeated call returns the same ids."""
    if limit < 1:
        raise BadInput(f"A cycle must select at least 1 sample, got a limit of {limit}.")
    waiting = (
        select(samples.c.id)
        .where(samples.c.model == model, samples.c.cycle_id.is_(None))
        .order_by(samples.c.stored_at, samples.c.id)
        .limit(limit)
    )
    with state.write() as connection:
        if guard is not None:
            guard(connection)
        if not (claimed := _claimed(connection, cycle_id)):
            chosen = waiting.subquery()
            connection.execute(
                update(samples)
                .where(samples.c.id.in_(select(chosen.c.id)), samples.c.cycle_id.is_(None))
                .values(cycle_id=cycle_id)
            )
            claimed = _claimed(connection, cycle_id)
    return claimed


def cycle_samples(state: StateStore, cycle_id: str) -> list[DataSample]:
    """The samples a cycle selected, oldest first."""
    query = select(samples).where(samples.c.cycle_id == cycle_id).order_by(samples.c.stored_at, samples.c.id)
    with state.read() as connection:
        return [DataSample.from_row(row) for row in connection.execute(query)]


def _claimed(connection: Connection, cycle_id: str) -> list[str]:
    query = select(samples.c.id).where(samples.c.cycle_id == cycle_id)
    return list(connection.execute(query.order_by(samples.c.stored_at, samples.c.id)).scalars())


def _waiting(connection: Connection, model: str) -> int:
    query = select(func.count()).select_from(samples)
    return connection.execute(
        query.where(samples.c.model == model, samples.c.cycle_id.is_(None))
    ).scalar_one()


def _unhandled(model: str) -> Any:
    finished = and_(cycles.c.trigger_id == crossings.c.id, cycles.c.finished_at.is_not(None))
    return select(crossings).where(crossings.c.model == model, ~select(cycles.c.id).where(finished).exists())


def _crossing(row: Row[Any]) -> Crossing:
    return Crossing(**row._mapping)
