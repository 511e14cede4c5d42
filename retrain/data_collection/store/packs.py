"""Packs of collected images in the blob store, put and deleted so that no row of a sample ever misses its pack.

A pack is *arriving* while it is put, *stored* once rows of samples name it, and *leaving* while it is deleted. Each
step is recorded before the blob is touched, so a kill leaves no blob that nobody knows of. A stored pack holds exactly
the images whose rows name it, unless rows were deleted since; then `Eraser` is to replace it.
"""

import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from sqlalchemy import Connection, delete, insert, select, update

from retrain.data_collection.store.work_folders import remove_left_folders, work_folder
from retrain.errors import BadInput, NotFound, PostConditionFailed, Unavailable
from retrain.storage.blobs import BlobStore
from retrain.storage.digests import file_digest
from retrain.storage.packs import pack_file_name, read_pack, write_pack
from retrain.storage.schema import packs, samples
from retrain.storage.state import StateStore

ARRIVING, STORED, LEAVING = "arriving", "stored", "leaving"

Guard = Callable[[Connection], None]
"""Raises unless the caller may still write; run inside the transaction (`Lease.check`)."""


class SamplePacks:
    """The packs that one owner adds and deletes, and everybody's to read.

    Args:
        cache: folder for packs fetched from a store elsewhere, and for scratch.
        owner: names whoever works through this object, one at a time, so that what a killed run left can be told from
            others' work.
    """

    def __init__(self, state: StateStore, blobs: BlobStore, cache: Path, owner: str) -> None:
        self._state, self._blobs, self._owner = state, blobs, owner
        self._cached, self._scratch = cache / "packs", cache / "work"

    def put(self, images: Mapping[str, bytes], now: float) -> str:
        """Put images by file name into a new pack, which `keep` or `drop` has to follow. Returns the pack.

        Raises:
            StorageFull, Unavailable: it is not stored; call again.
        """
        with work_folder(self._scratch) as folder:
            pack = write_pack(folder, images.items())
            file = folder / pack_file_name(pack)
            self._note(pack, len(images), file.stat().st_size, now)
            self._blobs.put_file(pack_key(pack), file)
        return pack

    def verify(self, pack: str) -> None:
        """Read a pack back from the blob store.

        Raises:
            PostConditionFailed: it holds other bytes than its name says.
        """
        with work_folder(self._scratch) as folder:
            if file_digest(self._fetched(pack, folder)) != pack:
                raise PostConditionFailed(f"The blob store gives other bytes for pack {pack} than were put.")

    def names(self, pack: str) -> list[str]:
        """File names of the images in a pack, whatever its state; none if the blob store does not have it."""
        with work_folder(self._scratch) as folder:
            try:
                with zipfile.ZipFile(self._fetched(pack, folder)) as archive:
                    return archive.namelist()
            except NotFound:
                return []

    def keep(self, connection: Connection, pack: str) -> None:
        """Make a pack stored, in the transaction that adds rows which name it.

        Raises:
            Unavailable: somebody deleted it meanwhile; put it again.
        """
        there = (packs.c.id == pack, packs.c.state.in_((ARRIVING, STORED)))
        if not connection.execute(update(packs).where(*there).values(state=STORED)).rowcount:
            raise Unavailable(
                f"The pack {pack} was deleted by another process before it was used; call again."
            )

    def drop(self, pack: str) -> bool:
        """Delete a pack that is still arriving; False, and nothing is done, if somebody uses it."""
        with self._state.write() as connection:
            if not self.let_go(connection, pack, ARRIVING):
                return False
        self.finish(pack)
        return True

    def let_go(self, connection: Connection, pack: str, was: str) -> bool:
        """Mark a pack as leaving if it is in the given state and no row names it; `finish` has to follow."""
        named = select(samples.c.id).where(samples.c.pack == pack).exists()
        idle = (packs.c.id == pack, packs.c.state == was, ~named)
        change = update(packs).where(*idle).values(state=LEAVING, owner=self._owner)
        return connection.execute(change).rowcount == 1

    def finish(self, pack: str) -> None:
        """Delete a leaving pack from the blob store; `prune_cache` deletes its copies.

        Raises:
            PostConditionFailed: the store still has it.
        """
        self._blobs.delete(pack_key(pack))
        if self._blobs.exists(pack_key(pack)):
            raise PostConditionFailed(f"The blob store still has the pack {pack} after it was deleted.")
        with self._state.write() as connection:
            connection.execute(delete(packs).where(packs.c.id == pack, packs.c.state == LEAVING))

    def delete_leftovers(self) -> list[str]:
        """Delete what a killed run of this owner left. Nobody else may work as this owner meanwhile."""
        with self._state.read() as connection:
            ours = select(packs.c.id, packs.c.state).where(
                packs.c.owner == self._owner, packs.c.state != STORED
            )
            left = connection.execute(ours).all()
        for pack, state in left:
            if state == LEAVING:
                self.finish(pack)
            else:
                self.drop(pack)
        remove_left_folders(self._scratch)
        return [pack for pack, _ in left]

    def prune_cache(self) -> None:
        """Delete the copies on this machine of packs that are no longer stored, wherever they were deleted."""
        # Listed before it is asked: a copy made later is of a pack that was stored then.
        copies = list(self._cached.iterdir()) if self._cached.is_dir() else []
        stored = self._stored() if copies else set()
        for copy in copies:
            if _pack_of(copy) not in stored:
                copy.unlink(missing_ok=True)

    def read(self, pack: str, names: Sequence[str]) -> list[bytes]:
        """Images of a stored pack by file name, from a copy on this machine: packs never change.

        Raises:
            NotFound: it is gone.
            BadInput: it is damaged.
        """
        try:
            return list(read_pack(self.file(pack), names))
        except BadInput:
            # Perhaps only the copy is.
            self._uncache(pack)
            return list(read_pack(self.file(pack), names))

    def file(self, pack: str) -> Path:
        """A copy of a stored pack on this machine, which `prune_cache` deletes once the pack is.

        Raises:
            NotFound: it is gone.
        """
        cached = self._cached / pack_file_name(pack)
        if not cached.exists():
            self._fetched(pack, self._cached)
            with self._state.read() as connection:
                state = connection.execute(select(packs.c.state).where(packs.c.id == pack)).scalar()
            if state != STORED:
                # Deleted while it was fetched, perhaps after whoever deleted it looked here.
                self._uncache(pack)
                raise NotFound(f"The pack {pack} with collected images was deleted.")
        return cached

    def _fetched(self, pack: str, folder: Path) -> Path:
        target = folder / pack_file_name(pack)
        try:
            self._blobs.fetch(pack_key(pack), target)
        except NotFound as error:
            raise NotFound(f"The pack {pack} with collected images is gone from the blob store.") from error
        return target

    def _note(self, pack: str, images: int, size: int, now: float) -> None:
        """Record it before it is put, so that a kill leaves no object that nobody knows of."""
        row = {"id": pack, "state": ARRIVING, "images": images, "bytes": size, "made_at": now}
        with self._state.write() as connection:
            state = connection.execute(select(packs.c.state).where(packs.c.id == pack)).scalar()
            if state is None:
                connection.execute(insert(packs).values(**row, owner=self._owner))
            elif state == ARRIVING:
                # The same images from another owner, perhaps a dead one: from now on it is ours to delete.
                connection.execute(update(packs).where(packs.c.id == pack).values(owner=self._owner))
            elif state == LEAVING:
                raise Unavailable(
                    f"The pack {pack} is just being deleted and cannot be stored again before that is done; call "
                    "again, and if this lasts, finish what was killed with `retrain collect retain`."
                )

    def _uncache(self, pack: str) -> None:
        for copy in self._cached.iterdir() if self._cached.is_dir() else ():
            if _pack_of(copy) == pack:
                copy.unlink(missing_ok=True)

    def _stored(self) -> set[str]:
        with self._state.read() as connection:
            return set(connection.execute(select(packs.c.id).where(packs.c.state == STORED)).scalars())


def pack_key(pack: str) -> str:
    """Blob key of a pack."""
    return f"packs/{pack_file_name(pack)}"


def _pack_of(copy: Path) -> str:
    """The pack that a cached file, or a half-written one, is a copy of."""
    return copy.name.removeprefix(".").partition(".")[0]
