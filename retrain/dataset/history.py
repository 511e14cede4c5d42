"""The committed versions: everything that reads them, without a lock, since they never change."""

from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

from retrain.dataset.dvc_repository import DvcRepository
from retrain.dataset.version import DatasetItem, DatasetVersion, read_manifest
from retrain.errors import BadInput, NotFound
from retrain.storage.packs import read_pack

# DVC tracks the manifest too: at a million images it is several hundred MB, which Git hosts refuse.
MANIFEST = "manifest.jsonl"
PACKS = "packs"
_KEPT_IN_MEMORY = 4


class History:
    def __init__(self, repository: DvcRepository) -> None:
        self._repository = repository
        self._versions: dict[str, DatasetVersion] = {}
        self._pack_files: dict[str, Path] = {}

    def names(self) -> list[str]:
        """Oldest first."""
        return list(self._subjects())

    def get(self, name: str) -> DatasetVersion:
        """The version as its tag has it.

        Raises:
            NotFound: there is none of that name (those there are, are named), or its data was not pulled.
            BadInput: its manifest is damaged.
        """
        subjects = self._subjects()
        if name not in subjects:
            known = ", ".join(subjects) or "none"
            raise NotFound(
                f"Dataset version {name!r} not found in {self._repository.folder}. Existing: {known}."
            )
        if (kept := self._versions.get(name)) is not None:
            return kept
        version = read_manifest(self._repository.read(MANIFEST, f"refs/tags/{name}"))
        if commit_subject(version.name, version.digest) != subjects[name]:
            raise BadInput(
                f"The manifest of {name} is not the one its commit names; delete its cached copy and pull again."
            )
        while len(self._versions) >= _KEPT_IN_MEMORY:
            self._versions.pop(next(iter(self._versions)), None)
        self._versions[name] = version
        return version

    def images(
        self, version: DatasetVersion, items: Iterable[DatasetItem]
    ) -> Iterator[tuple[DatasetItem, bytes]]:
        """Items with their encoded bytes, pack by pack, each checked against its digest.

        Raises:
            NotFound: a pack is not on this machine.
            BadInput: a pack is damaged.
        """
        ordered = sorted(items, key=lambda item: (item.pack, item.image))
        for pack, members in groupby(ordered, lambda item: item.pack):
            inside = list(members)
            names = (item.file_name for item in inside)
            yield from zip(inside, read_pack(self.pack_file(version, pack), names), strict=True)

    def verify(self, name: str) -> DatasetVersion:
        """Read a version whole, from disk: its tag, its manifest, and every byte of every image."""
        self._versions.pop(name, None)
        version = self.get(name)
        for _ in self.images(version, version.items):
            pass
        return version

    def pack_file(self, version: DatasetVersion, pack: str) -> Path:
        """Where the bytes of one of a version's packs are on this machine."""
        if pack not in self._pack_files:
            listed = self._repository.listing(PACKS, f"refs/tags/{version.name}")
            self._pack_files |= {Path(name).stem: path for name, path in listed.items()}
        if pack not in self._pack_files:
            raise NotFound(f"Version {version.name} in {self._repository.folder} has no pack {pack}.")
        return self._pack_files[pack]

    def _subjects(self) -> dict[str, str]:
        tags = self._repository.tags()
        return {tag.name: tag.subject for tag in tags if tag.subject.startswith(commit_subject(tag.name, ""))}


def commit_subject(name: str, digest: str) -> str:
    """First line of a version's commit; what marks a tag as a version and says what its manifest must be."""
    return f"Dataset {name} {digest}"
