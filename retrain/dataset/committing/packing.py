"""Which packs a version's new images come in: those they were added with, where nothing else is in them."""

import zipfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from retrain.dataset.repository.disk import link
from retrain.dataset.version import DatasetItem
from retrain.errors import BadInput
from retrain.storage.digests import file_digest
from retrain.storage.pack_reader import PackReader
from retrain.storage.packs import pack_file_name, write_packs

_WORTH_KEEPING = 64 * 2**20
"""Smaller packs are put together at the commit, so that many small additions do not make many files."""
_AT_ONCE = 256 * 2**20
"""Bytes of images held in memory while they are put together."""


def arrange_packs(
    items: Mapping[str, DatasetItem], files: Mapping[str, Path], incoming: Path
) -> dict[str, str]:
    """Put the packs of a version's new images into `incoming`.

    A pack is taken as it is (by hard link) when the version has every image in it, and it is large or the only one.
    All other images are packed anew, so that no new pack of a version holds what the version does not show.

    Args:
        items: of the version, by image; only those whose pack is in `files` are looked at.
        files: pack → its file.

    Returns:
        Image → pack, for the images that were packed anew.
    """
    here: dict[str, list[DatasetItem]] = defaultdict(list)
    for item in items.values():
        if item.pack in files:
            here[item.pack].append(item)
    kept = {pack for pack, members in here.items() if _is_kept(files[pack], members, len(here))}
    for pack in kept:
        link(files[pack], incoming / pack_file_name(pack))
    loose = {
        item.image: files[pack] for pack, members in here.items() if pack not in kept for item in members
    }
    return repack(items, loose, incoming)


def repack(items: Mapping[str, DatasetItem], loose: Mapping[str, Path], target: Path) -> dict[str, str]:
    """Write some images (with the pack each is in now) into new packs; image → its new pack."""
    packs: dict[str, str] = {}
    for part in _parts({items[image].file_name: pack for image, pack in loose.items()}):
        for pack in write_packs(target, part):
            packs |= {Path(name).stem: pack for name in names_in(target / pack_file_name(pack))}
    return packs


def names_in(pack: Path) -> list[str]:
    """File names of the images in a pack.

    Raises:
        BadInput: it is no pack.
    """
    try:
        with zipfile.ZipFile(pack) as archive:
            return archive.namelist()
    except zipfile.BadZipFile as error:
        raise BadInput(f"{pack} is no pack, or a damaged one: {error}.") from error


def _is_kept(pack: Path, members: Iterable[DatasetItem], packs: int) -> bool:
    if packs > 1 and pack.stat().st_size < _WORTH_KEEPING:
        return False
    whole = {item.file_name for item in members} == set(names_in(pack))
    # Before the version is tagged: one with a damaged pack would stay for good.
    return whole and file_digest(pack) == pack.stem


def _parts(loose: Mapping[str, Path]) -> Iterator[list[tuple[str, bytes]]]:
    """Images by name with their bytes, in parts that fit into memory."""
    part: list[tuple[str, bytes]] = []
    size = 0
    reader = PackReader()
    for name in sorted(loose):
        data = reader.read(loose[name], name)
        if part and size + len(data) > _AT_ONCE:
            yield part
            part, size = [], 0
        part.append((name, data))
        size += len(data)
    if part:
        yield part
