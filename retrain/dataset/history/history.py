"""The committed versions: everything that reads them, without a lock, since they never change."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from retrain.dataset.drafting.candidates import Progress
from retrain.dataset.history.manifest import Stored, read_stored, read_version
from retrain.dataset.repository.dvc_repository import DvcRepository, Tag
from retrain.dataset.version import DatasetItem, DatasetVersion
from retrain.errors import BadInput, NotFound
from retrain.storage.digests import content_digest, file_digest
from retrain.storage.packs import read_pack

HEADER = "dataset.json"
# DVC tracks the items too: at a million images they are several hundred MB, which Git hosts refuse.
MANIFEST = "manifest"
PACKS = "packs"
_KEPT_IN_MEMORY = 4


@dataclass(frozen=True)
class VersionInfo:
    """What is known of a version without reading its images.

    Attributes:
        created_at: seconds since the epoch.
        tags: other names that were given to it.
    """

    name: str
    digest: str
    created_at: float
    description: str
    parent: str | None
    merged: str | None
    images: int
    waivers: int
    tags: tuple[str, ...]


class History:
    """Versions by name, or by another tag that was given to one."""

    def __init__(self, repository: DvcRepository) -> None:
        self._repository = repository
        self._versions: dict[str, DatasetVersion] = {}
        self._pack_files: dict[str, Path] = {}

    def names(self) -> list[str]:
        """Oldest first."""
        return [tag.name for tag in self._repository.tags() if _is_version(tag)]

    def log(self) -> list[VersionInfo]:
        """All versions, newest first."""
        tags = self._repository.tags()
        return [self._info(tag, tags) for tag in reversed(tags) if _is_version(tag)]

    def get(self, name: str) -> DatasetVersion:
        """The version as its tag has it.

        Raises:
            NotFound: there is none of that name (those there are, are named), or its data was not pulled.
            BadInput: its manifest is damaged.
        """
        found = self.find(name)
        if (kept := self._versions.get(found)) is not None:
            return kept
        stored = self.stored(found)
        files = self._segments(stored)
        version = read_version(stored, (path.read_bytes() for path in files))
        self._keep(version)
        return version

    def find(self, name: str) -> str:
        """The name of the version that this name or tag means.

        Raises:
            NotFound: none; those there are, are named.
        """
        tags = self._repository.tags()
        versions = {tag.commit: tag.name for tag in tags if _is_version(tag)}
        for tag in tags:
            if tag.name == name and tag.commit in versions:
                self._require_not_moved(name, versions[tag.commit])
                return versions[tag.commit]
        known = ", ".join(versions.values()) or "none"
        raise NotFound(f"Dataset version {name!r} not found in {self._repository.folder}. Existing: {known}.")

    def _require_not_moved(self, name: str, found: str) -> None:
        marks = self._repository.subjects() if found != name else []
        if any(subject.startswith(commit_subject(name, "")) for subject in marks):
            raise BadInput(
                f"The tag of version {name} in {self._repository.folder} was moved by hand, to {found}. Put it back "
                f"on its commit, whose first line begins with {commit_subject(name, '')!r}."
            )

    def stored(self, name: str) -> Stored:
        """A version's header.

        Raises:
            BadInput: it is not the one that its commit names.
        """
        revision = f"refs/tags/{name}"
        stored = read_stored(self._repository.read(HEADER, revision))
        subjects = {tag.name: tag.subject for tag in self._repository.tags()}
        if commit_subject(stored.header.name, stored.digest) != subjects.get(name):
            raise BadInput(
                f"The header of {name} is not the one its commit names: the repository was edited by hand."
            )
        return stored

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

    def damage(self, name: str, progress: Progress | None = None, whole: set[str] | None = None) -> list[str]:
        """What of a version is damaged or missing on this machine, all of it read anew; empty when nothing is.

        Args:
            whole: packs that were just read and need not be read again; those found whole are added.
        """
        self._versions.pop(name, None)
        try:
            version = self.get(name)
        except (BadInput, NotFound) as problem:
            return [str(problem)]
        if content_digest(version.to_manifest()) != version.digest:
            return [f"The items of {name} are not those its digest was computed from."]
        packs = {item.pack for item in version.items}
        problems = self.pack_damage(version, packs - (whole or set()), progress)
        if whole is not None and not problems:
            whole |= packs
        return problems

    def published(self, version: DatasetVersion, packs: Collection[str]) -> list[str]:
        """What of a version that was just made is not on disk as it should be, at its tag; empty when all is.

        Args:
            packs: its new ones; the others were read when they were new.
        """
        try:
            stored = self.stored(version.name)
            if (stored.header, stored.digest) != (version.header, version.digest):
                return [f"The header at tag {version.name} is that of another version, {stored.digest[:12]}."]
            for segment, path in zip(stored.segments, self._segments(stored), strict=True):
                if file_digest(path) != segment:
                    return [f"Manifest segment {segment} of {version.name} has other bytes."]
        except (BadInput, NotFound) as problem:
            return [str(problem)]
        problems = self.pack_damage(version, packs)
        if not problems:
            self._keep(version)
        return problems

    def pack_damage(
        self, version: DatasetVersion, packs: Collection[str], progress: Progress | None = None
    ) -> list[str]:
        """Which of these packs, and which images in them, are damaged or missing, read anew from disk."""
        self._pack_files.clear()
        wanted = sorted(packs)
        problems: list[str] = []
        for done, pack in enumerate(wanted, start=1):
            problems += self._pack_damage(version, pack)
            if progress is not None:
                progress("re-hashing packs", done, len(wanted))
        return problems

    def pack_file(self, version: DatasetVersion, pack: str) -> Path:
        """Where the bytes of one of a version's packs are on this machine."""
        if pack not in self._pack_files:
            listed = self._repository.listing(PACKS, f"refs/tags/{version.name}")
            self._pack_files |= {Path(name).stem: path for name, path in listed.items()}
        if pack not in self._pack_files:
            raise NotFound(f"Version {version.name} in {self._repository.folder} has no pack {pack}.")
        return self._pack_files[pack]

    def find_pack(self, pack: str) -> Path:
        """Where the bytes of a pack of any version are on this machine.

        Raises:
            NotFound: no version has such a pack.
        """
        for name in reversed(self.names()):
            if pack in self._pack_files:
                break
            try:
                listed = self._repository.listing(PACKS, f"refs/tags/{name}")
            except NotFound:
                # A clone that pulled only some versions.
                continue
            self._pack_files |= {Path(file).stem: path for file, path in listed.items()}
        if pack not in self._pack_files:
            raise NotFound(f"No version in {self._repository.folder} has a pack {pack}.")
        return self._pack_files[pack]

    def segment_file(self, version: str, segment: str) -> Path:
        """Where one of a version's manifest segments is on this machine."""
        return self._repository.listing(MANIFEST, f"refs/tags/{version}")[f"{segment}.jsonl"]

    def _keep(self, version: DatasetVersion) -> None:
        while len(self._versions) >= _KEPT_IN_MEMORY:
            self._versions.pop(next(iter(self._versions)), None)
        self._versions[version.name] = version

    def _segments(self, stored: Stored) -> list[Path]:
        name = stored.header.name
        listed = self._repository.listing(MANIFEST, f"refs/tags/{name}")
        files = [listed.get(f"{segment}.jsonl") for segment in stored.segments]
        for segment, path in zip(stored.segments, files, strict=True):
            if path is None or not path.exists():
                raise NotFound(
                    f"Manifest segment {segment} of {name} is not on this machine. Pull "
                    f"{self._repository.folder} from its remote first."
                )
        return [path for path in files if path is not None]

    def _pack_damage(self, version: DatasetVersion, pack: str) -> list[str]:
        try:
            path = self.pack_file(version, pack)
            if file_digest(path) == pack:
                return []
        except NotFound as problem:
            return [str(problem)]
        except FileNotFoundError:
            return [f"Pack {pack} of {version.name} is not on this machine. Pull it from the remote."]
        return [f"Pack {pack} of {version.name} is damaged.", *self._image_damage(version, path, pack)]

    def _image_damage(self, version: DatasetVersion, path: Path, pack: str) -> list[str]:
        problems = []
        for item in (item for item in version.items if item.pack == pack):
            try:
                list(read_pack(path, [item.file_name]))
            except BadInput as problem:
                problems.append(f"  image {item.image}: {problem}")
        return problems

    def _info(self, tag: Tag, tags: Sequence[Tag]) -> VersionInfo:
        stored = self.stored(tag.name)
        head = stored.header
        others = tuple(other.name for other in tags if other.commit == tag.commit and other.name != tag.name)
        return VersionInfo(
            tag.name,
            stored.digest,
            tag.created_at,
            head.description,
            head.parent,
            head.merged,
            head.images,
            len(head.waivers),
            others,
        )


def commit_subject(name: str, digest: str) -> str:
    """First line of a version's commit; what marks a tag as a version and says what its manifest must be."""
    return f"Dataset {name} {digest}"


def _is_version(tag: Tag) -> bool:
    return tag.subject.startswith(commit_subject(tag.name, ""))
