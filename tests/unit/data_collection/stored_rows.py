"""Rows as collectors and cycles leave them in the state, for tests that need many or need them at exact times."""

from sqlalchemy import insert, select, update

from retrain.storage.schema import cycles, samples, stages


def sample_row(number, stored_at, *, model="m", camera="east", classes=(), scores=None):
    """One waiting sample; the number makes it distinct. Columns no trigger looks at hold their type's zero."""
    shown = [0.9] * len(classes) if scores is None else list(scores)
    boxes = [[1.0, 1.0, 5.0, 5.0]] * len(classes)
    zeros = {
        column.name: {} if column.type.python_type is dict else column.type.python_type()
        for column in samples.columns
        if not column.nullable and not column.primary_key
    }
    return zeros | {
        "id": f"{model}-{number:x}",
        "model": model,
        "camera": camera,
        "stored_at": float(stored_at),
        "prediction": {"boxes": boxes, "classes": list(classes), "scores": shown},
    }


def store(state, rows):
    with state.write() as connection:
        connection.execute(insert(samples), list(rows))


def store_many(state, count, *, first=0, at=0.0, **more):
    """`count` samples stored a second apart, the first one at `at`."""
    store(state, [sample_row(first + i, at + i, **more) for i in range(count)])


def start_cycle(state, trigger, *, model="m", at=0.0):
    row = {"id": f"cycle-{trigger}", "model": model, "trigger_id": trigger, "config_hash": "c"}
    with state.write() as connection:
        connection.execute(insert(cycles).values(**row, status="running", attempts=1, created_at=at))


def select_waiting(state, trigger, *, model="m", at=0.0, said=True):
    """What the select stage of a cycle does; without `said` it was killed before it could record that."""
    cycle = f"cycle-{trigger}"
    with state.write() as connection:
        waiting = samples.c.cycle_id.is_(None) & (samples.c.model == model)
        connection.execute(update(samples).where(waiting).values(cycle_id=cycle))
        if said:
            stage = {"cycle_id": cycle, "stage": "select", "input_hash": "i", "output": {}, "token": 1}
            connection.execute(insert(stages).values(**stage, started_at=at, finished_at=at))


def finish_cycle(state, trigger, *, status="kept_champion", at=0.0):
    with state.write() as connection:
        done = update(cycles).where(cycles.c.id == f"cycle-{trigger}")
        connection.execute(done.values(status=status, finished_at=at))


def answer(state, trigger, *, model="m", at=0.0, status="kept_champion"):
    """A whole cycle in one moment."""
    start_cycle(state, trigger, model=model, at=at)
    if status != "abandoned":
        select_waiting(state, trigger, model=model, at=at)
    finish_cycle(state, trigger, status=status, at=at)


def waiting_ids(state, model="m"):
    query = select(samples.c.id).where(samples.c.model == model, samples.c.cycle_id.is_(None))
    with state.read() as connection:
        return set(connection.execute(query).scalars())
