"""Forgets samples for good, by their digest or everything of a camera or model: rows, labels and every byte of them."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy import Connection, select, update

from retrain.data_collection.background import SpoolDrainer
from retrain.data_collection.forgetting.counted_names import hide_names
from retrain.data_collection.forgetting.eraser import Erased, Eraser
from retrain.data_collection.forgetting.removal import claimed_by_running, remove_samples
from retrain.data_collection.forgetting.tombstones import CLOCK_SKEW_S, bury
from retrain.data_collection.metadata import fitting
from retrain.data_collection.sample import SampleKey
from retrain.data_collection.spool.scrub import scrub
from retrain.data_collection.store.samples import FORGOTTEN
from retrain.errors import BadInput, Conflict
from retrain.storage.schema import annotations, draws, samples, stages
from retrain.storage.state import StateStore

_DIGEST = re.compile(r"[0-9a-f]{64}")
_ASKED_AT_ONCE = 500


@dataclass(frozen=True)
class Scope:
    """What is to be forgotten.

    Attributes:
        samples: digests of images, also of ones that never came or still wait somewhere: they will not be stored.
        cameras, models: names; every picture that any draw of theirs led to, also where another camera sent the same,
            or another model saw it. Names of cameras are cut as in the index.

    Raises:
        BadInput: nothing is named, or a sample id that is no digest.
    """

    samples: tuple[str, ...] = ()
    cameras: tuple[str, ...] = ()
    models: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not (self.samples or self.cameras or self.models):
            raise BadInput("Name at least one sample, camera or model to forget.")
        if wrong := [name for name in self.samples if not _DIGEST.fullmatch(name)]:
            raise BadInput(f"A sample id has 64 hex digits, got {wrong[0]!r}.")
        if not all(self.cameras) or not all(self.models):
            raise BadInput("The name of a camera or model is not empty.")
        object.__setattr__(self, "cameras", tuple(fitting(name, draws.c.camera) for name in self.cameras))


@dataclass(frozen=True)
class ForgetReport:
    """What `forget` did.

    Attributes:
        samples: ids of those that were in the index.
        erased: what became of their packs.
        refused: records that waited in the spool of this machine and were not stored.
        refused_until: moment up to which frames of the named cameras and models are refused.
        counting: running processes of this machine that still publish counts by the name of a camera.
    """

    samples: tuple[str, ...]
    erased: Erased
    refused: int
    refused_until: float
    counting: int


@dataclass(frozen=True)
class Affected:
    """Where else samples are known: these records and copies stay.

    Attributes:
        cycles: cycle → the samples among those asked for that it selected.
        versions: dataset version → the samples whose image it contains. Versions never change.
    """

    cycles: Mapping[str, tuple[str, ...]]
    versions: Mapping[str, tuple[str, ...]]


class Versions(Protocol):
    """Dataset versions; `DatasetManager` is one."""

    def versions(self) -> list[str]: ...

    def get_version(self, name: str) -> Any:
        """Has `by_image`: image digest → item."""
        ...


def forget(
    eraser: Eraser, scope: Scope, *, now: float, reason: str = "", drainer: SpoolDrainer | None = None
) -> ForgetReport:
    """Delete samples for good. Killed anywhere and called again, it goes on where it was.

    With the first transaction they are gone from the index, and tombstones keep them from coming back, from whatever
    spool or stream. Then their bytes go. What a camera or model hands over later than `CLOCK_SKEW_S` from now is
    collected again; until then it is refused, because the clock of its host may be ahead.

    Draws stay as counts: they lose sample and detail, and those of a forgotten camera its name.

    Args:
        reason: kept with the tombstones, up to 300 characters.
        drainer: of the spool on this machine, which is emptied and cleared of what was read, and the counts beside it
            of the names of cameras; None leaves both.

    Raises:
        Conflict: a running cycle has selected some; nothing was forgotten.
        RetrainError: a store does not answer; what is missing is done by the next call, whatever it is to forget.
    """
    until = now + CLOCK_SKEW_S
    with eraser.state.write() as connection:
        eraser.guard(connection)
        keys = _find(connection, scope)
        ids = _ids(keys)
        _refuse_claimed(connection, keys)
        bury(connection, "sample", sorted({*ids, *scope.samples}), now, reason)
        bury(connection, "camera", sorted(set(scope.cameras)), until, reason)
        bury(connection, "model", sorted(set(scope.models)), until, reason)
        remove_samples(connection, keys, FORGOTTEN)
        hidden = draws.c.camera.in_(scope.cameras)
        connection.execute(update(draws).where(hidden).values(camera=FORGOTTEN, sample_id=None, detail=""))
    # The spool first: it may hold what was never in the index.
    refused = 0 if drainer is None else scrub(drainer)
    erased = eraser.erase(now)
    counting = 0 if drainer is None else hide_names(drainer.spool, scope.cameras)
    return ForgetReport(tuple(ids), erased, refused, until, counting)


def find_samples(state: StateStore, scope: Scope) -> list[str]:
    """Ids of the stored samples that `forget` would delete now."""
    with state.read() as connection:
        return _ids(_find(connection, scope))


def affected(state: StateStore, sample_ids: Iterable[str], datasets: Versions) -> Affected:
    """Which cycles selected samples and which dataset versions contain their images, also once they are forgotten."""
    asked = set(sample_ids)
    with state.read() as connection:
        cycles = _selected(connection, asked)
    versions = {name: asked & datasets.get_version(name).by_image.keys() for name in datasets.versions()}
    return Affected(_sorted(cycles), _sorted(versions))


def _find(connection: Connection, scope: Scope) -> list[SampleKey]:
    """Samples of any model: a picture is forgotten wherever it is."""
    found = set(scope.samples)
    for name, asked in (("camera", scope.cameras), ("model", scope.models)):
        if not asked:
            continue
        # Another camera may have sent the same picture first.
        drawn = select(draws.c.sample_id).where(draws.c[name].in_(asked))
        query = select(samples.c.id).where(samples.c[name].in_(asked) | samples.c.id.in_(drawn))
        found |= set(connection.execute(query).scalars())
    named = sorted(found)
    keys: list[SampleKey] = []
    for start in range(0, len(named), _ASKED_AT_ONCE):
        part = named[start : start + _ASKED_AT_ONCE]
        rows = connection.execute(select(samples.c.model, samples.c.id).where(samples.c.id.in_(part)))
        keys += [SampleKey(row.model, row.id) for row in rows]
    return keys


def _ids(keys: Sequence[SampleKey]) -> list[str]:
    return sorted({key.id for key in keys})


def _refuse_claimed(connection: Connection, keys: Sequence[SampleKey]) -> None:
    query = select(samples.c.model, samples.c.id, samples.c.cycle_id).where(claimed_by_running())
    claimed = {SampleKey(row.model, row.id): row.cycle_id for row in connection.execute(query)}
    taken = [key for key in keys if key in claimed]
    if taken:
        cycles = sorted({claimed[key] for key in taken})
        raise Conflict(
            f"{len(taken)} of the {len(keys)} samples to forget are used by the running cycle {', '.join(cycles)}. "
            f"Wait until it is finished, or close it with `retrain cycle abandon {cycles[0]}`; nothing was forgotten."
        )


def _selected(connection: Connection, asked: set[str]) -> dict[str, set[str]]:
    """By what cycles recorded, which stays when samples go, and by the claims of those that did not record yet."""
    recorded = connection.execute(
        select(stages.c.cycle_id, stages.c.output).where(stages.c.stage == "select")
    )
    found = {row.cycle_id: asked & set(row.output.get("sample_ids", ())) for row in recorded}
    for query in (
        select(samples.c.id, samples.c.cycle_id).where(samples.c.cycle_id.is_not(None)),
        select(annotations.c.sample_id, annotations.c.cycle_id),
    ):
        for name, cycle in connection.execute(query):
            if name in asked:
                found.setdefault(cycle, set()).add(name)
    return found


def _sorted(found: Mapping[str, set[str]]) -> dict[str, tuple[str, ...]]:
    return {key: tuple(sorted(names)) for key, names in found.items() if names}
