"""Adds images to a draft: decoded before the lock is taken, judged one by one, then written as packs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from retrain.boxes import Annotations
from retrain.dataset.committing.packing import names_in
from retrain.dataset.drafting.additions import Additions, AddReport, in_packs
from retrain.dataset.drafting.candidates import Candidate, PackedImage, Progress, Source, read_candidates
from retrain.dataset.drafting.draft import Draft
from retrain.dataset.drafting.drafts import Drafts
from retrain.dataset.drafting.named_labels import Labels, with_indices
from retrain.dataset.repository.disk import link
from retrain.errors import BadInput
from retrain.storage.packs import pack_file_name, write_packs


@dataclass(frozen=True)
class Batch:
    """Images with what is said of them, one of each per image.

    Raises:
        BadInput: unequal lengths.
    """

    images: Sequence[Source]
    annotations: Sequence[Labels]
    groups: Sequence[str | None] | None
    sources: str | Sequence[str]
    metadata: Sequence[Mapping[str, Any]] | None
    splits: Sequence[str | None] | None

    def __post_init__(self) -> None:
        count = len(self.images)
        for title in ("annotations", "groups", "sources", "metadata", "splits"):
            values = getattr(self, title)
            if values is not None and not isinstance(values, str) and len(values) != count:
                raise BadInput(
                    f"There must be one of {title} per image, got {len(values)} for {count} images."
                )

    def read(self, progress: Progress | None) -> list[Candidate | BadInput]:
        return list(read_candidates(self.images, progress))

    def name(self, index: int) -> str:
        """What an image is called in a report."""
        source = self.images[index]
        if isinstance(source, PackedImage):
            return source.name
        return f"image {index}" if isinstance(source, bytes) else str(source)

    def arguments(
        self, index: int, classes: Sequence[str]
    ) -> tuple[Annotations, str | None, str, Mapping[str, Any], str | None]:
        """Labels, group, who labelled it, metadata and split of an image."""
        source = self.images[index]
        named = {} if isinstance(source, bytes | PackedImage) else {"file": _readable(Path(source).name)}
        return (
            with_indices(self.annotations[index], classes),
            self.groups[index] if self.groups else None,
            self.sources if isinstance(self.sources, str) else self.sources[index],
            {**named, **(self.metadata[index] if self.metadata else {})},
            self.splits[index] if self.splits else None,
        )


def _readable(name: str) -> str:
    """A file name as text; bytes in it that are no UTF-8 become question marks."""
    return name.encode("utf-8", "replace").decode()


def add_batch(
    drafts: Drafts,
    draft: Draft,
    additions: Additions,
    batch: Batch,
    candidates: Sequence[Candidate | BadInput],
    on_error: Literal["raise", "skip"],
) -> AddReport:
    """Judge a batch and record what is acceptable of it. The caller holds the lock.

    Raises:
        BadInput: names every image that cannot be added and why; then none was.
    """
    rejected: dict[str, str] = {}
    new: dict[str, Candidate] = {}
    for index, candidate in enumerate(candidates):
        try:
            if isinstance(candidate, BadInput):
                raise candidate
            if additions.add(candidate, *batch.arguments(index, draft.classes)):
                new[candidate.digest] = candidate
        except BadInput as problem:
            rejected[batch.name(index)] = str(problem)
    if rejected and on_error == "raise":
        raise BadInput(_rejection(rejected, len(candidates)))
    if draft.learns_classes:
        # Only now: what a refused batch misspelt must not become a class.
        drafts.learn_classes(draft)
    packs = _write(drafts.packs(draft), list(new.values()))
    pictures = {image: one.picture for image, one in new.items() if one.picture is not None}
    drafts.record(draft, in_packs(additions.settled(), packs).values(), pictures=pictures)
    return AddReport(
        tuple(additions.added), tuple(additions.unchanged), tuple(additions.relabelled), rejected
    )


def _write(folder: Path, new: Sequence[Candidate]) -> dict[str, str]:
    """Bring the bytes of new images into the draft; image → pack."""
    loose, packs = [], {}
    for one in new:
        if isinstance(one.source, PackedImage):
            link(one.source.pack, folder / one.source.pack.name)
            packs[one.digest] = one.source.pack.stem
        else:
            loose.append((one.file_name, one.source))
    for pack in write_packs(folder, loose):
        packs |= {Path(name).stem: pack for name in names_in(folder / pack_file_name(pack))}
    return packs


def _rejection(rejected: Mapping[str, str], total: int) -> str:
    shown = [f"{name} {reason.rstrip('.')}" for name, reason in list(rejected.items())[:10]]
    more = [f"and {len(rejected) - len(shown)} more"] if len(rejected) > len(shown) else []
    return f"{len(rejected)} of {total} images cannot be added, so none was: {'; '.join([*shown, *more])}."
