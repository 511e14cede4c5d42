"""A version's statistics as tables for a terminal."""

from collections.abc import Iterable, Mapping

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from retrain.dataset.report.wording import NOT_KNOWN, count, number, percent
from retrain.dataset.stats import DatasetStatistics

_ROWS = 40


def statistics_view(stats: DatasetStatistics) -> RenderableType:
    """Everything a terminal can show; names from outside are text, never markup."""
    parts = [
        _summary(stats),
        _splits(stats),
        _classes(stats),
        _sizes(stats),
        _quality(stats),
        _coverage(stats),
    ]
    if stats.coverage.cameras:
        parts.append(_cameras(stats))
    return Group(*(part for one in parts for part in ("", one)))


def _summary(stats: DatasetStatistics) -> Table:
    table = _table(f"dataset {stats.name}", "", "")
    _row(table, "digest", stats.digest[:12], stats.description)
    _row(table, "images", count(stats.images), "")
    spread = stats.objects_per_image_spread
    _row(table, "objects", count(stats.objects), "" if spread is None else f"{number(spread.mean)} an image")
    ratio = "most frequent class over the rarest one present"
    _row(table, "imbalance ratio", number(stats.imbalance_ratio), ratio)
    _row(table, "evenness", number(stats.evenness), "of the classes, 1 when all have equally many objects")
    if stats.absent:
        _row(table, "absent classes", count(len(stats.absent)), ", ".join(stats.absent[:5]))
    return table


def _splits(stats: DatasetStatistics) -> Table:
    table = _table("split", "images", "share", "objects", "groups")
    for split, images in stats.images_by_split.items():
        objects, groups = stats.objects_by_split[split], stats.groups_by_split[split]
        _row(table, split, count(images), percent(images, stats.images), count(objects), count(groups))
    return table


def _classes(stats: DatasetStatistics) -> Table:
    splits = tuple(stats.images_by_split)
    table = _table("class", "objects", "share", "images", *splits, "median side")
    ordered = sorted(stats.classes, key=lambda one: -one.objects)
    for one in ordered[:_ROWS]:
        own = [count(one.objects_by_split[split]) for split in splits]
        side = "" if one.side is None else f"{number(one.side.median)} px"
        share = percent(one.objects, stats.objects)
        _row(table, one.name, count(one.objects), share, count(one.images), *own, side)
    _rest(table, len(ordered))
    return table


def _sizes(stats: DatasetStatistics) -> Table:
    table = _table("sizes", "", "")
    sizes, images = stats.boxes.sizes, stats.image_sizes
    for width, height, n in images.most_common[:3]:
        _row(table, "images of", f"{width} x {height}", f"{count(n)}, {percent(n, stats.images)}")
    _row(
        table,
        "image formats",
        _counts(images.formats),
        f"{count(images.different)} size{'' if images.different == 1 else 's'}",
    )
    for name, n in (("small", sizes.small), ("medium", sizes.medium), ("large", sizes.large)):
        _row(table, f"{name} boxes", count(n), percent(n, stats.objects))
    return table


def _quality(stats: DatasetStatistics) -> Table:
    table, quality = _table("label quality", "", ""), stats.quality
    for source, images in quality.images_by_source.items():
        objects = (
            f"{percent(images, stats.images)} of images, {count(quality.objects_by_source[source])} objects"
        )
        _row(table, f"labelled by {source}", count(images), objects)
    without = percent(quality.without_objects, stats.images)
    _row(table, "images without objects", count(quality.without_objects), without)
    _row(table, "boxes at the border", count(quality.at_border), percent(quality.at_border, stats.objects))
    _row(
        table,
        "tiny boxes",
        count(quality.tiny),
        f"{percent(quality.tiny, stats.objects)}, below 16 x 16 pixels",
    )
    _row(table, "leaks waived", count(quality.waivers), "")
    return table


def _coverage(stats: DatasetStatistics) -> Table:
    table, time, places = _table("coverage", "", ""), stats.coverage.time, stats.coverage.places
    unread = f", unreadable {count(time.unreadable)}" if time.unreadable else ""
    _row(table, "images with a time", count(time.known), f"{percent(time.known, stats.images)}{unread}")
    if time.known:
        _row(table, "from", time.first or NOT_KNOWN, f"to {time.last or NOT_KNOWN}")
        longest = f"longest gap {time.gaps[0].first} to {time.gaps[0].last}" if time.gaps else ""
        _row(table, "days without images", count(time.days_without), longest)
    unread = f", unreadable {count(places.unreadable)}" if places.unreadable else ""
    _row(table, "images with a place", count(places.known), f"{percent(places.known, stats.images)}{unread}")
    if places.bounds is not None:
        south, west, north, east = places.bounds
        bounds = f"latitude {south:.4f} to {north:.4f}, longitude {west:.4f} to {east:.4f}"
        _row(table, "cells of 0.01 degrees", count(len(places.cells)), bounds)
    _row(table, "images without a camera", count(stats.coverage.without_camera), "")
    return table


def _cameras(stats: DatasetStatistics) -> Table:
    table = _table("camera", "images", "objects", "from", "to")
    for one in stats.coverage.cameras[:_ROWS]:
        times = (one.first or NOT_KNOWN, one.last or NOT_KNOWN)
        _row(table, one.name, count(one.images), count(one.objects), *times)
    _rest(table, len(stats.coverage.cameras))
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(Text(column))
    return table


def _row(table: Table, *cells: str) -> None:
    table.add_row(*map(Text, cells))


def _rest(table: Table, rows: int) -> None:
    if rows > _ROWS:
        _row(table, f"… {count(rows - _ROWS)} more")


def _counts(counts: Mapping[str, int]) -> str:
    parts: Iterable[str] = (f"{name} {count(n)}" for name, n in counts.items())
    return ", ".join(parts)
