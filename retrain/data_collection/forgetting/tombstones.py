"""What was deleted on purpose: a forgotten picture that comes again, or still waits somewhere, is not stored again.

A sample's tombstone keeps the digest of its image, a camera's or model's the name: without those, nobody could tell
what must not come back. From a digest no picture can be made; whoever has the picture can tell that it was here.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import Connection, bindparam, delete, insert, select

from retrain.storage.schema import tombstones
from retrain.storage.state import StateStore

Kind = Literal["sample", "camera", "model", "expired"]
"""The kinds of `storage.schema.tombstones`."""
CLOCK_SKEW_S = 300.0
"""How far the clock of a collecting host may be ahead of the one of whoever forgets a camera or model: what it handed
over before is refused all the same. The price: what is handed over so shortly afterwards is refused, too."""
LONGEST_REASON = 300
_ASKED_AT_ONCE = 500


@dataclass(frozen=True)
class Tombstones:
    """Those among what was asked for.

    Attributes:
        samples: forgotten for good.
        cameras, models: name → moment up to which everything handed over is forgotten.
    """

    samples: frozenset[str]
    cameras: Mapping[str, float]
    models: Mapping[str, float]

    def cover_camera(self, camera: str, taken_at: float) -> bool:
        """Whether the camera was forgotten after this moment."""
        return taken_at <= self.cameras.get(camera, float("-inf"))

    def cover(self, sample_id: str | None, camera: str, model: str, taken_at: float) -> bool:
        """Whether a frame must not be stored."""
        return (
            sample_id in self.samples
            or self.cover_camera(camera, taken_at)
            or taken_at <= self.models.get(model, float("-inf"))
        )


def read_tombstones(
    connection: Connection, sample_ids: Iterable[str], cameras: Iterable[str], models: Iterable[str]
) -> Tombstones:
    """Those of these samples, cameras and models."""
    return Tombstones(
        frozenset(_find(connection, "sample", sample_ids)),
        _find(connection, "camera", cameras),
        _find(connection, "model", models),
    )


def bury(connection: Connection, kind: Kind, keys: Sequence[str], now: float, reason: str = "") -> None:
    """Set tombstones; one that is there already counts from now on."""
    if keys:
        rows = [
            {"kind": kind, "key": key, "buried_at": now, "reason": reason[:LONGEST_REASON]} for key in keys
        ]
        there = (tombstones.c.kind == bindparam("old_kind"), tombstones.c.key == bindparam("old_key"))
        old = [{"old_kind": row["kind"], "old_key": row["key"]} for row in rows]
        connection.execute(delete(tombstones).where(*there), old)
        connection.execute(insert(tombstones), rows)


def forgotten_samples(state: StateStore) -> set[str]:
    """All samples that were forgotten, under whatever model."""
    with state.read() as connection:
        query = select(tombstones.c.key).where(tombstones.c.kind == "sample")
        return set(connection.execute(query).scalars())


def deleted_on_purpose(state: StateStore, sample_ids: Sequence[str]) -> set[str]:
    """Those of a cycle's samples that were forgotten or that retention deleted, so that nobody looks for a fault."""
    with state.read() as connection:
        return set(_find(connection, "sample", sample_ids)) | set(_find(connection, "expired", sample_ids))


def _find(connection: Connection, kind: Kind, keys: Iterable[str]) -> dict[str, float]:
    named = sorted(set(keys))
    found: dict[str, float] = {}
    columns = select(tombstones.c.key, tombstones.c.buried_at).where(tombstones.c.kind == kind)
    for start in range(0, len(named), _ASKED_AT_ONCE):
        part = named[start : start + _ASKED_AT_ONCE]
        found |= {
            row.key: row.buried_at for row in connection.execute(columns.where(tombstones.c.key.in_(part)))
        }
    return found
