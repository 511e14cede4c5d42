"""Column charts as inline SVG, coloured by the page's style sheet so that they follow light and dark."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import pairwise

from markupsafe import Markup

from retrain.dataset.report.wording import count, counted
from retrain.dataset.stats import Histogram

WIDTH, HEIGHT = 340, 176
LEFT, RIGHT, TOP, BOTTOM = 42, 8, 8, 34
MOST_COLUMNS = 90
"""A longer time is drawn by several days a column."""
_TICKS = 3


@dataclass(frozen=True)
class Column:
    """One bar; `label` stands under it where there is room, `said` shows on hovering."""

    value: int
    label: str
    said: str


def histogram(given: Histogram, title: str, form: str = "{:g}") -> Markup:
    """A bar per bin.

    Args:
        form: how an edge is written.
    """
    edges = [form.format(edge) for edge in given.edges]
    names = [f"{low} to {high}" for low, high in pairwise(edges)]
    if len(given.counts) == len(edges):
        names.append(f"from {edges[-1]}")
    columns = [
        Column(n, edge, f"{name}: {count(n)}")
        for n, edge, name in zip(given.counts, edges, names, strict=False)
    ]
    return column_chart(columns, title)


def hours(by_hour: Sequence[int]) -> Markup:
    """Images by hour of the day, UTC."""
    columns = [Column(n, f"{h:02d}", f"{h:02d}:00 UTC: {counted(n, 'image')}") for h, n in enumerate(by_hour)]
    return column_chart(columns, "hour of the day (UTC)")


def days(by_day: Mapping[str, int]) -> Markup:
    """Images over time, from the first day to the last; a column is one or more days."""
    if not by_day:
        return nothing()
    first, last = date.fromisoformat(min(by_day)), date.fromisoformat(max(by_day))
    step = -(-((last - first).days + 1) // MOST_COLUMNS)
    values = [0] * ((last - first).days // step + 1)
    for day, n in by_day.items():
        values[(date.fromisoformat(day) - first).days // step] += n
    starts = [(first + timedelta(days=step * index)).isoformat() for index in range(len(values))]
    unit = "day" if step == 1 else f"{step} days"
    columns = [
        Column(n, d, f"{unit} from {d}: {counted(n, 'image')}") for n, d in zip(values, starts, strict=True)
    ]
    return column_chart(columns, f"date (UTC), one column is {'one day' if step == 1 else unit}", wide=True)


def column_chart(columns: Sequence[Column], title: str, *, wide: bool = False) -> Markup:
    """Vertical bars from zero; says so when all are empty.

    Args:
        title: what the columns are, under the axis.
        wide: twice as wide.
    """
    highest = max((column.value for column in columns), default=0)
    if not highest:
        return nothing()
    width = 2 * WIDTH if wide else WIDTH
    top = _ticks(highest)[-1]
    slot = (width - LEFT - RIGHT) / len(columns)
    parts = [_grid_line(tick, top, width) for tick in _ticks(highest)]
    every = max(1, math.ceil(max(len(column.label) for column in columns) * 6.4 / slot))
    for index, column in enumerate(columns):
        x, tall = LEFT + index * slot, (HEIGHT - TOP - BOTTOM) * column.value / top
        # What is there at all can be seen.
        tall = max(tall, 1.2) if column.value else 0
        parts.append(_column(x, slot, tall, column.said))
        if index % every == 0:
            parts.append(text(x + slot / 2, HEIGHT - BOTTOM + 13, column.label))
    parts.append(text((LEFT + width - RIGHT) / 2, HEIGHT - 4, title))
    return Markup('<svg class="chart{}" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        " wide" * wide, width, HEIGHT, title, Markup().join(parts)
    )


def text(x: float, y: float, said: str, style: str = "tick") -> Markup:
    """Text centred at `x`, on the line `y`."""
    return Markup('<text class="{}" text-anchor="middle" x="{:.1f}" y="{:.1f}">{}</text>').format(
        style, x, y, said
    )


def nothing() -> Markup:
    """What stands where a figure has no numbers."""
    return Markup('<p class="none">nothing to draw</p>')


def _column(x: float, slot: float, tall: float, said: str) -> Markup:
    gap = 1.5 if slot > 6 else 0.4
    shape = Markup('<rect class="bar" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>').format(
        x + gap / 2, HEIGHT - BOTTOM - tall, slot - gap, tall
    )
    # The whole slot answers the pointer: a low bar is hard to hit.
    hit = Markup(
        '<rect class="hit" x="{:.1f}" y="{}" width="{:.1f}" height="{}"><title>{}</title></rect>'
    ).format(x, TOP, slot, HEIGHT - TOP - BOTTOM, said)
    return shape + hit


def _grid_line(tick: int, top: int, width: float) -> Markup:
    y = HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * tick / top
    return Markup('<line class="grid" x1="{}" x2="{}" y1="{y:.1f}" y2="{y:.1f}"/>').format(
        LEFT, width - RIGHT, y=y
    ) + Markup('<text class="tick" text-anchor="end" x="{}" y="{:.1f}">{}</text>').format(
        LEFT - 6, y + 4, _brief(tick)
    )


def _ticks(highest: int) -> list[int]:
    """Round whole numbers from 0 to at least `highest`."""
    rough = max(highest / _TICKS, 1)
    power = 10 ** math.floor(math.log10(rough))
    step = next(size * power for size in (1, 2, 5, 10) if size * power >= rough)
    return [step * index for index in range(math.ceil(highest / step) + 1)]


def _brief(value: int) -> str:
    if value >= 1_000_000:
        return f"{value / 1_000_000:g}M"
    return f"{value / 1000:g}k" if value >= 10_000 else count(value)
