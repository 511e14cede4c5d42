"""Where boxes and images are, and which classes meet: maps as CSS masks and inline SVG."""

import base64
import io
import math
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from PIL import Image

from retrain.dataset.measuring.coverage import PlaceCoverage
from retrain.dataset.report.figures import nothing, text
from retrain.dataset.report.wording import count, counted, shortened

NUMBERED = 12
"""A co-occurrence matrix of more classes has no numbers in its cells."""


def heat(cells: Sequence[Sequence[int]], said: str) -> Markup:
    """A map of counts: the fuller a cell, the stronger its colour (by square root, so that few still show)."""
    counts = np.asarray(cells, dtype=np.float64)
    if not counts.size or not counts.max():
        return nothing()
    alpha = (np.sqrt(counts / counts.max()) * 255).round().astype(np.uint8)
    black = np.zeros_like(alpha)
    buffer = io.BytesIO()
    Image.fromarray(np.stack([black, alpha], axis=2), "LA").save(buffer, "PNG", optimize=True)
    uri = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    return Markup(
        '<div class="heat" role="img" aria-label="{}">'
        '<i style="-webkit-mask-image:url({u});mask-image:url({u})"></i></div>'
    ).format(said, u=uri)


def co_occurrence(names: Sequence[str], images: Sequence[Sequence[int]]) -> Markup:
    """Rows and columns are classes; a cell's colour is the share of the row's images that also show the column.

    Classes in no image are left out.
    """
    there = [index for index, row in enumerate(images) if row[index]]
    if not there:
        return nothing()
    names, images = [names[i] for i in there], [[images[i][j] for j in there] for i in there]
    numbered = len(names) <= NUMBERED
    size = 46.0 if numbered else 11.0
    font = 12.0 if numbered else 8.5
    labels = [shortened(name, 18) for name in names]
    margin = max(len(label) for label in labels) * font * 0.6 + 12
    parts = []
    for index, (name, label) in enumerate(zip(names, labels, strict=True)):
        parts += _matrix_labels(name, label, margin, (index + 0.5) * size, font)
        parts += _matrix_row(names, images, index, (margin, size, font) if numbered else (margin, size, 0.0))
    side = margin + len(names) * size
    return Markup(
        '<svg class="matrix" viewBox="0 0 {:.0f} {:.0f}" style="max-width:{:.0f}px" role="img" aria-label="{}">{}</svg>'
    ).format(side, side, side, "Which classes are shown together", Markup().join(parts))


def place_map(places: PlaceCoverage) -> Markup:
    """Where images were taken; north is up, a dot's area is its images."""
    if places.bounds is None:
        return nothing()
    south, west, north, east = places.bounds
    # A degree of longitude shrinks towards the poles.
    squeeze = max(math.cos(math.radians((south + north) / 2)), 0.05)
    scale = 300 / max((east - west) * squeeze, north - south, 0.02)
    width, height = (east - west) * squeeze * scale + 40, (north - south) * scale + 40
    most = max(n for _, _, n in places.cells)
    dots = [
        Markup(
            '<circle cx="{:.1f}" cy="{:.1f}" r="{:.1f}"><title>{:.2f}, {:.2f}: {}</title></circle>'
        ).format(
            20 + (min(max(lon + 0.005, west), east) - west) * squeeze * scale,
            20 + (north - min(max(lat + 0.005, south), north)) * scale,
            3 + 9 * math.sqrt(n / most),
            lat,
            lon,
            counted(n, "image"),
        )
        for lat, lon, n in places.cells
    ]
    return Markup(
        '<svg class="map" viewBox="0 0 {:.0f} {:.0f}" style="max-width:{:.0f}px" role="img" aria-label="{}">{}</svg>'
    ).format(width, height, width, "Where the images were taken", Markup().join(dots))


def _matrix_labels(name: str, label: str, margin: float, middle: float, font: float) -> list[Markup]:
    row = Markup(
        '<text class="tick" text-anchor="end" x="{:.1f}" y="{:.1f}" font-size="{}"><title>{}</title>{}</text>'
    )
    column = Markup(
        '<text class="tick" transform="translate({:.1f} {:.1f}) rotate(-90)" font-size="{}"><title>{}</title>{}</text>'
    )
    low = middle + font * 0.35
    return [
        row.format(margin - 6, margin + low, font, name, label),
        column.format(margin + low, margin - 6, font, name, label),
    ]


def _matrix_row(
    names: Sequence[str], images: Sequence[Sequence[int]], row: int, sizes: tuple[float, float, float]
) -> list[Markup]:
    margin, size, font = sizes
    own = images[row][row]
    parts = []
    for column, both in enumerate(images[row]):
        x, y = margin + column * size, margin + row * size
        share = 0.0 if row == column or not own else both / own
        said = f"{names[row]}: {counted(own, 'image')}"
        if row != column:
            said = f"{counted(both, 'image')} of {count(own)} with {names[row]} also show {names[column]}"
        if both or font:
            parts.append(
                Markup(
                    '<g class="{}"><rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" fill-opacity="{:.2f}">'
                    "<title>{}</title></rect>{}</g>"
                ).format(
                    "own" if row == column else "strong" if share > 0.72 else "cell",
                    x,
                    y,
                    size - 1,
                    size - 1,
                    1.0 if row == column else share,
                    said,
                    text(x + size / 2, y + size / 2 + font * 0.35, count(both), "count") if font else "",
                )
            )
    return parts
