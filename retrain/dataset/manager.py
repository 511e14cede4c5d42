"""Dataset versions: drafted out of sight, committed as one step, proven by reading them back."""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from retrain.dataset.committing.committer import Committer
from retrain.dataset.committing.composer import Composer
from retrain.dataset.committing.leaks import LeakReport
from retrain.dataset.committing.pictures import Pictures
from retrain.dataset.committing.publisher import Publisher
from retrain.dataset.comparing.diff import DatasetDiff, diff_versions
from retrain.dataset.dataset import Dataset
from retrain.dataset.drafting.adding import Batch, add_batch
from retrain.dataset.drafting.additions import Additions, AddReport
from retrain.dataset.drafting.candidates import Progress, Source
from retrain.dataset.drafting.draft import Draft, begin_draft, check_name, derived_draft
from retrain.dataset.drafting.drafts import Drafts
from retrain.dataset.drafting.named_labels import Labels, new_names
from retrain.dataset.drafting.purging import Purged
from retrain.dataset.history.derivation import ClassMap, merged_classes, merged_items
from retrain.dataset.history.forgotten import ForgottenImages
from retrain.dataset.history.garbage import Cleaner, Garbage
from retrain.dataset.history.gold import gold_test, rolling_test
from retrain.dataset.history.history import History, VersionInfo
from retrain.dataset.reading.query import parse_query
from retrain.dataset.repository.dvc_repository import DvcRepository
from retrain.dataset.version import DatasetItem, DatasetVersion
from retrain.errors import BadInput, Conflict

