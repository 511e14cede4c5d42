"""Dataset versions: drafted out of sight, committed as one step, proven by reading them back."""

import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from retrain.boxes import Annotations
from retrain.dataset.additions import Additions, AddReport, with_pack
from retrain.dataset.diff import DatasetDiff, diff_versions
from retrain.dataset.disk import storage_full, write_durably
from retrain.dataset.drafts import Draft, Drafts, check_name
from retrain.dataset.dvc_repository import DvcRepository
from retrain.dataset.history import MANIFEST, PACKS, History, commit_subject
from retrain.dataset.splitter import DEFAULT_FRACTIONS, checked_fractions
from retrain.dataset.version import DatasetItem, DatasetVersion, check_items
from retrain.errors import BadInput, Conflict, NotFound, PostConditionFailed, StorageFull
from retrain.images import read_image
from retrain.storage.packs import pack_file_name, write_pack


class DatasetManager:
    """The versions of one dataset, in one folder of its own (a Git and DVC repository).

    Any number of processes may use one folder: writers wait for each other, readers never wait. Every method may
    be killed at any instant and called again.

    Args:
        base_path: made when the first version is.
        clock: seconds since the epoch; dates the commits.
    """

    def __init__(self, base_path: str | Path, clock: Callable[[], float] = time.time) -> None:
        self.repository = DvcRepository(Path(base_path))
        self._folder, self._clock = self.repository.folder, clock
        self._history = History(self.repository)
        self._incoming = self.repository.scratch / "incoming"
        self._drafts = Drafts(self.repository.scratch / "drafts")
        self._begun: dict[str, str] = {}
        self._committed: set[str] = set()

    def create_version(
        self,
        name: str,
        description: str = "",
        splits: Mapping[str, float] | None = None,
        parent: str | None = None,
        classes: Sequence[str] | None = None,
        salt: str | None = None,
    ) -> Draft:
        """Begin a draft; one of the same name that was never committed starts anew.

        Args:
            splits: fractions of the groups; by default the parent's, or 0.7, 0.2, 0.1. Groups that the parent has
                keep their split whatever is said here.
            parent: version whose images are all inherited.
            classes: names in the order of class indices; by default the parent's. May only add to the parent's.
            salt: varies which group gets which split; by default the parent's.

        Raises:
            BadInput: a name, fraction or class list that cannot be used.
            NotFound: no such parent.
        """
        base = None if parent is None else self.get_version(parent)
        names = tuple(classes if classes is not None else base.classes if base else ())
        if not names or len(set(names)) != len(names):
            raise BadInput(f"classes must be different names, at least one, got {list(names)}.")
        if base and names[: len(base.classes)] != base.classes:
            raise BadInput(
                f"classes must begin with those of {parent} ({', '.join(base.classes)}), got {list(names)}."
            )
        draft = Draft(
            name=check_name(name),
            description=description,
            classes=names,
            parent=parent,
            parent_digest=base.digest if base else None,
            splits=checked_fractions(splits or (base.splits if base else DEFAULT_FRACTIONS)),
            salt=salt if salt is not None else base.salt if base else "",
        )
        self.repository.init(self._clock())
        with self.repository.locked():
            self._drafts.begin(draft)
        self._begun[name] = draft.id
        return draft

    def add_images(
        self,
        version_id: Draft | str,
        image_paths: Sequence[str | Path | bytes],
        annotations: Sequence[Annotations],
        groups: Sequence[str] | None = None,
        sources: str | Sequence[str] = "human",
        metadata: Sequence[Mapping[str, Any]] | None = None,
        *,
        relabel: bool = False,
        on_error: Literal["raise", "skip"] = "raise",
    ) -> AddReport:
        """Add images with their labels to a draft. Adding the same again changes nothing.

        Args:
            image_paths: files, or encoded bytes. Boxes are clipped to the image.
            groups: what must not be torn apart by a split, such as a recording; by default each image by itself.
            sources: who labelled them, for all or for each: seed, auto, human, …
            relabel: replace the labels of images that are there already; otherwise other labels are an error.
            on_error: `skip` adds the good images and reports the others.

        Raises:
            BadInput: names every image that cannot be added and why; then none was.
        """
        owners = [sources] * len(image_paths) if isinstance(sources, str) else sources
        for title, values in (
            ("annotations", annotations),
            ("groups", groups),
            ("sources", owners),
            ("metadata", metadata),
        ):
            if values is not None and len(values) != len(image_paths):
                raise BadInput(
                    f"There must be one of {title} per image, got {len(values)} for {len(image_paths)} images."
                )
        with self.repository.locked():
            draft = self._drafts.read(self._reference(version_id))
            parent = self.get_version(draft.parent) if draft.parent else None
            additions, rejected = Additions(draft, parent, self._drafts.items(draft), relabel), {}
            for index, source in enumerate(image_paths):
                try:
                    image = read_image(source)
                    group, extra = groups[index] if groups else None, metadata[index] if metadata else {}
                    if additions.add(image, annotations[index], group, owners[index], extra):
                        self._drafts.keep_image(draft, image)
                except BadInput as e:
                    rejected[f"image {index}" if isinstance(source, bytes) else str(source)] = str(e)
            if rejected and on_error == "raise":
                raise BadInput(_rejection(rejected, len(image_paths)))
            self._drafts.record(draft, additions.items.values())
        found = (tuple(additions.added), tuple(additions.unchanged), tuple(additions.relabelled))
        return AddReport(*found, rejected)

    def commit_version(self, version_id: Draft | str) -> DatasetVersion:
        """Make a draft a version: pack, manifest, commit, tag, then read all of it back.

        The tag makes it visible, in one step. Called again after that (with the same content, or without a draft)
        it returns the version there is.

        Raises:
            Conflict: the name belongs to a version with other content.
            BadInput: the draft has no images.
            StorageFull: no space left; the draft is kept, call again.
            PostConditionFailed: what was read back is not what was committed.
        """
        reference = self._reference(version_id)
        name = reference.partition("@")[0]
        with self.repository.locked():
            exists = name in self.versions()
            try:
                draft = self._drafts.read(reference)
            except NotFound:
                if not exists or ("@" in reference and reference not in self._committed):
                    raise
                return self._proven(name)
            version = self._compose(draft)
            if not exists:
                self._arrange(version)
                message = f"{commit_subject(name, version.digest)}\n\n{version.description}"
                self.repository.commit([PACKS, MANIFEST], message, name, self._clock())
            if (stored := self._proven(name)).digest != version.digest:
                raise Conflict(
                    f"Dataset version {name!r} exists with other content (digest {stored.digest[:12]}, not "
                    f"{version.digest[:12]}). Versions never change; choose a new name."
                )
            self._committed.add(draft.id)
            self._begun.pop(name, None)
            self._drafts.discard(name)
            shutil.rmtree(self._incoming, ignore_errors=True)
            return stored

    def get_version(self, name: str) -> DatasetVersion:
        """A committed version.

        Raises:
            NotFound: there is none of that name (those there are, are named), or its data was not pulled.
            BadInput: its manifest is damaged.
        """
        return self._history.get(name)

    def versions(self) -> list[str]:
        """Names of all committed versions, oldest first."""
        return self._history.names()

    def diff(self, before: str, after: str) -> DatasetDiff:
        """What changed from one version to another."""
        return diff_versions(self.get_version(before), self.get_version(after))

    def image_bytes(self, version: DatasetVersion, item: DatasetItem) -> bytes:
        """The encoded bytes of one image, checked against its digest; `images` is faster for many."""
        return next(data for _, data in self.images(version, [item]))

    def images(
        self, version: DatasetVersion, items: Iterable[DatasetItem]
    ) -> Iterator[tuple[DatasetItem, bytes]]:
        """Items with their encoded bytes, pack by pack, each checked against its digest.

        Raises:
            NotFound: a pack is not on this machine.
            BadInput: a pack is damaged.
        """
        return self._history.images(version, items)

    def verify(self, name: str) -> DatasetVersion:
        """Read a version whole, from disk: its tag, its manifest, and every byte of every image.

        Raises:
            NotFound, BadInput: what is missing or damaged.
        """
        return self._history.verify(name)

    def _proven(self, name: str) -> DatasetVersion:
        try:
            return self.verify(name)
        except (NotFound, BadInput) as e:
            raise PostConditionFailed(f"Dataset version {name} cannot be read back: {e}") from e

    def _reference(self, version_id: Draft | str) -> str:
        given = version_id.id if isinstance(version_id, Draft) else version_id
        # A bare name means the draft that this manager began, so that somebody else's is never taken for it.
        return given if "@" in given else self._begun.get(given, given)

    def _compose(self, draft: Draft) -> DatasetVersion:
        """The version a draft becomes; writes its pack, whose digest is part of it."""
        shutil.rmtree(self._incoming, ignore_errors=True)
        files = self._drafts.files(draft)
        try:
            pack = write_pack(self._incoming, files) if files else ""
        except StorageFull as error:
            raise storage_full(self._folder) from error
        items = dict(self.get_version(draft.parent).by_image) if draft.parent else {}
        items |= {image: with_pack(item, pack) for image, item in self._drafts.items(draft).items()}
        if not items:
            raise BadInput(f"Draft {draft.name!r} has no images; add some first.")
        ordered = tuple(items[image] for image in sorted(items))
        check_items(ordered, draft.classes, draft.splits)
        return DatasetVersion(
            draft.name,
            draft.description,
            draft.classes,
            draft.parent,
            draft.parent_digest,
            draft.splits,
            draft.salt,
            ordered,
        )

    def _arrange(self, version: DatasetVersion) -> None:
        """Make the folder show exactly this version: its packs and its manifest."""
        folder = self._folder / PACKS
        folder.mkdir(exist_ok=True)
        wanted = {item.pack for item in version.items}
        names = {pack_file_name(pack) for pack in wanted}
        for stray in (path for path in folder.iterdir() if path.name not in names):
            stray.unlink()
        for pack in sorted(wanted):
            target, arrived = folder / pack_file_name(pack), self._incoming / pack_file_name(pack)
            if arrived.exists():
                arrived.replace(target)
            elif not target.exists():
                _link(self._history.pack_file(self.get_version(version.parent or ""), pack), target)
        write_durably(self._folder / MANIFEST, version.to_manifest())


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        # Another file system, or one without hard links.
        shutil.copyfile(source, target)


def _rejection(rejected: Mapping[str, str], total: int) -> str:
    shown = [f"{name} {reason}" for name, reason in list(rejected.items())[:10]]
    more = [f"and {len(rejected) - len(shown)} more"] if len(rejected) > len(shown) else []
    return f"{len(rejected)} of {total} images cannot be added, so none was: {'; '.join([*shown, *more])}."
