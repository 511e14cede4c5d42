"""Where samples live: images in packs, rows in the index; together or not at all."""

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from sqlalchemy import Column, Connection, insert, select, tuple_

from retrain.data_collection.forgetting.tombstones import Tombstones, read_tombstones
from retrain.data_collection.sample import DataSample, SampleKey
from retrain.data_collection.store.packs import SamplePacks
from retrain.duplicates.perceptual_hash import PerceptualHash
from retrain.errors import BadInput, NotFound, Unavailable
from retrain.storage.blobs import BlobStore
from retrain.storage.schema import draws, likenesses, samples
from retrain.storage.state import StateStore

FORGOTTEN = "forgotten"
"""Outcome of draws whose picture was forgotten, and what stands for the name of a forgotten camera."""
_ASKED_AT_ONCE = 500
"""Bound variables of one query; SQLite's limit differs from build to build."""


@dataclass(frozen=True)
class Draw:
    """One frame that was taken, and what became of it.

    Attributes:
        id: of its record in the spool; storing it again changes nothing.
        inclusion_probability: chance that it was taken.
        outcome: stored, duplicate, near-duplicate, rejected or forgotten.
        sample_id: the model's sample with its picture; None when it was rejected or forgotten.
    """

    id: str
    model: str
    camera: str
    release: str
    captured_at: float
    strategy: str
    reason: str
    inclusion_probability: float
    audit: bool
    outcome: str
    detail: str = ""
    sample_id: str | None = None

    @property
    def sample(self) -> SampleKey | None:
        """The sample with its picture."""
        return None if self.sample_id is None else SampleKey(self.model, self.sample_id)


@dataclass(frozen=True)
class Arrival:
    """A draw, and for one that may be stored its sample, image and, to find near-duplicates, its likeness.

    Attributes:
        taken_at: when it was handed over, to tell what a forgotten camera saw before; None: when it was captured.
        audit_rate: chance that it was taken by the audit arm, which keeps repeated pictures too.
    """

    draw: Draw
    sample: DataSample | None = None
    image: bytes = b""
    picture: PerceptualHash | None = None
    taken_at: float | None = None
    audit_rate: float = 0.0

    @property
    def key(self) -> SampleKey | None:
        """The sample with its picture: its own, or the stored one it repeats."""
        return self.draw.sample if self.sample is None else self.sample.key


@dataclass(frozen=True)
class _Known:
    """What the index says about arrivals: draws and samples that are there, and what must not be."""

    draws: set[str]
    samples: set[SampleKey]
    tombstones: Tombstones

    @classmethod
    def read(cls, connection: Connection, arrivals: Sequence[Arrival]) -> Self:
        made = [arrival.draw for arrival in arrivals]
        named = [key for arrival in arrivals if (key := arrival.key) is not None]
        return cls(
            _among(connection, draws.c.id, [draw.id for draw in made]),
            _stored(connection, named),
            read_tombstones(
                connection,
                (key.id for key in named),
                (draw.camera for draw in made),
                (draw.model for draw in made),
            ),
        )

    def is_forgotten(self, arrival: Arrival) -> bool:
        draw, key = arrival.draw, arrival.key
        return self.tombstones.cover(key and key.id, draw.camera, draw.model, _taken_at(arrival))

    def fresh(self, arrivals: Sequence[Arrival]) -> dict[SampleKey, Arrival]:
        """Samples to be stored; of equal images the first wins, hence the reversal."""
        return {
            one.sample.key: one
            for one in reversed(arrivals)
            if one.sample is not None
            and one.draw.id not in self.draws
            and one.sample.key not in self.samples
            and not self.is_forgotten(one)
        }

    def outcome(self, arrival: Arrival, fresh: Mapping[SampleKey, Arrival]) -> Draw:
        """The draw as it is stored."""
        draw, key = arrival.draw, arrival.key
        if self.is_forgotten(arrival):
            hidden = self.tombstones.cover_camera(draw.camera, _taken_at(arrival))
            camera = FORGOTTEN if hidden else draw.camera
            return replace(draw, outcome=FORGOTTEN, detail="", sample_id=None, camera=camera)
        if arrival.sample is not None:
            first = fresh.get(arrival.sample.key)
            is_first = first is not None and first.draw.id == draw.id
            return replace(draw, outcome="stored" if is_first else "duplicate", sample_id=arrival.sample.id)
        if key is not None and key not in self.samples and key not in fresh:
            gone = "The stored picture that it repeats was deleted since."
            return replace(draw, outcome="rejected", detail=gone, sample_id=None)
        return draw


def owner_of(folder: Path) -> str:
    """A name for what adds from this folder on this host."""
    return f"{socket.gethostname()}:{folder}"[:300]


