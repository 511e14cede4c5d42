"""Whether retention deletes waiting samples before there are enough of them to start a retraining."""

from collections.abc import Iterator

from sqlalchemy import Connection, func, select

from retrain.data_collection.forgetting.retention import RetentionPolicy
from retrain.data_collection.store.packs import STORED
from retrain.data_collection.triggers.facts import waiting_condition
from retrain.data_collection.triggers.policy import ALL, TriggerPolicy
from retrain.storage.schema import draws, packs, samples
from retrain.storage.state import StateStore

_DAY_S = 86_400.0


def shortages(
    state: StateStore, model: str, policy: TriggerPolicy, retention: RetentionPolicy, now: float
) -> list[str]:
    """What keeps thresholds from ever being reached, one sentence each; empty when nothing is known to."""
    with state.read() as connection:
        return [
            *_by_size(connection, policy, retention.max_bytes),
            *_by_age(connection, model, policy, retention.max_age_s, now),
        ]


def _by_size(connection: Connection, policy: TriggerPolicy, max_bytes: int | None) -> Iterator[str]:
    count = connection.execute(select(func.count()).select_from(samples)).scalar_one()
    size = connection.execute(select(func.sum(packs.c.bytes)).where(packs.c.state == STORED)).scalar_one()
    if max_bytes is None or not count or not size:
        return
    mean = float(size) / count
    kept = int(max_bytes / mean)
    if needed := _out_of_reach(policy, kept):
        yield (
            f"Retention keeps about {kept} samples of all models (max_bytes {max_bytes}, {mean:.0f} bytes each), "
            f"too few for the threshold of {needed}."
        )


def _by_age(
    connection: Connection, model: str, policy: TriggerPolicy, max_age_s: float | None, now: float
) -> Iterator[str]:
    if max_age_s is None:
        return
    since, days = now - max_age_s, f"{max_age_s / _DAY_S:g} days"
    too_old = select(func.count()).where(waiting_condition(model), samples.c.captured_at < since)
    if due := connection.execute(too_old).scalar_one():
        yield f"{due} waiting samples are older than {days}: retention deletes them before a cycle uses them."
    first = select(func.min(draws.c.stored_at)).where(draws.c.model == model)
    began = connection.execute(first).scalar_one()
    if began is None or began > since:
        # Not watched for long enough to say how many come in that time.
        return
    stored = draws.c.outcome.in_(("stored", "expired"))
    recent = select(func.count()).where(draws.c.model == model, draws.c.stored_at > since, stored)
    came = connection.execute(recent).scalar_one()
    if needed := _out_of_reach(policy, came):
        yield (
            f"Retention keeps samples for {days}; {came} came in the last {days}, "
            f"too few for the threshold of {needed}."
        )


def _out_of_reach(policy: TriggerPolicy, kept: int) -> str:
    return ", of ".join(
        f"{threshold} {ALL}" if scope == ALL else f"{threshold} {ALL} of {scope}"
        for scope, threshold in policy.limits.items()
        if threshold > kept
    )
