"""Deletes what no version uses."""

import shutil
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from retrain.dataset.committing.pictures import Pictures
from retrain.dataset.drafting.drafts import Drafts
from retrain.dataset.drafting.purging import Purged, delete_packs_with, purge_drafts
from retrain.dataset.history.history import PACKS, History
from retrain.dataset.repository.dvc_repository import DvcRepository
from retrain.errors import NotFound


@dataclass(frozen=True)
class Garbage:
    """What was deleted.

    Attributes:
        drafts: names of drafts that nobody had touched for long.
        files: of DVC's cache that no version uses, and their bytes.
        pictures: files of perceptual hashes that no version uses.
    """

    drafts: tuple[str, ...]
    files: int
    bytes: int
    pictures: int


class Cleaner:
    """Works under the repository's lock; killed anywhere and called again, it goes on."""

    def __init__(
        self, repository: DvcRepository, history: History, drafts: Drafts, pictures: Pictures, incoming: Path
    ) -> None:
        self._repository, self._history = repository, history
        self._drafts, self._pictures, self._incoming = drafts, pictures, incoming

    def collect(self, drafts_before: float) -> Garbage:
        """Delete drafts last touched before this moment, leftovers of killed commits, and hashes of gone packs."""
        stale = [name for name in self._drafts.names() if self._drafts.last_change(name) < drafts_before]
        for name in stale:
            self._drafts.discard(name)
        shutil.rmtree(self._incoming, ignore_errors=True)
        files, size = self._repository.collect_garbage()
        return Garbage(tuple(stale), files, size, self._pictures.forget_others(self._packs_here()))

    def purge(self, images: Collection[str]) -> Purged:
        """Delete pictures from drafts, and packs with them that belong to no version."""
        drafts = dict(purge_drafts(self._drafts, images))
        # A commit makes it anew, and one that was killed left there what nobody reads.
        shutil.rmtree(self._incoming, ignore_errors=True)
        folder = self._repository.folder
        places = (folder / PACKS, folder / ".dvc" / "cache")
        return Purged(drafts, delete_packs_with(places, images, self._committed_packs()))

    def _packs_here(self) -> set[str]:
        """Of the versions whose data is on this machine."""
        packs: set[str] = set()
        for name in self._history.names():
            with suppress(NotFound):
                packs |= {item.pack for item in self._history.get(name).items}
        return packs

    def _committed_packs(self) -> set[str]:
        return {item.pack for name in self._history.names() for item in self._history.get(name).items}
