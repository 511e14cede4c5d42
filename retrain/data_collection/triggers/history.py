"""Reads a model's past from the state database: its crossings with their answers, and what a replay needs."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, and_, func, select

from retrain.data_collection.triggers.crossings import Crossing
from retrain.data_collection.triggers.facts import SEEN, shown_classes
from retrain.data_collection.triggers.policy import ALL
from retrain.data_collection.triggers.replay import History, PastCrossing, PastCycle, PastSample
from retrain.errors import BadInput
from retrain.storage.schema import crossings, cycles, samples, stages
from retrain.storage.state import StateStore


@dataclass(frozen=True)
class AnsweredCrossing:
    """A crossing and the cycle that answers it; without one, status and times are None."""

    crossing: Crossing
    status: str | None
    started_at: float | None
    finished_at: float | None


def last_crossings(state: StateStore, model: str, limit: int) -> list[AnsweredCrossing]:
    """The newest crossings of a model, newest first."""
    answer = (
        cycles.c.status,
        cycles.c.created_at.label("started_at"),
        cycles.c.finished_at.label("finished_at"),
    )
    query = select(crossings, *answer).outerjoin(cycles, cycles.c.trigger_id == crossings.c.id)
    query = query.where(crossings.c.model == model).order_by(crossings.c.number.desc()).limit(limit)
    with state.read() as connection:
        return [_answered(row) for row in connection.execute(query)]


def read_history(
    state: StateStore, model: str, classes: Sequence[str], since: float | None, until: float, every_s: float
) -> History:
    """Everything stored, and a look every `every_s` seconds from `since` to `until`.

    Samples that retention or a deletion removed are no longer in the history, nor is it known when a watcher
    looked without finding enough: looks are counted from each recorded crossing on, which a watcher made.

    Args:
        classes: class names in index order; indices beyond them count for no class.
        since: None: from the first sample on.

    Raises:
        BadInput: `since` is after `until`.
    """
    with state.read() as connection:
        found = select(crossings).where(crossings.c.model == model).order_by(crossings.c.number)
        recorded = [_crossing(row) for row in connection.execute(found)]
        stored = sorted(_samples(connection, model, classes, recorded, until), key=lambda one: one.stored_at)
        ran = _cycles(connection, model)
    crossed = [PastCrossing(one.id, one.crossed_at) for one in recorded]
    if since is None:
        since = min([until, *(sample.stored_at for sample in stored[:1])])
    if since > until:
        raise BadInput(
            f"A replay from {since:.0f} to {until:.0f} s has no time in it; give an earlier start."
        )
    return History(stored, crossed, ran, list(_looks(since, until, every_s, crossed)))


def _looks(since: float, until: float, every_s: float, known: Sequence[PastCrossing]) -> Iterator[float]:
    look = since
    recorded = {one.crossed_at for one in known if since <= one.crossed_at <= until}
    for moment in sorted(recorded | {until}):
        while look < moment:
            yield look
            look += every_s
        yield moment
        look = moment + every_s


def _samples(
    connection: Connection, model: str, classes: Sequence[str], recorded: Sequence[Crossing], until: float
) -> Iterator[PastSample]:
    """In the order of storage, at times that agree with what the crossings counted and the cycles selected.

    The clock of a host that stored a sample may have been wrong; those records say before and after what it was.
    """
    selected = and_(stages.c.cycle_id == samples.c.cycle_id, stages.c.stage == "select")
    columns = (
        samples.c.seq,
        samples.c.stored_at,
        samples.c.camera,
        stages.c.finished_at.label("selected_at"),
    )
    query = select(*columns, *SEEN).outerjoin(stages, selected).where(samples.c.model == model)
    same: dict[frozenset[str], frozenset[str]] = {}
    coming, earliest = list(reversed(recorded)), -math.inf
    for row in connection.execute(query.order_by(samples.c.seq)):
        while coming and coming[-1].counted_until < row.seq:
            earliest = math.nextafter(coming.pop().crossed_at, math.inf)
        latest = coming[-1].crossed_at if coming else until
        if row.selected_at is not None:
            latest = min(latest, row.selected_at)
        shown = (f"class {classes[index]}" for index in shown_classes(row) if index < len(classes))
        scopes = frozenset((ALL, f"camera {row.camera}", *shown))
        stored_at = min(max(row.stored_at, earliest), latest)
        # A hundred thousand samples show few different combinations.
        yield PastSample(row.seq, stored_at, same.setdefault(scopes, scopes))


def _cycles(connection: Connection, model: str) -> list[PastCycle]:
    claimed = (
        select(samples.c.cycle_id, func.max(samples.c.seq).label("until"))
        .where(samples.c.model == model, samples.c.cycle_id.is_not(None))
        .group_by(samples.c.cycle_id)
        .subquery()
    )
    selected = and_(stages.c.cycle_id == cycles.c.id, stages.c.stage == "select")
    query = (
        select(cycles, claimed.c.until, stages.c.finished_at.label("selected_at"))
        .outerjoin(claimed, claimed.c.cycle_id == cycles.c.id)
        .outerjoin(stages, selected)
        .where(cycles.c.model == model)
    )
    return [_cycle(row) for row in connection.execute(query)]


def _cycle(row: Row[Any]) -> PastCycle:
    if row.until is None:
        gave_back = row.status == "abandoned" and row.selected_at is not None
        # It had claimed all that waited.
        until = math.inf if gave_back else 0
        return PastCycle(
            row.trigger_id, row.selected_at if gave_back else None, until, row.finished_at, gave_back
        )
    # A cycle killed between claiming and saying so; it claimed some time after it began.
    selected_at = row.created_at if row.selected_at is None else row.selected_at
    return PastCycle(row.trigger_id, selected_at, row.until, row.finished_at)


def _answered(row: Row[Any]) -> AnsweredCrossing:
    return AnsweredCrossing(_crossing(row), row.status, row.started_at, row.finished_at)


def _crossing(row: Row[Any]) -> Crossing:
    return Crossing(**{name: row._mapping[name] for name in Crossing.__dataclass_fields__})
