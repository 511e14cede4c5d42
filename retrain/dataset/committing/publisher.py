"""Makes a composed version real: its files, the commit, the tag; then all of it is read back."""

from collections.abc import Collection
from pathlib import Path

from retrain.dataset.history.history import HEADER, MANIFEST, PACKS, History, commit_subject
from retrain.dataset.history.manifest import Stored, new_segments
from retrain.dataset.repository.disk import show, write_durably
from retrain.dataset.repository.dvc_repository import DvcRepository
from retrain.dataset.version import DatasetVersion
from retrain.errors import PostConditionFailed
from retrain.storage.packs import pack_file_name


class Publisher:
    """Works under the repository's lock.

    Args:
        incoming: where the packs of a new version are.
    """

    def __init__(self, repository: DvcRepository, history: History, incoming: Path) -> None:
        self._repository, self._history, self._incoming = repository, history, incoming
        self._folder = repository.folder

    def publish(self, version: DatasetVersion, now: float) -> DatasetVersion:
        """Commit and tag a version that does not exist yet, and read back what is new in it.

        Raises:
            PostConditionFailed: what was read back is not what was committed.
        """
        arrived = {path.stem for path in self._incoming.glob("*.zip")}
        # An older version that is shown would come back over the files arranged here.
        self._repository.show_newest()
        self._arrange_packs(version)
        self._arrange_manifest(version)
        message = f"{commit_subject(version.name, version.digest)}\n\n{version.description}"
        self._repository.commit([PACKS, MANIFEST], [HEADER], message, version.name, now)
        _require_none(version.name, self._history.published(version, arrived))
        return version

    def proven(self, name: str) -> DatasetVersion:
        """A version that is there, all of it read anew from disk.

        Raises:
            PostConditionFailed: something is damaged or missing.
        """
        _require_none(name, self._history.damage(name))
        return self._history.get(name)

    def _arrange_packs(self, version: DatasetVersion) -> None:
        """Make the folder show exactly this version's packs."""
        folder = self._folder / PACKS
        folder.mkdir(exist_ok=True)
        wanted = {item.pack for item in version.items}
        _delete_others(folder, {pack_file_name(pack) for pack in wanted})
        for pack in sorted(wanted):
            target, arrived = folder / pack_file_name(pack), self._incoming / pack_file_name(pack)
            if arrived.exists():
                arrived.replace(target)
            else:
                show(self._history.find_pack(pack), target)

    def _arrange_manifest(self, version: DatasetVersion) -> None:
        """Make the folder show exactly this version's header and segments."""
        folder = self._folder / MANIFEST
        folder.mkdir(exist_ok=True)
        parent = self._history.get(version.parent) if version.parent else None
        inherited = self._history.stored(parent.name).segments if parent else ()
        names, new = new_segments(version, parent, inherited)
        _delete_others(folder, {f"{name}.jsonl" for name in names})
        for name in names:
            target = folder / f"{name}.jsonl"
            if name in new:
                write_durably(target, new[name])
            elif parent is not None:
                show(self._history.segment_file(parent.name, name), target)
        write_durably(self._folder / HEADER, Stored(version.header, version.digest, names).to_bytes())


def _require_none(name: str, problems: list[str]) -> None:
    if problems:
        raise PostConditionFailed(f"Dataset version {name} cannot be read back: {' '.join(problems)}")


def _delete_others(folder: Path, names: Collection[str]) -> None:
    for stray in (path for path in folder.iterdir() if path.name not in names):
        stray.unlink()
