"""When enough new samples wait: the durable record of it, and the claim of samples by the cycle that answers.

The record is the truth and an event only a hint: a crossing whose cycle never finished stays `unhandled`,
however many events were lost, and no second crossing is recorded until it is handled.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, func, insert, select, update

from retrain.data_collection.sample import DataSample
from retrain.data_collection.triggers.facts import read_facts, unanswered_query, waiting_condition
from retrain.data_collection.triggers.policy import ALL, Level, TriggerDecision, TriggerPolicy, evaluate
from retrain.errors import BadInput, NotFound
from retrain.storage.schema import crossings, samples
from retrain.storage.state import StateStore

Guard = Callable[[Connection], None]
"""Raises unless the caller may still write; run inside the transaction (`Lease.check`)."""


@dataclass(frozen=True)
class Crossing:
    """The number of waiting samples reached a threshold.

    Attributes:
        number: counts the model's crossings from 1.
        count, threshold: of `scope`.
        emitted_at: when the event was handed over; None until then.
        scope: whose threshold: "samples" for all, "class <name>" or "camera <name>".
        counted_until: `seq` of the model's newest sample then; 0: it had none.
    """

    id: str
    model: str
    number: int
    count: int
    threshold: int
    crossed_at: float
    emitted_at: float | None
    scope: str = ALL
    counted_until: int = 0


def waiting_count(state: StateStore, model: str) -> int:
    """Distinct stored samples that no cycle has selected yet."""
    query = select(func.count()).select_from(samples).where(waiting_condition(model))
    with state.read() as connection:
        return connection.execute(query).scalar_one()


def decide(
    state: StateStore, model: str, policy: TriggerPolicy, now: float, classes: Sequence[str] = ()
) -> TriggerDecision:
    """What `record_crossing` would do now and why; writes nothing.

    Raises:
        ConfigError: a class threshold names a class that is not in `classes`.
    """
    with state.read() as connection:
        return evaluate(read_facts(connection, model, policy, classes), policy, now)


def record_crossing(
    state: StateStore, model: str, policy: TriggerPolicy | int, now: float, classes: Sequence[str] = ()
) -> Crossing | None:
    """Record that a threshold is reached, exactly once until a cycle has answered it.

    Any number of watchers in any number of processes may call this at any time.

    Args:
        policy: a number stands for the policy with this threshold and nothing else.
        classes: class names in index order, for the class thresholds.

    Returns:
        The new crossing, to be announced; None when the policy does not fire, see `decide`.

    Raises:
        ConfigError: the threshold is below 1, or a class threshold names a class that is not in `classes`.
    """
    rule = TriggerPolicy(policy) if isinstance(policy, int) else policy
    # Most looks end here: counting takes a while when many samples wait, and must not hold up those who write.
    if not decide(state, model, rule, now, classes).fires:
        return None
    with state.write() as connection:
        # Counted again, now that nobody else can write: another watcher may have been first.
        decision = evaluate(read_facts(connection, model, rule, classes), rule, now)
        if decision.crossed is None or not decision.fires:
            return None
        return _insert(connection, model, decision.crossed, now)


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
    query = unanswered_query(model).where(crossings.c.crossed_at <= older_than)
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
        .where(waiting_condition(model))
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
                .where(waiting_condition(model), samples.c.id.in_(select(chosen.c.id)))
                .values(cycle_id=cycle_id)
            )
            claimed = _claimed(connection, cycle_id)
    return claimed


def cycle_samples(state: StateStore, cycle_id: str) -> list[DataSample]:
    """The samples a cycle selected, oldest first."""
    query = select(samples).where(samples.c.cycle_id == cycle_id).order_by(samples.c.stored_at, samples.c.id)
    with state.read() as connection:
        return [DataSample.from_row(row) for row in connection.execute(query)]


def _insert(connection: Connection, model: str, level: Level, now: float) -> Crossing:
    last = select(func.max(crossings.c.number)).where(crossings.c.model == model)
    newest = select(func.max(samples.c.seq)).where(samples.c.model == model)
    number = (connection.execute(last).scalar_one() or 0) + 1
    crossing = Crossing(
        id=f"{model}-samples-{number}",
        model=model,
        number=number,
        count=level.waiting.total,
        threshold=level.threshold,
        crossed_at=now,
        emitted_at=None,
        scope=level.scope,
        counted_until=connection.execute(newest).scalar_one() or 0,
    )
    connection.execute(insert(crossings).values(**vars(crossing)))
    return crossing


def _claimed(connection: Connection, cycle_id: str) -> list[str]:
    query = select(samples.c.id).where(samples.c.cycle_id == cycle_id)
    return list(connection.execute(query.order_by(samples.c.stored_at, samples.c.id)).scalars())


def _crossing(row: Row[Any]) -> Crossing:
    return Crossing(**row._mapping)
