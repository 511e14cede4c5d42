"""Counts what a `TriggerPolicy` asks for, in the state database."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, Row, Select, and_, case, func, select

from retrain.data_collection.frame import SCORE_FLOOR
from retrain.data_collection.triggers.policy import ALL, TriggerFacts, TriggerPolicy, Waiting
from retrain.storage.schema import crossings, cycles, samples

SEEN = (samples.c.prediction["classes"].label("classes"), samples.c.prediction["scores"].label("scores"))
"""The columns that `shown_classes` reads: taken apart by the database, because boxes are most of the JSON."""


def read_facts(
    connection: Connection, model: str, policy: TriggerPolicy, classes: Sequence[str] = ()
) -> TriggerFacts:
    """What the state says about a model's waiting samples, crossings and cycles.

    Only class thresholds need to look into predictions, about 10 µs for each waiting sample; without them the
    database counts, which takes a tenth of that.

    Args:
        classes: class names in index order, to find the classes of `policy.class_thresholds`.

    Raises:
        ConfigError: a class threshold names an unknown class.
    """
    policy.check_classes(classes)
    last = connection.execute(
        select(crossings).where(crossings.c.model == model).order_by(crossings.c.number.desc()).limit(1)
    ).one_or_none()
    waiting = _by_camera(connection, model, last)
    if policy.class_thresholds:
        waiting |= _by_class(connection, model, last, policy.class_thresholds, classes)
    unanswered = connection.execute(unanswered_query(model).limit(1)).first()
    finished = select(func.max(cycles.c.finished_at)).where(cycles.c.model == model)
    return TriggerFacts(
        waiting,
        unanswered=None if unanswered is None else unanswered.id,
        last_crossing_at=None if last is None else last.crossed_at,
        last_cycle_finished_at=connection.execute(finished).scalar_one(),
    )


def waiting_condition(model: str) -> Any:
    """Samples of the model that no cycle has selected yet."""
    return and_(samples.c.model == model, samples.c.cycle_id.is_(None))


def unanswered_query(model: str) -> Select[Any]:
    """Crossings whose cycle never started or has not finished, oldest first."""
    finished = and_(cycles.c.trigger_id == crossings.c.id, cycles.c.finished_at.is_not(None))
    query = select(crossings).where(crossings.c.model == model, ~select(cycles.c.id).where(finished).exists())
    return query.order_by(crossings.c.number)


def shown_classes(row: Row[Any]) -> set[int]:
    """Indices of the classes that a sample shows: a box of it scores enough to count for the frame's confidence."""
    pairs = zip(row.classes, row.scores, strict=True)
    return {index for index, score in pairs if score >= SCORE_FLOOR}


def _by_camera(connection: Connection, model: str, last: Row[Any] | None) -> dict[str, Waiting]:
    counted = func.sum(case((samples.c.seq <= _mark(last), 1), else_=0))
    query = select(samples.c.camera, func.count().label("total"), counted.label("counted"))
    rows = connection.execute(query.where(waiting_condition(model)).group_by(samples.c.camera)).all()
    cameras = {f"camera {row.camera}": Waiting(row.counted, row.total - row.counted) for row in rows}
    everything = Waiting(sum(row.counted for row in rows), sum(row.total - row.counted for row in rows))
    return {ALL: everything, **cameras}


def _by_class(
    connection: Connection, model: str, last: Row[Any] | None, asked: Iterable[str], classes: Sequence[str]
) -> dict[str, Waiting]:
    counted: Counter[int] = Counter()
    new: Counter[int] = Counter()
    mark = _mark(last)
    for row in connection.execute(select(samples.c.seq, *SEEN).where(waiting_condition(model))):
        (counted if row.seq <= mark else new).update(shown_classes(row))
    return {f"class {name}": Waiting(counted[i], new[i]) for i, name in enumerate(classes) if name in asked}


def _mark(last: Row[Any] | None) -> int:
    """The `seq` up to which the last crossing counted: one sample stored by a clock that is ahead moves no time."""
    return 0 if last is None else last.counted_until