_DAY_S = 86_400.0


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
        self._clock = clock
        scratch = self.repository.scratch
        incoming = scratch / "incoming"
        self._history = History(self.repository)
        self._drafts = Drafts(scratch / "drafts")
        self._forgotten = ForgottenImages(self.repository)
        pictures = Pictures(scratch / "pictures")
        self._composer = Composer(self._history, self._drafts, pictures, incoming)
        publisher = Publisher(self.repository, self._history, incoming)
        self._committer = Committer(self._history, self._drafts, self._composer, publisher, incoming)
        self._cleaner = Cleaner(self.repository, self._history, self._drafts, pictures, incoming)
        self._begun: dict[str, str] = {}

    # Making a version

    def create_version(
        self,
        name: str,
        description: str = "",
        splits: Mapping[str, float] | None = None,
        parent: str | None = None,
        classes: Sequence[str] | None = None,
        salt: str | None = None,
        gold: str | None = None,
    ) -> Draft:
        """Begin a draft; one of the same name that was never committed starts anew.

        Args:
            splits: fractions of the images; by default the parent's, or 0.7, 0.2, 0.1. Groups that the parent has
                keep their split whatever is said here.
            parent: version whose images are all inherited.
            classes: names in the order of class indices; by default the parent's, to which they may only add. Without
                either, the version has the classes that its labels name.
            salt: varies which of equally good assignments of groups to splits is taken; by default the parent's.
            gold: version whose test images are the frozen gold test, whose labels cannot be changed; by default the
                parent's, else this one. Give `name` to declare a new gold test.

        Raises:
            BadInput: a name, fraction or class list that cannot be used.
            NotFound: no such parent or gold version.
            Conflict: the name is a tag.
        """
        base = None if parent is None else self.get_version(parent)
        if gold is not None and gold != name:
            gold = self._history.find(gold)
        return self._begin(begin_draft(name, description, base, classes, splits, salt, gold))

    def add_images(
        self,
        version_id: Draft | str,
        image_paths: Sequence[Source],
        annotations: Sequence[Labels],
        groups: Sequence[str | None] | None = None,
        sources: str | Sequence[str] = "human",
        metadata: Sequence[Mapping[str, Any]] | None = None,
        splits: Sequence[str | None] | None = None,
        *,
        relabel: bool = False,
        on_error: Literal["raise", "skip"] = "raise",
        progress: Progress | None = None,
    ) -> AddReport:
        """Add images with their labels to a draft. Adding the same again changes nothing.

        Args:
            image_paths: files, encoded bytes, or images in packs. Boxes are clipped to the image.
            annotations: boxes with class indices, or objects that name their class:
                `[{"class": "car", "box": [x1, y1, x2, y2]}]`.
            groups: what must not be torn apart by a split, such as a recording; by default each image by itself.
            sources: who labelled them, for all or for each: seed, auto, human, …
            splits: where images must go, such as an official split; None leaves it to the commit.
            relabel: replace the labels of images that are there already; otherwise other labels are an error.
            on_error: `skip` adds the good images and reports the others.

        Raises:
            BadInput: names every image that cannot be added and why; then none was.
        """
        batch = Batch(image_paths, annotations, groups, sources, metadata, splits)
        # Decoding takes minutes where there are many, so it is done before anybody has to wait.
        candidates = batch.read(progress)
        with self.repository.locked():
            draft = self._drafts.read(self._reference(version_id))
            if draft.learns_classes:
                draft = msgspec.structs.replace(draft, classes=new_names(annotations, draft.classes))
            gold = self._gold_images(draft) if relabel else frozenset()
            # What was left out comes back as it was: an image's split never changes, nor the gold test's labels.
            parent = self._composer.parent(draft) if draft.inherits else None
            known = {**(parent.by_image if parent else {}), **self._drafts.items(draft)}
            left_out = self._drafts.left_out(draft)
            additions = Additions(draft, known, relabel, self._forgotten.reasons(), gold, left_out)
            return add_batch(self._drafts, draft, additions, batch, candidates, on_error)

    def draft(self, version_id: Draft | str) -> Draft:
        """A draft as it is stored.

        Raises:
            NotFound: there is none of that name.
            Conflict: another process began it anew.
        """
        return self._drafts.read(self._reference(version_id))

    def leave_out(self, version_id: Draft | str, images: Iterable[str]) -> tuple[str, ...]:
        """Take images out of a draft, also such as its parent has; returns those that were in it."""
        with self.repository.locked():
            draft = self._drafts.read(self._reference(version_id))
            there = {**self._composer.base(draft), **self._drafts.items(draft)}
            gone = tuple(image for image in images if image in there)
            if gone:
                self._drafts.record(draft, (), gone)
            return gone

    def review(self, version_id: Draft | str, progress: Progress | None = None) -> LeakReport:
        """The leaks that a draft would have if it were committed now.

        Raises:
            BadInput: it has no images.
        """
        with self.repository.locked():
            draft = self._drafts.read(self._reference(version_id))
            return self._composer.review(draft, self._forgotten.reasons(), progress)[1]

    def commit(
        self, version_id: Draft | str, waive: str | None = None, progress: Progress | None = None
    ) -> DatasetVersion:
        """Make a draft a version: splits, leak check, packs, manifest, commit, tag; then read what is new back.

        The tag makes it visible, in one step. Called again after that (with the same content, or without a draft)
        it returns the version there is.

        Args:
            waive: why leaks between splits are accepted; recorded in the version with each of them.

        Raises:
            Conflict: the name belongs to a version with other content.
            BadInput: the draft has no images.
            Leakage: images of different splits share a group or show the same picture; the draft is kept.
            StorageFull: no space left; the draft is kept, call again.
            PostConditionFailed: what was read back is not what was committed.
        """
        reference = self._reference(version_id)
        with self.repository.locked():
            gone = self._forgotten.reasons()
            version = self._committer.commit(reference, waive, gone, self._clock(), progress)
        self._begun.pop(version.name, None)
        return version

    # Versions made of versions

    def merge(
        self,
        name: str,
        a: str,
        b: str,
        class_map: ClassMap | None = None,
        description: str | None = None,
        waive: str | None = None,
    ) -> DatasetVersion:
        """A version with the images of two; splits stay as they are in both.

        Args:
            class_map: class of `b` → class of the new version, for every class of `b`; None drops its objects. By
                default classes of the same name are the same.

        Raises:
            BadInput: the map has holes, or the two say different things of an image or a group.
            Leakage: an image of one shows the same as one of the other, in another split.
        """
        first, second = self.get_version(a), self.get_version(b)
        classes = merged_classes(first, second, class_map)
        items = merged_items(first, second, class_map, classes)
        told = description if description is not None else f"{a} with {b}"
        draft = begin_draft(name, told, first, classes, None, None, None)
        waivers = tuple(dict.fromkeys((*first.waivers, *second.waivers)))
        draft = msgspec.structs.replace(draft, waivers=waivers, merged=second.name)
        return self._commit_items(draft, items, waive)

    def subset(
        self, name: str, of: str, where: str | Sequence[str], description: str | None = None
    ) -> DatasetVersion:
        """A version with only the images that meet all conditions, such as `camera=north*`; see `query.py`.

        It stands beside the line of versions: the next one starts from it only if it is named as parent.

        Raises:
            BadInput: a condition cannot be understood, or no image meets them.
        """
        version = self.get_version(of)
        query = parse_query(where, version.classes)
        items = [item for item in version.items if query(item)]
        if not items:
            raise BadInput(f"No image of {of} meets {query.text}.")
        told = description if description is not None else f"{of} where {query.text}"
        return self._commit_items(derived_draft(name, told, version, version, is_aside=True), items)

    def split(self, of: str, parts: Mapping[str, str | Sequence[str]]) -> dict[str, DatasetVersion]:
        """Several versions of one, a query for each; an image may be in any number of them.

        Raises:
            BadInput: as for `subset`; parts before the wrong one were made.
        """
        return {name: self.subset(name, of, where) for name, where in parts.items()}

    def revert(self, name: str, to: str, description: str | None = None) -> DatasetVersion:
        """A new version with exactly the images and labels of an older one, as successor of the newest.

        Nothing is rewritten: the versions between stay.
        """
        old, newest = self.get_version(to), self.get_version(self.newest() or to)
        told = description if description is not None else f"back to {to}"
        return self._commit_items(derived_draft(name, told, newest, old, is_aside=False), old.items)

    # Reading

    def get_version(self, name: str) -> DatasetVersion:
        """A committed version, by its name or a tag given to it.

        Raises:
            NotFound: there is none of that name (those there are, are named), or its data was not pulled.
            BadInput: its manifest is damaged.
        """
        return self._history.get(name)

    def dataset(self, name: str) -> Dataset:
        """A committed version's images, ready to be narrowed and read."""
        return Dataset(self.get_version(name), self)

    def versions(self) -> list[str]:
        """Names of all committed versions, oldest first."""
        return self._history.names()

    def newest(self) -> str | None:
        """The version that the next one starts from: the newest that is not beside the line, as subsets are."""
        names = reversed(self.versions())
        return next((name for name in names if not self._history.stored(name).header.is_aside), None)

    def log(self) -> list[VersionInfo]:
        """All committed versions, newest first."""
        return self._history.log()

    def lineage(self, name: str) -> list[VersionInfo]:
        """A version and all that it was made from, merged ones too, newest first."""
        wanted, log = {self._history.find(name)}, self.log()
        found = []
        for info in log:
            if info.name in wanted:
                found.append(info)
                wanted |= {self._history.find(one) for one in (info.parent, info.merged) if one is not None}
        return found

    def diff(self, before: str, after: str) -> DatasetDiff:
        """What changed from one version to another."""
        return diff_versions(self.get_version(before), self.get_version(after))

    def gold_test(self, name: str) -> tuple[DatasetItem, ...]:
        """The frozen test of a version: the test images, and labels, of its gold version that it still has."""
        version = self.get_version(name)
        return gold_test(version, self.get_version(version.gold or version.name))

    def rolling_test(self, name: str, since: float) -> tuple[DatasetItem, ...]:
        """Test images that came after the gold test, captured at or after `since`, in seconds since the epoch."""
        version = self.get_version(name)
        return rolling_test(version, self.get_version(version.gold or version.name), since)

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

    def pack_file(self, version: DatasetVersion, pack: str) -> Path:
        """Where one of a version's packs is on this machine."""
        return self._history.pack_file(version, pack)

    def verify(
        self, name: str, progress: Progress | None = None, whole: set[str] | None = None
    ) -> DatasetVersion:
        """Read a version whole, from disk: its tag, its manifest, and every byte of every pack.

        Args:
            whole: packs that were just read and need not be read again; those found whole are added. Give one set to
                several calls.

        Raises:
            NotFound: there is no such version.
            BadInput: names everything that is damaged or missing.
        """
        found = self._history.find(name)
        if problems := self._history.damage(found, progress, whole):
            raise BadInput("\n".join(problems))
        return self._history.get(found)

    # Keeping house

    def tag(self, name: str, version: str, *, move: bool = False) -> None:
        """Give a version another name, such as `production`; read back.

        Raises:
            Conflict: the name is taken, by a version for good, by a tag unless it may move.
        """
        with self.repository.locked():
            target = self._history.find(version)
            if check_name(name) in self.versions():
                raise Conflict(f"{name} is a version; a tag needs another name.")
            commit = self.repository.resolve(f"refs/tags/{target}")
            self.repository.tag(name, str(commit), move=move)
            if self._history.find(name) != target:
                raise Conflict(f"Somebody else moved the tag {name} meanwhile.")

    def untag(self, name: str) -> None:
        """Take a tag away. Versions cannot be taken away.

        Raises:
            NotFound: there is no such tag.
            Conflict: it is a version.
        """
        with self.repository.locked():
            if self._history.find(name) == name:
                raise Conflict(f"{name} is a version, and versions stay for good.")
            self.repository.delete_tag(name)

    def checkout(self, name: str) -> DatasetVersion:
        """Show a version in the folder: its header, manifest and packs. The next commit shows the newest again."""
        found = self._history.find(name)
        self.repository.checkout(f"refs/tags/{found}")
        return self.get_version(found)

    def seen_in(self, images: Collection[str]) -> dict[str, dict[str, str]]:
        """Image → version → its split there, for every version that has it."""
        found: dict[str, dict[str, str]] = {image: {} for image in images}
        for name in self.versions():
            by_image = self.get_version(name).by_image
            for image in images:
                if image in by_image:
                    found[image][name] = by_image[image].split
        return found

    def forget(self, images: Iterable[str], reason: str) -> tuple[str, ...]:
        """Keep images out of all future versions, for good; returns those that were not forgotten before.

        Versions that have them keep them (`seen_in`), as they never change; drafts are made without them.
        """
        self.repository.init(self._clock())
        with self.repository.locked():
            return self._forgotten.add(images, reason, self._clock())

    def purge(self, images: Collection[str]) -> Purged:
        """Delete pictures from what was never committed: drafts, and what killed commits left. Versions stay.

        Killed anywhere and called again, it goes on.
        """
        if not self.repository.folder.is_dir():
            return Purged()
        with self.repository.locked():
            return self._cleaner.purge(images)

    def leave_out_leaks(self, version_id: Draft | str) -> dict[str, str]:
        """Take images out of a draft until nothing that it adds leaks; image → what it leaked to.

        For loops that nobody watches: they had rather lose a sample than stop or spoil the test.
        """
        with self.repository.locked():
            draft = self._drafts.read(self._reference(version_id))
            return self._committer.leave_out_leaks(draft, self._forgotten.reasons())

    def gc(self, drafts_older_than_days: float = 30.0) -> Garbage:
        """Delete what no version uses: abandoned drafts, leftovers of killed commits, cached hashes of gone packs."""
        with self.repository.locked():
            return self._cleaner.collect(self._clock() - drafts_older_than_days * _DAY_S)

    def _begin(self, draft: Draft) -> Draft:
        self.repository.init(self._clock())
        with self.repository.locked():
            taken = self.repository.resolve(f"refs/tags/{draft.name}") is not None
            if taken and draft.name not in self.versions():
                raise Conflict(f"{draft.name} is a tag already; untag it first, or choose another name.")
            self._drafts.begin(draft)
        self._begun[draft.name] = draft.id
        return draft

    def _commit_items(
        self, draft: Draft, items: Sequence[DatasetItem], waive: str | None = None
    ) -> DatasetVersion:
        """Commit a draft with items whose bytes are in versions already."""
        gone = self._forgotten.reasons()
        self.repository.init(self._clock())
        with self.repository.locked():
            self._drafts.require_free(draft)
            self._begin(draft)
            self._drafts.record(draft, [item for item in items if item.image not in gone])
            try:
                return self.commit(draft, waive)
            except (BadInput, Conflict):
                # Nobody asked for this draft; a plain commit of its name must not find it.
                self._drafts.discard(draft.name)
                raise

    def _gold_images(self, draft: Draft) -> frozenset[str]:
        if draft.gold == draft.name:
            return frozenset()
        return frozenset(item.image for item in self.get_version(draft.gold).in_split("test"))

    def _reference(self, version_id: Draft | str) -> str:
        given = version_id.id if isinstance(version_id, Draft) else version_id
        # A bare name means the draft that this manager began, so that somebody else's is never taken for it.
        return given if "@" in given else self._begun.get(given, given)
