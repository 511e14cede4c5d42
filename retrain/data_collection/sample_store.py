"""Where samples live: images in packs, rows in the index; together or not at all."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from retrain.data_collection.perceptual_hash import PerceptualHash
from retrain.data_collection.sample import DataSample
from retrain.errors import BadInput, NotFound
from retrain.storage.blobs import BlobStore
from retrain.storage.packs import pack_file_name, read_pack, write_pack
from retrain.storage.schema import draws, likenesses, packs, samples
from retrain.storage.state import StateStore

_CACHED_PACKS = 32
_ASKED_AT_ONCE = 500
"""Bound variables of one query; SQLite's limit differs from build to build."""


@dataclass(frozen=True)
class Draw:
    """One frame that was taken, and what became of it.

    Attributes:
        id: of its record in the spool; storing it again changes nothing.
        outcome: stored, duplicate, near-duplicate or rejected.
        sample_id: the sample with its picture; None when it was rejected.
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


@dataclass(frozen=True)
class Arrival:
    """A draw, and for one that may be stored its sample, image and, to find near-duplicates, its likeness."""

    draw: Draw
    sample: DataSample | None = None
    image: bytes = b""
    picture: PerceptualHash | None = None


class SampleStore:
    """Adds samples and gives back their images.

    Args:
        cache: folder for packs fetched from a store elsewhere.
        owner: names whoever adds through this object, so that what a killed run left can be told from others' work.
    """

    def __init__(self, state: StateStore, blobs: BlobStore, cache: Path, owner: str) -> None:
        self._state, self._blobs, self._cache, self._owner = state, blobs, cache, owner

    def known(self, digests: Sequence[str]) -> set[str]:
        """Those of the image digests that are samples already."""
        with self._state.read() as connection:
            return _known(connection, digests)

    def known_draws(self, ids: Sequence[str]) -> set[str]:
        """Those of the draws that were stored before."""
        found: set[str] = set()
        with self._state.read() as connection:
            for start in range(0, len(ids), _ASKED_AT_ONCE):
                part = ids[start : start + _ASKED_AT_ONCE]
                found |= set(connection.execute(select(draws.c.id).where(draws.c.id.in_(part))).scalars())
        return found

    def add(self, arrivals: Sequence[Arrival], now: float) -> list[Draw]:
        """Store them: one pack with the new images, then all rows in one transaction. Returns the new draws.

        Run again after a kill, it adds what is missing. Of equal images one is stored; every draw is.

        Raises:
            StorageFull, Unavailable: nothing was added.
        """
        done = self.known_draws([arrival.draw.id for arrival in arrivals])
        waiting = [arrival for arrival in arrivals if arrival.draw.id not in done]
        # Reversed, so that of equal images the first wins.
        offered = {one.sample.id: one for one in reversed(waiting) if one.sample is not None}
        known = self.known(list(offered))
        fresh = {name: one for name, one in offered.items() if name not in known}
        pack = self._store_pack(fresh, now) if fresh else ""
        with self._state.write() as connection:
            # Another process may have stored some of these images since.
            known = _known(connection, list(offered))
            added = {name: one for name, one in fresh.items() if name not in known}
            rows = [_sample_row(one, pack, now) for one in added.values()]
            new = [_outcome(one, added) for one in waiting]
            if rows:
                connection.execute(insert(samples), rows)
            if pictures := [_picture_row(one, now) for one in added.values() if one.picture is not None]:
                connection.execute(insert(likenesses), pictures)
            if new:
                connection.execute(insert(draws), [_draw_row(one, now) for one in new])
            if pack:
                _keep_pack(connection, pack, used=bool(added))
        return new

    def image(self, sample: DataSample) -> bytes:
        """The encoded image of a sample.

        Raises:
            NotFound: its pack is gone.
            BadInput: its pack is damaged.
        """
        return next(iter(read_pack(self._pack_file(sample.pack), [sample.file_name])))

    def forget_leftovers(self) -> list[str]:
        """Delete packs that a killed run of this owner put and no sample refers to. Nobody else may add meanwhile."""
        with self._state.read() as connection:
            query = select(packs.c.id).where(packs.c.owner == self._owner, packs.c.state == "arriving")
            left = list(connection.execute(query).scalars())
        for pack in left:
            self._blobs.delete(pack_key(pack))
            with self._state.write() as connection:
                connection.execute(delete(packs).where(packs.c.id == pack, packs.c.state == "arriving"))
        return left

    def _store_pack(self, fresh: Mapping[str, Arrival], now: float) -> str:
        images = {one.sample.file_name: one.image for one in fresh.values() if one.sample is not None}
        with tempfile.TemporaryDirectory(dir=self._work_folder()) as folder:
            pack = write_pack(Path(folder), images.items())
            file = Path(folder) / pack_file_name(pack)
            # Noted before it is put, so that a kill leaves no object that nobody knows of.
            with self._state.write() as connection:
                if not connection.execute(select(packs.c.id).where(packs.c.id == pack)).first():
                    connection.execute(
                        insert(packs).values(
                            id=pack,
                            owner=self._owner,
                            state="arriving",
                            images=len(images),
                            bytes=file.stat().st_size,
                            made_at=now,
                        )
                    )
            self._blobs.put_file(pack_key(pack), file)
        return pack

    def _pack_file(self, pack: str) -> Path:
        """The pack on this machine; packs never change, so a cached one is as good as any."""
        cached = self._cache / "packs" / pack_file_name(pack)
        if not cached.exists():
            try:
                self._blobs.fetch(pack_key(pack), cached)
            except NotFound as error:
                raise NotFound(
                    f"The pack {pack} with collected images is gone from the blob store."
                ) from error
        return cached

    def _work_folder(self) -> Path:
        self._cache.mkdir(parents=True, exist_ok=True)
        return self._cache


def pack_key(pack: str) -> str:
    """Blob key of a pack."""
    return f"packs/{pack_file_name(pack)}"


def _known(connection: Connection, digests: Sequence[str]) -> set[str]:
    found: set[str] = set()
    for start in range(0, len(digests), _ASKED_AT_ONCE):
        part = digests[start : start + _ASKED_AT_ONCE]
        found |= set(connection.execute(select(samples.c.id).where(samples.c.id.in_(part))).scalars())
    return found


def _outcome(arrival: Arrival, added: Mapping[str, Arrival]) -> Draw:
    draw, sample = arrival.draw, arrival.sample
    if sample is None:
        return draw
    is_first = sample.id in added and added[sample.id].draw.id == draw.id
    return replace(draw, outcome="stored" if is_first else "duplicate", sample_id=sample.id)


def _sample_row(arrival: Arrival, pack: str, now: float) -> dict[str, Any]:
    if arrival.sample is None:
        raise BadInput("A rejected frame has no row.")
    return replace(arrival.sample, pack=pack).to_row(now)


def _picture_row(arrival: Arrival, now: float) -> dict[str, Any]:
    sample, picture = arrival.sample, arrival.picture
    assert sample is not None
    assert picture is not None
    return {
        "sample_id": sample.id,
        "model": sample.model,
        "camera": sample.camera,
        "stored_at": now,
        "picture": picture.to_bytes(),
    }


def _draw_row(draw: Draw, now: float) -> dict[str, Any]:
    return {**vars(draw), "audit": int(draw.audit), "stored_at": now}


def _keep_pack(connection: Connection, pack: str, *, used: bool) -> None:
    if used:
        connection.execute(update(packs).where(packs.c.id == pack).values(state="stored"))
