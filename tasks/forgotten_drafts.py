"""Takes forgotten pictures out of dataset versions that were never committed, such as a killed cycle leaves."""

import shutil
import zipfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from retrain.data_collection.forgetting.tombstones import forgotten_samples
from retrain.dataset.drafts import Draft, Drafts
from retrain.dataset.history import PACKS
from retrain.dataset.manager import DatasetManager
from retrain.dataset.version import DatasetItem
from retrain.errors import NotFound
from retrain.storage.digests import file_digest
from tasks.resources import Resources


@dataclass(frozen=True)
class Uncommitted:
    """What was deleted.

    Attributes:
        drafts: name → pictures taken out of it. Its other pictures stay, and it can be committed without those.
        packs: files with packs of no version.
    """

    drafts: Mapping[str, int] = field(default_factory=dict)
    packs: int = 0


def delete_uncommitted(resources: Resources) -> Uncommitted:
    """Delete every forgotten picture that is in a draft or was left by a killed commit.

    No running cycle is using them: `forget` refuses samples that one has claimed. Killed anywhere and called again, it
    goes on.

    Raises:
        Conflict: somebody works on the versions for more than ten minutes.
    """
    if not resources.datasets_path.is_dir():
        return Uncommitted()
    forgotten, datasets = forgotten_samples(resources.state), resources.datasets
    scratch = datasets.repository.scratch
    with datasets.repository.locked():
        drafts = dict(_purge_drafts(scratch / "drafts", forgotten))
        # A commit makes it anew, and one that was killed left there what nobody reads.
        shutil.rmtree(scratch / "incoming", ignore_errors=True)
        packs = list(_loose_packs(datasets, forgotten))
        for pack in packs:
            pack.unlink()
    return Uncommitted(drafts, len(packs))


class _Purged(Drafts):
    """Drafts as they are without some pictures; what it records has none of them."""

    def __init__(self, root: Path, gone: Collection[str]) -> None:
        super().__init__(root)
        self._gone = gone

    def items(self, draft: Draft) -> dict[str, DatasetItem]:
        return {image: item for image, item in super().items(draft).items() if image not in self._gone}


def _purge_drafts(root: Path, forgotten: set[str]) -> Iterator[tuple[str, int]]:
    purged = _Purged(root, forgotten)
    for folder in sorted(root.iterdir()) if root.is_dir() else ():
        # Also of pictures that were not recorded yet, or not written whole.
        files = [path for path in (folder / "images").glob("*") if path.name.removeprefix(".") in forgotten]
        if not files:
            continue
        try:
            purged.record(purged.read(folder.name), ())
        except NotFound:
            # Half discarded by a process that was killed: nobody can commit it.
            purged.discard(folder.name)
        # Last: as long as they are there, a killed purge is taken up again.
        for file in files:
            file.unlink(missing_ok=True)
        yield folder.name, len(files)


def _loose_packs(datasets: DatasetManager, forgotten: set[str]) -> Iterator[Path]:
    """Packs with forgotten pictures that a killed commit arranged, or handed to DVC, for a version that never was."""
    folder = datasets.repository.folder
    committed: set[str] | None = None
    for place in (folder / PACKS, folder / ".dvc" / "cache"):
        for path in sorted(place.rglob("*")):
            if not path.is_file() or not _digests(path) & forgotten:
                continue
            if committed is None:
                versions = [datasets.get_version(name) for name in datasets.versions()]
                committed = {item.pack for version in versions for item in version.items}
            if file_digest(path) not in committed:
                yield path


def _digests(path: Path) -> set[str]:
    """Of the images in a pack; none in any other file."""
    if not zipfile.is_zipfile(path):
        return set()
    with zipfile.ZipFile(path) as archive:
        return {Path(name).stem for name in archive.namelist()}
