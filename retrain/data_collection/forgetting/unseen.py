"""Names that nothing was ever collected for: mostly misspelt, and forgetting them would forget nothing."""

import difflib
from collections.abc import Collection, Iterable
from typing import Literal

from sqlalchemy import Column, Connection, select

from retrain.data_collection.forgetting.forget import Scope
from retrain.data_collection.forgetting.tombstones import read_tombstones
from retrain.data_collection.metadata import fitting
from retrain.data_collection.store.samples import FORGOTTEN
from retrain.errors import NotFound
from retrain.storage.schema import draws, samples, tombstones
from retrain.storage.state import StateStore

_NAMED = 10


def check_seen(state: StateStore, scope: Scope, counted: Iterable[str] = ()) -> None:
    """Whether every name leads to something that is stored, was drawn, or was deleted or forgotten before.

    Args:
        counted: further cameras that frames came from, perhaps none of which was ever taken.

    Raises:
        NotFound: names the ones that do not, and for cameras and models the nearest that do.
    """
    offered = {fitting(name, draws.c.camera) for name in counted}
    with state.read() as connection:
        dead = read_tombstones(connection, scope.samples, scope.cameras, scope.models)
        said = [
            *_unseen_names(connection, "camera", set(scope.cameras) - dead.cameras.keys(), offered),
            *_unseen_names(connection, "model", set(scope.models) - dead.models.keys(), set()),
            *_unseen_samples(connection, set(scope.samples) - dead.samples),
        ]
    if said:
        raise NotFound(" ".join(said))


def _unseen_names(
    connection: Connection, kind: Literal["camera", "model"], asked: Collection[str], more: set[str]
) -> list[str]:
    columns = (draws.c[kind], samples.c[kind])
    unseen = sorted(name for name in asked if name not in more and not _has(connection, columns, name))
    if not unseen:
        return []
    known = more.union(*(connection.execute(select(column).distinct()).scalars() for column in columns))
    known -= {FORGOTTEN}
    return [
        f"There is no sample and no draw of {kind} {name!r}.{_hint(name, sorted(known))}" for name in unseen
    ]


def _unseen_samples(connection: Connection, asked: Collection[str]) -> list[str]:
    columns = (samples.c.id, draws.c.sample_id)
    expired = select(tombstones.c.key).where(tombstones.c.kind == "expired")
    return [
        f"There is no sample {name}, and there was none."
        for name in sorted(asked)
        if not _has(connection, columns, name)
        and connection.execute(expired.where(tombstones.c.key == name)).first() is None
    ]


def _has(connection: Connection, columns: Iterable[Column[str]], name: str) -> bool:
    return any(
        connection.execute(select(column).where(column == name).limit(1)).first() is not None
        for column in columns
    )


def _hint(name: str, known: list[str]) -> str:
    if not known:
        return ""
    if close := difflib.get_close_matches(name, known, n=3):
        return f" Did you mean {' or '.join(map(repr, close))}?"
    more = f" and {len(known) - _NAMED} more" if len(known) > _NAMED else ""
    return f" Known: {', '.join(known[:_NAMED])}{more}."
