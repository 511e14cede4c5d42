"""Takes pictures out of versions that were never committed, such as a killed cycle leaves."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from retrain.dataset.committing.packing import names_in, repack
from retrain.dataset.drafting.draft import Draft
from retrain.dataset.drafting.drafts import Drafts
from retrain.errors import BadInput, NotFound
from retrain.storage.digests import file_digest


@dataclass(frozen=True)
class Purged:
    """What was deleted.

    Attributes:
        drafts: name → pictures taken out of it. Its other pictures stay, and it can be committed without those.
        packs: files with packs of no version.
    """

    drafts: Mapping[str, int] = field(default_factory=dict)
    packs: int = 0


def purge_drafts(drafts: Drafts, gone: Collection[str]) -> Iterator[tuple[str, int]]:
    """Take pictures out of every draft; gives those that had some, with how many.

    Killed anywhere and called again, it goes on: a pack with such a picture is deleted last.
    """
    for name in drafts.names():
        try:
            draft = drafts.read(name)
        except NotFound:
            # Half discarded by a process that was killed: nobody can commit it.
            drafts.discard(name)
            continue
        if found := _purge(drafts, draft, gone):
            yield name, found


def delete_packs_with(places: Collection[Path], gone: Collection[str], committed: Collection[str]) -> int:
    """Delete the files below these folders that are packs of no version and hold such a picture; how many."""
    count = 0
    for path in sorted(path for place in places for path in place.rglob("*") if path.is_file()):
        if _digests(path) & set(gone) and file_digest(path) not in committed:
            path.unlink()
            count += 1
    return count


def _purge(drafts: Drafts, draft: Draft, gone: Collection[str]) -> int:
    folder = drafts.packs(draft)
    # Half written ones are in nobody's use.
    for arriving in folder.glob(".*"):
        arriving.unlink()
    holding = {pack.stem: pack for pack in folder.iterdir() if _digests(pack) & set(gone)}
    found = {image for pack in holding.values() for image in _digests(pack) if image in gone}
    items, pictures = drafts.items(draft), drafts.pictures(draft)
    found |= {image for image in (*items, *pictures) if image in gone}
    if not found:
        return 0
    kept = {image: item for image, item in items.items() if image not in gone}
    inside = {image: holding[item.pack] for image, item in kept.items() if item.pack in holding}
    packs = repack(kept, inside, folder)
    drafts.rewrite(
        draft,
        [msgspec.structs.replace(item, pack=packs.get(image, item.pack)) for image, item in kept.items()],
        {image: picture for image, picture in pictures.items() if image not in gone},
    )
    for pack in holding.values():
        pack.unlink()
    return len(found)


def _digests(path: Path) -> set[str]:
    """Of the images in a pack; none in any other file."""
    try:
        return {Path(name).stem for name in names_in(path)}
    except BadInput:
        return set()