class SampleStore:
    """Adds samples and gives back their images.

    Args:
        cache: folder for packs fetched from a store elsewhere, and for scratch.
        owner: names whoever adds through this object, so that what a killed run left can be told from others' work.
    """

    def __init__(self, state: StateStore, blobs: BlobStore, cache: Path, owner: str) -> None:
        self._state, self._packs = state, SamplePacks(state, blobs, cache, owner)

    def known(self, keys: Sequence[SampleKey]) -> set[SampleKey]:
        """Those of the samples that are stored already."""
        with self._state.read() as connection:
            return _stored(connection, keys)

    def add(self, arrivals: Sequence[Arrival], now: float) -> list[Draw]:
        """Store them: one pack with the new images, then all rows in one transaction. Returns the new draws.

        Run again after a kill, it adds what is missing. Of equal images one is stored; every draw is. What was
        forgotten is not stored, and its draw says so.

        Raises:
            StorageFull, Unavailable: nothing was added.
        """
        while True:
            with self._state.read() as connection:
                fresh = _Known.read(connection, arrivals).fresh(arrivals)
            pack = self._packs.put(_images(fresh), now) if fresh else ""
            with self._state.write() as connection:
                known = _Known.read(connection, arrivals)
                # Had another process stored or forgotten some of these images since, the pack would hold too much.
                if known.fresh(arrivals).keys() == fresh.keys():
                    return self._add_rows(connection, known, arrivals, pack, now)
            if pack:
                self._packs.drop(pack)

    def image(self, sample: DataSample) -> bytes:
        """The encoded image of a sample.

        Raises:
            NotFound: it was deleted since, or its pack is gone.
            BadInput: its pack is damaged.
        """
        pack = self._pack_of(sample)
        while True:
            try:
                return self._packs.read(pack, [sample.file_name])[0]
            except (NotFound, Unavailable):
                # Others in the pack may have been forgotten meanwhile: then its images moved to a new one.
                if (moved := self._pack_of(sample)) == pack:
                    raise
                pack = moved

    def pack_file(self, sample: DataSample) -> Path:
        """A copy, on this machine, of the pack that holds the sample's image; it goes when the pack is deleted.

        Raises:
            NotFound: the sample was deleted since, or its pack is gone.
        """
        return self._packs.file(self._pack_of(sample))

    def forget_leftovers(self) -> list[str]:
        """Delete packs that a killed run of this owner put and no sample refers to. Nobody else may add meanwhile.

        Copies on this machine of packs that were deleted elsewhere go, too.
        """
        left = self._packs.delete_leftovers()
        self._packs.prune_cache()
        return left

    def _add_rows(
        self, connection: Connection, known: _Known, arrivals: Sequence[Arrival], pack: str, now: float
    ) -> list[Draw]:
        fresh = known.fresh(arrivals)
        new = [known.outcome(one, fresh) for one in arrivals if one.draw.id not in known.draws]
        if fresh:
            connection.execute(insert(samples), [_sample_row(one, pack, now) for one in fresh.values()])
            self._packs.keep(connection, pack)
        if pictures := [_picture_row(one) for one in fresh.values() if one.picture is not None]:
            connection.execute(insert(likenesses), pictures)
        if new:
            connection.execute(insert(draws), [_draw_row(one, now) for one in new])
        return new

    def _pack_of(self, sample: DataSample) -> str:
        """Asked each time: packs are replaced when some of their images are forgotten."""
        with self._state.read() as connection:
            query = select(samples.c.pack).where(samples.c.model == sample.model, samples.c.id == sample.id)
            pack: str | None = connection.execute(query).scalar()
        if pack is None:
            raise NotFound(
                f"The sample {sample.id} is not stored; it was forgotten, or deleted by retention."
            )
        return pack


def _among(connection: Connection, column: Column[str], keys: Sequence[str]) -> set[str]:
    """Those of the keys that the column has."""
    found: set[str] = set()
    for start in range(0, len(keys), _ASKED_AT_ONCE):
        part = keys[start : start + _ASKED_AT_ONCE]
        found |= set(connection.execute(select(column).where(column.in_(part))).scalars())
    return found


def _stored(connection: Connection, keys: Sequence[SampleKey]) -> set[SampleKey]:
    """Those of the samples that are in the index."""
    found: set[SampleKey] = set()
    pairs = _ASKED_AT_ONCE // 2
    for start in range(0, len(keys), pairs):
        among = tuple_(samples.c.model, samples.c.id).in_(keys[start : start + pairs])
        rows = connection.execute(select(samples.c.model, samples.c.id).where(among))
        found |= {SampleKey(row.model, row.id) for row in rows}
    return found


def _taken_at(arrival: Arrival) -> float:
    return arrival.draw.captured_at if arrival.taken_at is None else arrival.taken_at


def _images(fresh: Mapping[SampleKey, Arrival]) -> dict[str, bytes]:
    return {one.sample.file_name: one.image for one in fresh.values() if one.sample is not None}


def _sample_row(arrival: Arrival, pack: str, now: float) -> dict[str, Any]:
    if arrival.sample is None:
        raise BadInput("A rejected frame has no row.")
    return replace(arrival.sample, pack=pack).to_row(now)


def _picture_row(arrival: Arrival) -> dict[str, Any]:
    sample, picture = arrival.sample, arrival.picture
    assert sample is not None
    assert picture is not None
    return {
        "sample_id": sample.id,
        "model": sample.model,
        "camera": sample.camera,
        "picture": picture.to_bytes(),
    }


def _draw_row(draw: Draw, now: float) -> dict[str, Any]:
    return {**vars(draw), "audit": int(draw.audit), "stored_at": now}
