"""Takes samples out of the index: their rows, their labels and what leads from the draws to them."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, delete, select, update

from retrain.storage.schema import cycles, draws, metadata, samples

_ABOUT_SAMPLES = [table for table in metadata.sorted_tables if "sample_id" in table.c and table is not draws]
"""Whatever a table of later times keeps about a sample goes with it."""


def claimed_by_running() -> Any:
    """The condition that a running cycle has selected a sample."""
    running = (cycles.c.id == samples.c.cycle_id) & (cycles.c.status == "running")
    return select(cycles.c.id).where(running).exists()


def remove_samples(connection: Connection, ids: Sequence[str], outcome: str) -> None:
    """Delete rows and labels; the images stay in their packs until `Eraser.erase`.

    Draws stay, because rates and shares are computed from them. They keep when, where and why a frame was taken and
    lose what leads to its picture.

    Args:
        outcome: of the draws from now on.
    """
    if connection.dialect.name == "sqlite":
        # Otherwise the bytes of a deleted row stay in the file until something is written over them.
        connection.exec_driver_sql("PRAGMA secure_delete=ON")
    if not ids:
        return
    each = [{"gone": name} for name in ids]
    for table in _ABOUT_SAMPLES:
        connection.execute(delete(table).where(table.c.sample_id == bindparam("gone")), each)
    unlinked = {"sample_id": None, "detail": "", "outcome": outcome}
    connection.execute(update(draws).where(draws.c.sample_id == bindparam("gone")).values(unlinked), each)
    connection.execute(delete(samples).where(samples.c.id == bindparam("gone")), each)
