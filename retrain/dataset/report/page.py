"""A version's statistics and a change's review as HTML pages that need nothing but themselves."""

import functools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from retrain.dataset.comparing.diff import Counts, DatasetDiff
from retrain.dataset.report import figures, maps, wording
from retrain.dataset.report.pictures import drawn, paired
from retrain.dataset.stats import DatasetStatistics
from retrain.dataset.version import DatasetItem, DatasetVersion
from retrain.pages.environment import page_environment

TEMPLATES = Path(__file__).parent / "templates"
Samples = Iterable[tuple[DatasetItem, bytes]]
"""Images to draw, each with its encoded bytes."""


def stats_page(statistics: DatasetStatistics, samples: Samples) -> str:
    """The statistics with plots and a grid of labelled images; everything that came from outside is escaped.

    Raises:
        BadInput: the bytes of a sample are damaged or another image's.
    """
    names = [one.name for one in statistics.classes]
    pictures = [drawn(names, item, data) for item, data in samples]
    return _render("stats.html.j2", stats=statistics, names=names, pictures=pictures)


def diff_page(
    diff: DatasetDiff,
    before: DatasetVersion,
    after: DatasetVersion,
    samples_added: Samples,
    samples_relabelled: Samples,
) -> str:
    """What a team looks at before it approves a version.

    Args:
        samples_added, samples_relabelled: items of `after`; relabelled ones are drawn with their old boxes beside.

    Raises:
        BadInput: the bytes of a sample are damaged or another image's.
    """
    changes = {one.image: one for one in diff.relabellings}
    pairs = [
        paired(changes[item.image], before, item, data, number)
        for number, (item, data) in enumerate(samples_relabelled)
        if item.image in changes
    ]
    return _render(
        "diff.html.j2",
        diff=diff,
        before=before,
        after=after,
        added=[drawn(after.classes, item, data) for item, data in samples_added],
        pairs=pairs,
    )


def _render(template: str, **values: Any) -> str:
    return _environment().get_template(template).render(**values)


@functools.cache
def _environment() -> jinja2.Environment:
    environment = page_environment(TEMPLATES)
    environment.filters |= {"count": wording.count, "number": wording.number, "change": wording.change}
    environment.globals |= {
        "figures": figures,
        "maps": maps,
        "wording": wording,
        "stack": stack,
        "twin": twin,
        "total": total,
        "in_order": in_order,
        "minute": minute,
        "changed_first": changed_first,
    }
    return environment


def stack(parts: Mapping[str, int], whole: int) -> Markup:
    """A bar of parts side by side, each as long as its share of `whole`."""
    cells = [
        Markup('<span class="part{}" style="width:{:.3f}%" title="{}"></span>').format(
            index % 6, 100 * value / (whole or 1), f"{name}: {wording.count(value)}"
        )
        for index, (name, value) in enumerate(parts.items())
        if value
    ]
    return Markup('<div class="stack">{}</div>').format(Markup().join(cells))


def in_order(counts: Mapping[str, int], names: Iterable[str]) -> dict[str, int]:
    """A count for each name, so that a part keeps its colour where others are missing."""
    return {name: counts.get(name, 0) for name in names}


def twin(old: int, new: int, largest: int) -> Markup:
    """Two thin bars, before over after, as shares of the largest value in the table."""
    return Markup(
        '<div class="twin"><i class="before" style="width:{:.2f}%"></i>'
        '<i class="after" style="width:{:.2f}%"></i></div>'
    ).format(100 * old / (largest or 1), 100 * new / (largest or 1))


def minute(moment: str) -> str:
    """An ISO 8601 time to the minute, for reading."""
    return moment[:16].replace("T", " ")


def total(counts: Counts, side: int) -> int:
    """All of one side, 0 for before and 1 for after."""
    return sum(pair[side] for pair in counts.values())


def changed_first(counts: Counts) -> Sequence[tuple[str, int, int]]:
    """(name, before, after): those that changed first, then the larger ones."""
    rows = [(name, old, new) for name, (old, new) in counts.items()]
    return sorted(rows, key=lambda row: (row[1] == row[2], -max(row[1], row[2])))
