"""The two kinds of test: a frozen one that every version shares, and one that rolls on with production."""

from datetime import UTC, datetime

from retrain.dataset.reading.query import parse_query
from retrain.dataset.version import DatasetItem, DatasetVersion


def gold_test(version: DatasetVersion, gold: DatasetVersion) -> tuple[DatasetItem, ...]:
    """The test images, with the labels, that a version still has of the version that declared its gold test."""
    known = gold.by_image
    return tuple(
        item
        for item in version.in_split("test")
        # Not the whole item: its pack changes when another image of that pack is forgotten.
        if (before := known.get(item.image)) is not None
        and (before.split, before.labels) == (item.split, item.labels)
    )


def rolling_test(version: DatasetVersion, gold: DatasetVersion, since: float) -> tuple[DatasetItem, ...]:
    """Test images that are not in the gold test and were captured at or after `since`, in seconds since the epoch.

    Images whose metadata does not say when they were captured are not among them.
    """
    frozen = {item.image for item in gold_test(version, gold)}
    recent = parse_query(f"captured_at>={datetime.fromtimestamp(since, UTC).isoformat()}", version.classes)
    return tuple(item for item in version.in_split("test") if item.image not in frozen and recent(item))
