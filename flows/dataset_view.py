"""Dataset versions as tables and lines for a terminal."""

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from retrain.dataset.history.history import VersionInfo
from retrain.dataset.measuring.coverage import camera_of
from retrain.dataset.quality.report import SEVERITY, QualityReport
from retrain.dataset.report.wording import count, counted, percent
from retrain.dataset.version import DatasetItem, DatasetVersion


def table_of(
    columns: Sequence[str], rows: Iterable[Sequence[str | Text]], *, numbers: Iterable[str] = ()
) -> Table:
    """A line for each row; what is too wide is folded, never cut.

    Args:
        numbers: columns whose cells end at the same place.
    """
    table, right = Table(box=None, pad_edge=False), set(numbers)
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        # As text, because markup would swallow a class called [new].
        table.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in row))
    return table


def log_table(versions: Iterable[VersionInfo]) -> Table:
    """One row a version."""
    rows = [
        (
            one.name,
            utc(one.created_at),
            str(one.images),
            one.parent or "",
            str(one.waivers or ""),
            ", ".join(one.tags),
            one.description,
        )
        for one in versions
    ]
    return table_of(
        ("version", "made (UTC)", "images", "parent", "waived", "tags", "description"),
        rows,
        numbers=("images", "waived"),
    )


def version_line(version: DatasetVersion) -> str:
    """What is in it, in one line."""
    splits = ", ".join(f"{split} {count(images)}" for split, images in version.images_by_split().items())
    return f"{version.name}: {counted(len(version.items), 'image')} ({splits}), {_objects(version)}"


def waiver_lines(version: DatasetVersion) -> list[str]:
    """The leaks that were accepted, by the names of their files."""
    lines = []
    for waiver in version.waivers:
        pair = zip(waiver.images, waiver.splits, strict=True)
        one, other = (f"{name_of(version, image)} ({split})" for image, split in pair)
        how = (
            "share a group"
            if waiver.distance is None
            else f"show the same, {waiver.distance} of 128 bits apart"
        )
        lines.append(f"{one} and {other} {how}: {waiver.reason}")
    return lines


def version_table(version: DatasetVersion, info: VersionInfo) -> Table:
    """What a version says of itself."""
    sources, cameras = _shares(version, lambda item: item.source), _shares(version, _camera)
    rows = [
        ("digest", version.digest),
        ("description", version.description),
        ("made (UTC)", utc(info.created_at)),
        ("tags", ", ".join(info.tags)),
        ("parent", version.parent or "none"),
        ("gold test of", version.gold or version.name),
        ("split rule", ", ".join(f"{split} {share:g}" for split, share in version.splits.items())),
        *((f"images in {split}", count(images)) for split, images in version.images_by_split().items()),
        ("classes", ", ".join(version.classes)),
        ("objects", _objects(version)),
        ("labelled by", sources),
        ("cameras", cameras),
        *(("leak waived", line) for line in waiver_lines(version)),
    ]
    return table_of(("dataset", version.name), [row for row in rows if row[1]])


def version_json(version: DatasetVersion, info: VersionInfo) -> dict[str, Any]:
    """The same for machines."""
    return {
        **info_json(info),
        "classes": list(version.classes),
        "gold": version.gold,
        "splits": dict(version.splits),
        "images_by_split": version.images_by_split(),
        "objects_by_class": version.objects_by_class(),
        "waived": waiver_lines(version),
    }


def info_json(info: VersionInfo) -> dict[str, Any]:
    """A row of the log."""
    return {name: getattr(info, name) for name in VersionInfo.__dataclass_fields__} | {
        "tags": list(info.tags)
    }


def quality_lines(report: QualityReport, version: DatasetVersion, examples: int) -> list[str]:
    """The counts, and the first few issues of each kind that is more than worth knowing.

    Args:
        examples: how many of a kind.
    """
    total = ", ".join(
        counted(n, severity) for severity, n in report.counts_by_severity.items() if severity != "info"
    )
    lines = [
        f"{version.name}: {counted(report.images, 'image')}, {counted(report.objects, 'object')}: {total}"
    ]
    for kind, number in report.counts.items():
        lines.append(f"{SEVERITY[kind]:<8} {kind:<20} {count(number):>8}")
        shown = report.of_kind(kind)[:examples] if SEVERITY[kind] != "info" else ()
        lines += [f"    {name_of(version, issue.image) or 'dataset'}: {issue.message}" for issue in shown]
        if shown and number > len(shown):
            lines.append(f"    and {count(number - len(shown))} more; --examples N shows N")
    return lines


def name_of(version: DatasetVersion, image: str) -> str:
    """What people call an image: its file where the metadata have it, else how its digest begins."""
    item = version.by_image.get(image)
    return str((item and item.metadata.get("file")) or image[:12])


def utc(moment: float) -> str:
    """To the second."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(moment))


def _objects(version: DatasetVersion) -> str:
    by_class = version.objects_by_class()
    listed = ", ".join(f"{name} {count(objects)}" for name, objects in by_class.items())
    return f"{counted(sum(by_class.values()), 'object')} ({listed})"


def _camera(item: DatasetItem) -> str:
    return camera_of(item.metadata) or ""


def _shares(version: DatasetVersion, key: Any) -> str:
    counts = Counter(map(key, version.items))
    named = {name: images for name, images in counts.most_common() if name}
    return ", ".join(f"{name} {percent(images, len(version.items))}" for name, images in named.items())
