"""The sample ledger: which dataset versions and which released models saw an image."""

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from retrain.dataset.manager import DatasetManager
from retrain.errors import BadInput, NotFound
from retrain.serving.release import Lineage, ReleaseStore
from retrain.storage.digests import content_digest

_DIGEST = re.compile(r"[0-9a-f]{64}")
_PREFIX = re.compile(r"[0-9a-f]{8,63}")
_JUDGES = "test"


@dataclass(frozen=True)
class ModelUse:
    """A released model, and what it had to do with the images.

    Attributes:
        release: digest.
        version: what it was trained on.
        trained: images it learnt from or was chosen by (splits other than test).
        tested: images that judged it.
        ancestor: the nearest release it was trained further from that learnt from them, if it did not itself.
    """

    release: str
    version: str
    made_by: str
    trained: int
    tested: int
    ancestor: str | None

    def to_text(self) -> str:
        """What a person must know of it."""
        said = [f"trained on {self.trained}"] * bool(self.trained) + [f"tested on {self.tested}"] * bool(
            self.tested
        )
        if self.ancestor is not None:
            said.append(f"descends from {self.ancestor[:12]}, which was trained on some")
        return ", ".join(said)


@dataclass(frozen=True)
class Seen:
    """Who saw some images.

    Attributes:
        splits: image → version → split.
        unreadable: releases that could not be read, so that nobody knows; digest → why.
    """

    splits: Mapping[str, Mapping[str, str]]
    models: tuple[ModelUse, ...]
    unreadable: Mapping[str, str]

    def by_version(self) -> dict[str, Counter[str]]:
        """Version → split → images, oldest version first."""
        found: dict[str, Counter[str]] = {}
        for places in self.splits.values():
            for version, split in places.items():
                found.setdefault(version, Counter())[split] += 1
        return found


def seen_by(manager: DatasetManager, releases: ReleaseStore, images: Collection[str]) -> Seen:
    """Look the images up in every version, and in what every release was made of."""
    splits = manager.seen_in(images)
    lineages, unreadable = _lineages(releases)
    digests = {info.name: info.digest for info in manager.log()}
    found = Seen(splits, (), unreadable)
    counts = found.by_version()
    # Another folder may have a version of the same name, so the content decides.
    known = {
        release: counts.get(one.dataset_version, Counter())
        for release, one in lineages.items()
        if digests.get(one.dataset_version) == one.dataset_digest
    }
    uses = [_use(release, lineages, known) for release in lineages]
    order = {name: place for place, name in enumerate(digests)}
    told = sorted(
        (use for use in uses if use is not None), key=lambda use: (-order.get(use.version, -1), use.release)
    )
    return Seen(splits, tuple(told), unreadable)


def find_images(
    manager: DatasetManager, texts: Sequence[str], conditions: Sequence[str], of: str | None
) -> list[str]:
    """Digests of the images that are meant.

    Args:
        texts: digests, beginnings of at least 8 characters of those in a version, or image files on this machine.
        conditions: as `subset` takes them, of the version `of`.

    Raises:
        BadInput: conditions without a version or the other way round, or a beginning that many share.
        NotFound: no version has such an image.
    """
    if bool(conditions) != (of is not None):
        raise BadInput("--where and --of belong together: --where 'camera=north*' --of v1.1.0.")
    chosen = [] if of is None else [item.image for item in manager.dataset(of).where(*conditions)]
    named = [_digest_of(text) for text in texts]
    short = [text for text in named if not _DIGEST.fullmatch(text)]
    known = (
        {item.image for name in manager.versions() for item in manager.get_version(name).items}
        if short
        else set()
    )
    complete = [text if _DIGEST.fullmatch(text) else _only_one(text, known) for text in named]
    if not (images := list(dict.fromkeys((*complete, *chosen)))):
        raise BadInput("No image was named. Give digests or files, or --where with --of.")
    return images


def _digest_of(text: str) -> str:
    if _DIGEST.fullmatch(text) or _PREFIX.fullmatch(text):
        return text
    try:
        return content_digest(Path(text).read_bytes())
    except FileNotFoundError as e:
        raise NotFound(
            f"There is no file {text!r}: give a digest (64 hex characters, or the first 8 or more) or a file."
        ) from e


def _only_one(beginning: str, known: Collection[str]) -> str:
    found = sorted(image for image in known if image.startswith(beginning))
    if not found:
        raise NotFound(f"No dataset version has an image {beginning}….")
    if len(found) > 1:
        raise BadInput(
            f"{len(found)} images begin with {beginning}, first {found[0]} and {found[1]}; give more of it."
        )
    return found[0]


def _lineages(releases: ReleaseStore) -> tuple[dict[str, Lineage], dict[str, str]]:
    lineages: dict[str, Lineage] = {}
    unreadable: dict[str, str] = {}
    for digest in releases.digests():
        try:
            lineages[digest] = releases.lineage(digest)
        except (BadInput, NotFound) as problem:
            unreadable[digest] = str(problem)
    return lineages, unreadable


def _use(release: str, lineages: Mapping[str, Lineage], known: Mapping[str, Counter[str]]) -> ModelUse | None:
    lineage, counts = lineages[release], known.get(release, Counter())
    trained, tested = _trained(counts), counts[_JUDGES]
    ancestor = None if trained else _ancestor(release, lineages, known)
    if not (trained or tested or ancestor):
        return None
    return ModelUse(release, lineage.dataset_version, lineage.created_from, trained, tested, ancestor)


def _ancestor(release: str, lineages: Mapping[str, Lineage], known: Mapping[str, Counter[str]]) -> str | None:
    """The nearest release on the way back that learnt from the images."""
    visited = {release}
    parent = lineages[release].parent
    while parent is not None and parent in lineages and parent not in visited:
        if _trained(known.get(parent, Counter())):
            return parent
        visited.add(parent)
        parent = lineages[parent].parent
    return None


def _trained(counts: Counter[str]) -> int:
    return counts.total() - counts[_JUDGES]
