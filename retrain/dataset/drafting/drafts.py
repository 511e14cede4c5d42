"""Versions in the making: kept on disk in a scratch folder that no reader sees, until they are committed."""

import shutil
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import msgspec

from retrain.dataset.committing.pictures import read_pictures, written_pictures
from retrain.dataset.drafting.draft import Draft, check_name
from retrain.dataset.repository.disk import sync_folder, write_durably
from retrain.dataset.version import DatasetItem
from retrain.duplicates.perceptual_hash import PerceptualHash
from retrain.errors import Conflict, NotFound


class _Batch(msgspec.Struct, frozen=True):
    """What one call changed in a draft."""

    items: tuple[DatasetItem, ...]
    left_out: tuple[str, ...] = ()


class Drafts:
    """The drafts under one folder; the caller holds the repository's lock.

    Each call that changes a draft adds one file to it, all of it or nothing. A draft that is begun again starts empty.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._read: dict[str, tuple[list[Path], dict[str, DatasetItem], set[str]]] = {}

    def names(self) -> list[str]:
        """Of all drafts, also of half discarded ones."""
        return sorted(path.name for path in self._root.glob("[!.]*") if path.is_dir())

    def begin(self, draft: Draft) -> None:
        """Store an empty draft, in place of an older one of that name."""
        self.discard(draft.name)
        folder = self._folder(draft.name)
        for name in ("batches", "packs"):
            (folder / name).mkdir(parents=True)
        write_durably(folder / "draft.json", msgspec.json.encode(draft))

    def learn_classes(self, draft: Draft) -> None:
        """Store a draft that has more classes than before."""
        write_durably(self._folder(draft.name) / "draft.json", msgspec.json.encode(draft))

    def require_free(self, draft: Draft) -> None:
        """Make sure that nobody is making another version of this name.

        Raises:
            Conflict: somebody is. What a killed run of the same began is nobody's.
        """
        try:
            there = self.read(draft.name)
        except NotFound:
            return
        if msgspec.structs.replace(there, nonce=draft.nonce) != draft:
            raise Conflict(
                f"A draft {draft.name!r} is in the making; commit it first, or choose another name."
            )

    def read(self, version_id: str) -> Draft:
        """The stored draft.

        Raises:
            NotFound: there is none of that name.
            Conflict: another process began it anew, so images added before are gone from it.
        """
        name, _, nonce = version_id.partition("@")
        try:
            stored = (self._folder(name) / "draft.json").read_bytes()
        except FileNotFoundError:
            raise NotFound(
                f"No draft {name!r}; begin one with create_version. Committed versions never change."
            ) from None
        draft = msgspec.json.decode(stored, type=Draft)
        if nonce and nonce != draft.nonce:
            raise Conflict(
                f"Draft {name!r} was begun anew by somebody else; choose another name or begin it again."
            )
        return draft

    def items(self, draft: Draft) -> dict[str, DatasetItem]:
        """New and relabelled images by digest. The packs of new ones are in `packs`."""
        return dict(self._state(draft)[0])

    def left_out(self, draft: Draft) -> frozenset[str]:
        """Images that were taken out, also such as the parent has."""
        return frozenset(self._state(draft)[1])

    def pictures(self, draft: Draft) -> dict[str, PerceptualHash]:
        """Of the new images."""
        folder = self._folder(draft.name) / "batches"
        found: dict[str, PerceptualHash] = {}
        for file in sorted(folder.glob("*.pictures")):
            found |= read_pictures(file.read_bytes())
        return found

    def record(
        self,
        draft: Draft,
        items: Iterable[DatasetItem],
        left_out: Collection[str] = (),
        pictures: Mapping[str, PerceptualHash] | None = None,
    ) -> None:
        """All of it, or nothing if the process is killed; a later item replaces an earlier one."""
        folder = self._folder(draft.name) / "batches"
        number = int(files[-1].stem) + 1 if (files := self._batches(draft.name)) else 1
        if pictures:
            write_durably(folder / f"{number:06d}.pictures", written_pictures(pictures))
        batch = _Batch(tuple(items), tuple(sorted(left_out)))
        write_durably(folder / f"{number:06d}.json", msgspec.json.encode(batch))

    def rewrite(
        self, draft: Draft, items: Iterable[DatasetItem], pictures: Mapping[str, PerceptualHash]
    ) -> None:
        """Make these all that the draft holds; nothing else that was recorded stays on disk."""
        self.record(draft, items, self.left_out(draft), pictures)
        newest = self._batches(draft.name)[-1]
        for file in newest.parent.iterdir():
            # By name: a killed rewrite may have left hashes under the number that this one took.
            if file.stem != newest.stem:
                file.unlink()

    def packs(self, draft: Draft) -> Path:
        """Folder of the packs that it brings."""
        return self._folder(draft.name) / "packs"

    def discard(self, name: str) -> None:
        if (folder := self._folder(name)).exists():
            # First, so that a killed call leaves no draft with less in it.
            (folder / "draft.json").unlink(missing_ok=True)
            sync_folder(folder)
            shutil.rmtree(folder)

    def last_change(self, name: str) -> float:
        """When it was changed last, in seconds since the epoch."""
        folder = self._folder(name)
        return max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))

    def _state(self, draft: Draft) -> tuple[dict[str, DatasetItem], set[str]]:
        """Items and images left out. Each file is read once: an addition must not cost more the more there were."""
        files = self._batches(draft.name)
        seen, items, gone = self._read.get(draft.id, ([], {}, set()))
        if files[: len(seen)] != seen:
            seen, items, gone = [], {}, set()
        for file in files[len(seen) :]:
            batch = msgspec.json.decode(file.read_bytes(), type=_Batch)
            items.update((item.image, item) for item in batch.items)
            gone = gone.difference(item.image for item in batch.items).union(batch.left_out)
            for image in batch.left_out:
                items.pop(image, None)
        self._read = {draft.id: (files, items, gone)}
        return items, gone

    def _batches(self, name: str) -> list[Path]:
        return sorted((self._folder(name) / "batches").glob("*.json"))

    def _folder(self, name: str) -> Path:
        return self._root / check_name(name)
