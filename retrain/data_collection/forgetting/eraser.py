"""Deletes image bytes that no sample names any more: from packs, from this machine's copies, from half-done writes."""

from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, func, select, update

from retrain.data_collection.forgetting.database_log import empty_log
from retrain.data_collection.forgetting.tombstones import read_tombstones
from retrain.data_collection.store.packs import ARRIVING, STORED, Guard, SamplePacks
from retrain.errors import BadInput, NotFound, PostConditionFailed
from retrain.storage.blobs import BlobStore
from retrain.storage.schema import packs, samples
from retrain.storage.state import StateStore

OWNER = "deletion"
"""Of the packs that are put and deleted here; see `SamplePacks`."""


@dataclass(frozen=True)
class Erased:
    """What one `Eraser.erase` did.

    Attributes:
        packs: replaced or deleted; the blob store was asked and has none of them any more.
        bytes: by which those were larger than what replaced them.
        left: what the database itself keeps of deleted rows, in words; empty when it keeps nothing.
    """

    packs: int
    bytes: int
    left: str = ""


class Eraser:
    """Completes every deletion of samples, also those that a killed process began. One at a time may work."""

    def __init__(
        self, state: StateStore, blobs: BlobStore, cache: Path, guard: Guard = lambda _connection: None
    ) -> None:
        """Set up.

        Args:
            blobs, cache: as for `SampleStore`.
            guard: run in each transaction; `Lease.check` of the lease that keeps others from erasing.
        """
        self.state, self.guard = state, guard
        self._blobs, self._packs = blobs, SamplePacks(state, blobs, cache, OWNER)

    def erase(self, now: float) -> Erased:
        """Bring packs and copies in step with the index. Killed anywhere and called again, it goes on.

        Others may add and read meanwhile; no row ever names a pack that is gone.

        Raises:
            PostConditionFailed: some packs could not be replaced; all others were.
        """
        self._packs.delete_leftovers()
        self._blobs.remove_unfinished()
        freed, failed = [], {}
        for pack in self._wasteful():
            try:
                freed.append(self._replace(pack, now))
            except (NotFound, BadInput) as error:
                failed[pack] = str(error)
        self._drop_forgotten_arrivals()
        self.prune_cache()
        left = empty_log(self.state)
        if failed:
            raise PostConditionFailed(_failure(failed))
        return Erased(len(freed), sum(freed), left)

    def prune_cache(self) -> None:
        """Delete the copies on this machine of packs that are gone, also of those deleted by another machine."""
        self._packs.prune_cache()

    def stored_bytes(self) -> int:
        """Size of all stored packs."""
        with self.state.read() as connection:
            query = select(func.coalesce(func.sum(packs.c.bytes), 0)).where(packs.c.state == STORED)
            return int(connection.execute(query).scalar_one())

    def _wasteful(self) -> list[str]:
        """Packs that hold more images than rows name them."""
        named = (
            # Two models' samples of the same image, stored together, name one file.
            select(samples.c.pack, func.count(samples.c.file_name.distinct()).label("images"))
            .group_by(samples.c.pack)
            .subquery("named")
        )
        query = (
            select(packs.c.id)
            .outerjoin(named, named.c.pack == packs.c.id)
            .where(packs.c.state == STORED, packs.c.images > func.coalesce(named.c.images, 0))
            .order_by(packs.c.made_at, packs.c.id)
        )
        with self.state.read() as connection:
            return list(connection.execute(query).scalars())

    def _replace(self, pack: str, now: float) -> int:
        """Move what is still wanted of a pack to a new one and delete the old. Returns bytes freed."""
        while True:
            with self.state.read() as connection:
                wanted = _named(connection, pack)
            fresh = self._copy(pack, wanted, now) if wanted else ""
            with self.state.write() as connection:
                self.guard(connection)
                # Unless somebody stored one of the deleted images again, and the pack is wanted with it.
                if _named(connection, pack) == wanted:
                    freed = _size(connection, pack) - _size(connection, fresh)
                    self._move(connection, pack, fresh)
                    break
            if fresh:
                self._packs.drop(fresh)
        self._packs.finish(pack)
        return freed

    def _copy(self, pack: str, wanted: list[str], now: float) -> str:
        fresh = self._packs.put(dict(zip(wanted, self._packs.read(pack, wanted), strict=True)), now)
        self._packs.verify(fresh)
        return fresh

    def _move(self, connection: Connection, pack: str, fresh: str) -> None:
        if fresh:
            connection.execute(update(samples).where(samples.c.pack == pack).values(pack=fresh))
            self._packs.keep(connection, fresh)
        if not self._packs.let_go(connection, pack, STORED):
            raise PostConditionFailed(f"The pack {pack} is used by others while it is deleted; call again.")

    def _drop_forgotten_arrivals(self) -> None:
        """Delete packs that others just put with forgotten images, or left so when killed; they put the rest again."""
        with self.state.read() as connection:
            arriving = list(connection.execute(select(packs.c.id).where(packs.c.state == ARRIVING)).scalars())
        for pack in arriving:
            digests = [Path(name).stem for name in self._packs.names(pack)]
            with self.state.read() as connection:
                forgotten = read_tombstones(connection, digests, (), ()).samples
            if forgotten:
                self._packs.drop(pack)


def _named(connection: Connection, pack: str) -> list[str]:
    """File names of the images whose rows name the pack."""
    query = select(samples.c.file_name).where(samples.c.pack == pack).distinct().order_by(samples.c.file_name)
    return list(connection.execute(query).scalars())


def _size(connection: Connection, pack: str) -> int:
    return connection.execute(select(packs.c.bytes).where(packs.c.id == pack)).scalar() or 0


def _failure(failed: dict[str, str]) -> str:
    shown = "; ".join(f"{pack}: {error}" for pack, error in list(failed.items())[:5])
    return (
        f"{len(failed)} packs still hold images of deleted samples, because the others in them cannot be read: {shown} "
        "Mend the blob store and call again, or forget the samples of these packs, too: then they are deleted unread."
    )
