"""Takes samples out of the index: their rows, their labels and what leads from the draws to them."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import BindParameter, Connection, bindparam, delete, select, update

from retrain.data_collection.sample import SampleKey
from retrain.storage.schema import annotations, cycles, draws, likenesses, samples


def claimed_by_running() -> Any:
    """The condition that a running cycle has selected a sample."""
    running = (cycles.c.id == samples.c.cycle_id) & (cycles.c.status == "running")
    return select(cycles.c.id).where(running).exists()


def remove_samples(connection: Connection, keys: Sequence[SampleKey], outcome: str) -> None:
    """Delete rows and labels; the images stay in their packs until `Eraser.erase`.

    Draws stay, because rates and shares are computed from them. They keep when, where and why a frame was taken and
    lose what leads to its picture.

    Args:
        outcome: of the draws from now on.
    """
    if connection.dialect.name == "sqlite":
        # Otherwise the bytes of a deleted row stay in the file until something is written over them.
        connection.exec_driver_sql("PRAGMA secure_delete=ON")
    if not keys:
        return
    each = [{"of_model": key.model, "gone": key.id} for key in keys]
    of_model: BindParameter[str] = bindparam("of_model")
    gone: BindParameter[str] = bindparam("gone")
    of_others = select(cycles.c.id).where(cycles.c.model != of_model)
    unlinked = {"sample_id": None, "detail": "", "outcome": outcome}
    for statement in (
        delete(annotations).where(annotations.c.sample_id == gone, annotations.c.cycle_id.not_in(of_others)),
        delete(likenesses).where(likenesses.c.model == of_model, likenesses.c.sample_id == gone),
        update(draws).where(draws.c.model == of_model, draws.c.sample_id == gone).values(unlinked),
        delete(samples).where(samples.c.model == of_model, samples.c.id == gone),
    ):
        connection.execute(statement, each)
