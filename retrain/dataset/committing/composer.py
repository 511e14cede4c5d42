"""Makes a version of a draft: its images, their splits, the leak check, and the packs."""

import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from retrain.dataset.committing.assignment import decide_splits
from retrain.dataset.committing.leaks import LeakReport, find_leaks
from retrain.dataset.committing.packing import arrange_packs, names_in
from retrain.dataset.committing.pictures import Pictures
from retrain.dataset.drafting.additions import in_packs
from retrain.dataset.drafting.candidates import Progress
from retrain.dataset.drafting.draft import Draft
from retrain.dataset.drafting.drafts import Drafts
from retrain.dataset.drafting.named_labels import with_used_classes
from retrain.dataset.duplicates import near_pairs
from retrain.dataset.history.history import History
from retrain.dataset.history.manifest import check_version
from retrain.dataset.measuring.coverage import camera_of
from retrain.dataset.splitter import DatasetSplitter
from retrain.dataset.version import DatasetItem, DatasetVersion
from retrain.duplicates.perceptual_hash import PerceptualHash
from retrain.errors import BadInput
from retrain.storage.packs import read_pack

Items = dict[str, DatasetItem]


class Composer:
    """Works under the repository's lock.

    Args:
        incoming: folder for packs that belong to no version yet.
    """

    def __init__(self, history: History, drafts: Drafts, pictures: Pictures, incoming: Path) -> None:
        self._history, self._drafts, self._pictures = history, drafts, pictures
        self._incoming = incoming

    def parent(self, draft: Draft) -> DatasetVersion | None:
        return None if draft.parent is None else self._history.get(draft.parent)

    def base(self, draft: Draft, forgotten: Iterable[str] = ()) -> Items:
        """What the draft has of its parent's images."""
        parent = self.parent(draft)
        items = dict(parent.by_image) if parent and draft.inherits else {}
        for image in (*self._drafts.left_out(draft), *forgotten):
            items.pop(image, None)
        return items

    def review(
        self, draft: Draft, forgotten: Iterable[str] = (), progress: Progress | None = None
    ) -> tuple[Items, LeakReport]:
        """The version's items, each in its split, and the leaks between them.

        Raises:
            BadInput: there are no images.
        """
        parent = self.parent(draft)
        gone = frozenset(forgotten)
        # Also what was forgotten after it was added.
        drafted = {image: item for image, item in self._drafts.items(draft).items() if image not in gone}
        items = {**self.base(draft, gone), **drafted}
        if not items:
            raise BadInput(f"Draft {draft.name!r} has no images; add some first.")
        known = parent.by_image if parent else {}
        fresh = {image: item for image, item in items.items() if image not in known}
        brought = {path.stem for path in self._drafts.packs(draft).glob("*.zip")}
        new = self._drafts.pictures(draft)
        new |= self.pictures((item for item in fresh.values() if item.pack not in brought), progress)
        new = {image: picture for image, picture in new.items() if image in fresh}
        old = (
            self.pictures((item for image, item in items.items() if image in known), progress) if new else {}
        )
        if progress is not None:
            progress("comparing pictures", 0, len(new))
        groups = _kept_together(items)
        cameras = {image: camera for image, item in items.items() if (camera := camera_of(item.metadata))}
        pairs = near_pairs(new, old, groups=groups, cameras=cameras)
        items = decide_splits(items, pairs, DatasetSplitter(draft.splits, draft.salt))
        return items, find_leaks(items, pairs, draft.waivers, known, len(new), len(fresh) - len(new))

    def compose(
        self, draft: Draft, waive: str | None, forgotten: Iterable[str] = (), progress: Progress | None = None
    ) -> DatasetVersion:
        """The version that a draft becomes, with its new packs in `incoming`.

        Raises:
            BadInput: there are no images, or an impossible one.
            Leakage: there are leaks that nobody accepted.
            StorageFull: no space left for the packs.
        """
        items, report = self.review(draft, forgotten, progress)
        waivers = report.accepted(waive)
        shutil.rmtree(self._incoming, ignore_errors=True)
        self._incoming.mkdir(parents=True)
        packs = arrange_packs(items, self._files(draft, items, frozenset(forgotten)), self._incoming)
        items = in_packs(items, packs)
        classes = draft.classes
        if draft.learns_classes:
            classes, items = with_used_classes(classes, items)
        version = DatasetVersion(
            name=draft.name,
            description=draft.description,
            classes=classes,
            parent=draft.parent,
            parent_digest=draft.parent_digest,
            splits=draft.splits,
            salt=draft.salt,
            items=tuple(items[image] for image in sorted(items)),
            waivers=waivers,
            gold=draft.gold,
            merged=draft.merged,
            is_aside=draft.is_aside,
        )
        return check_version(version, self.parent(draft))

    def keep_pictures(self, draft: Draft, version: DatasetVersion) -> None:
        """Remember the hashes of a committed version's new images, so that the next version need not decode them."""
        pictures = self._drafts.pictures(draft)
        brought = {
            Path(name).stem for path in self._drafts.packs(draft).glob("*.zip") for name in names_in(path)
        }
        inside: dict[str, set[str]] = defaultdict(set)
        for item in version.items:
            inside[item.pack].add(item.image)
        for pack, images in inside.items():
            # A pack that also has old images, packed anew beside what was forgotten, would seem to have no others.
            if images <= brought:
                self._pictures.keep(pack, {image: pictures[image] for image in images & pictures.keys()})

    def pictures(
        self, items: Iterable[DatasetItem], progress: Progress | None = None
    ) -> Mapping[str, PerceptualHash]:
        """Hashes of committed images."""
        wanted = {item.image: item for item in items}
        found: dict[str, PerceptualHash] = {}
        packs = sorted({item.pack for item in wanted.values()})
        for done, pack in enumerate(packs, start=1):
            found |= self._pictures.of_pack(pack, lambda pack=pack: self._images(pack))  # type: ignore[misc]
            if progress is not None:
                progress("reading known pictures", done, len(packs))
        return {image: picture for image, picture in found.items() if image in wanted}

    def _files(self, draft: Draft, items: Items, forgotten: frozenset[str]) -> dict[str, Path]:
        """Packs that the draft brings, and known ones with forgotten images, which must be packed without them."""
        files = {path.stem: path for path in self._drafts.packs(draft).glob("*.zip")}
        for pack in {item.pack for item in items.values()} - files.keys() if forgotten else ():
            path = self._history.find_pack(pack)
            if any(Path(name).stem in forgotten for name in names_in(path)):
                files[pack] = path
        return files

    def _images(self, pack: str) -> Iterator[tuple[str, bytes]]:
        """All images of a committed pack, with their bytes."""
        path = self._history.find_pack(pack)
        names = names_in(path)
        yield from zip((Path(name).stem for name in names), read_pack(path, names), strict=True)


def _kept_together(items: Mapping[str, DatasetItem]) -> dict[str, str]:
    """Image → what surely stays in one split. Of a group that was torn apart by waiver, that is a part of it."""
    splits: dict[str, set[str]] = defaultdict(set)
    for item in items.values():
        splits[item.group].add(item.split)
    return {
        image: item.group if len(splits[item.group]) == 1 else f"{item.group}\0{item.split}"
        for image, item in items.items()
    }
