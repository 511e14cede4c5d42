"""What the tests of deletion look at: every file under a folder, every row, every pack."""

from pathlib import Path

from sqlalchemy import select

from retrain.data_collection.sample import DataSample
from retrain.storage.schema import draws, packs, samples


def stored(state):
    """Samples by id."""
    with state.read() as connection:
        rows = connection.execute(select(samples).order_by(samples.c.id)).all()
    return {row.id: DataSample.from_row(row) for row in rows}


def drawn(state):
    with state.read() as connection:
        return connection.execute(select(draws).order_by(draws.c.id)).all()


def files_with(folder, data):
    """Files anywhere under the folder that hold these bytes."""
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and data in path.read_bytes()]


def is_exact(state, blobs):
    """Whether the packs of the index, those rows name and those in the blob store are the same, and none is too big."""
    with state.read() as connection:
        rows = connection.execute(select(packs.c.id, packs.c.state, packs.c.images)).all()
        named = connection.execute(select(samples.c.pack, samples.c.file_name).distinct()).all()
    there = {Path(key).stem for key in blobs.keys("packs/")}
    return (
        {row.id for row in rows} == {row.pack for row in named} == there
        and {row.state for row in rows} <= {"stored"}
        and sum(row.images for row in rows) == len(named)
    )


def pack_bytes(blobs):
    """Size of all packs in the blob store."""
    return sum(len(blobs.get(key)) for key in blobs.keys("packs/"))
