"""Looks through a dataset for labels, images and classes that cannot be right or are worth a look."""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

from retrain.dataset.quality.boxes import BoxTable, box_issues
from retrain.dataset.quality.class_names import name_issues
from retrain.dataset.quality.pairs import pair_issues
from retrain.dataset.quality.report import Issue, QualityLimits, QualityReport
from retrain.dataset.version import DatasetItem, DatasetVersion

PresentPacks = Collection[str] | Callable[[str], bool]
"""Digests of the packs that are there, or a question to ask of each."""


def version_quality(
    version: DatasetVersion, present: PresentPacks | None = None, limits: QualityLimits | None = None
) -> QualityReport:
    """`dataset_quality` of a version."""
    return dataset_quality(version.items, version.classes, present, limits)


def dataset_quality(
    items: Iterable[DatasetItem],
    classes: Sequence[str],
    present: PresentPacks | None = None,
    limits: QualityLimits | None = None,
) -> QualityReport:
    """Every issue of some labelled images; they need not have passed `check_item`, which is what this is for.

    Args:
        items: each image once, in any order: the report is the same.
        classes: names by class index.
        present: the packs that are there; each is asked for once. None: nobody knows, no image counts as missing.
        limits: what counts as implausible.

    Returns:
        Issues of single boxes, of boxes labelled twice, of images and of classes. 10^5 images of 5 boxes take
        a few seconds.
    """
    limits = limits or QualityLimits()
    listed = list(items)
    table = BoxTable.of(listed)
    issues = [
        *box_issues(table, classes, limits),
        *pair_issues(table, classes, limits.duplicate_iou),
        *_image_issues(listed, present),
        *_class_issues(listed, classes),
        *name_issues(classes, limits.name_similarity),
    ]
    return QualityReport.of(len(listed), len(table.objects), issues)


def _image_issues(items: Sequence[DatasetItem], present: PresentPacks | None) -> Iterator[Issue]:
    missing = _missing_packs(items, present)
    groups = Counter(item.group for item in items)
    for item in items:
        if item.pack in missing:
            yield Issue.of("missing-image", f"Its pack {item.pack[:12]} is not there.", item.image)
        if not item.objects:
            yield Issue.of("no-objects", "The image has no objects.", item.image)
        if groups[item.group] == 1:
            yield Issue.of("single-image-group", f"Group {_group_name(item)} has no other image.", item.image)


def _group_name(item: DatasetItem) -> str:
    """An image that was given no group is one by itself, under its own digest."""
    return f"{item.group[:12]}…" if item.group == item.image else repr(item.group)


def _missing_packs(items: Sequence[DatasetItem], present: PresentPacks | None) -> set[str]:
    # An image of a draft is in no pack yet.
    packs = {item.pack for item in items if item.pack}
    if present is None:
        return set()
    is_there = present if callable(present) else present.__contains__
    return {pack for pack in packs if not is_there(pack)}


def _class_issues(items: Sequence[DatasetItem], classes: Sequence[str]) -> Iterator[Issue]:
    """Classes without a box, and classes that only one of several splits has."""
    splits_of: dict[int, set[str]] = defaultdict(set)
    for item in items:
        for found in item.objects:
            splits_of[found.class_index].add(item.split)
    splits = {item.split for item in items}
    for index, name in enumerate(classes):
        found_in = splits_of[index]
        if not found_in:
            yield Issue.of("class-unused", f"No object has class {index} {name!r}.", value=float(index))
        elif len(found_in) == 1 < len(splits):
            others = ", ".join(sorted(splits - found_in))
            message = f"Class {index} {name!r} is in {next(iter(found_in))} only, not in {others}."
            yield Issue.of("class-in-one-split", message, value=float(index))
