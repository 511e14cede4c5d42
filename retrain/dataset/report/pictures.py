"""Labelled images drawn small: a JPEG inside the page, and its boxes as shapes over it."""

import base64
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from PIL import Image, ImageOps

from retrain.dataset.comparing.relabelling import NamedBox, ObjectChange, Relabelling
from retrain.dataset.measuring.coverage import camera_of
from retrain.dataset.report.wording import shortened
from retrain.dataset.version import DatasetItem, DatasetVersion
from retrain.errors import BadInput
from retrain.images import read_image

LONGEST_SIDE = 420
MOST_BOXES = 300
"""More shapes make a page slow and a picture unreadable; the caption says how many there are."""
_QUALITY = 80
_MOST_TAGS = 12
_GOLDEN_ANGLE = 137.508


@dataclass(frozen=True)
class Drawn:
    """One picture with its caption; `legend` has a class, its colour and how many objects it has."""

    svg: Markup
    title: str
    legend: tuple[tuple[str, str, int], ...]
    left_out: int


@dataclass(frozen=True)
class Pair:
    """The labels of one image before and after."""

    before: Markup
    after: Markup
    title: str
    changes: Mapping[str, int]
    unchanged: int


def thumbnail(item: DatasetItem, data: bytes) -> str:
    """A JPEG data URI, at most `LONGEST_SIDE` a side, turned as EXIF says.

    Levels of more than 8 bits are stretched from the darkest to the brightest, so that something is seen.

    Raises:
        BadInput: the bytes are damaged or another image's.
    """
    try:
        found = read_image(data)
    except BadInput as error:
        raise BadInput(f"Image {item.image} {error}.") from error
    if found.digest != item.image:
        raise BadInput(f"Image {item.image} was asked for, but the bytes given are {found.digest}.")
    with Image.open(io.BytesIO(data)) as image:
        image.draft("RGB", (LONGEST_SIDE, LONGEST_SIDE))
        picture = ImageOps.exif_transpose(_eight_bits(image))
    picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=_QUALITY, exif=b"")
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _eight_bits(image: Image.Image) -> Image.Image:
    """As RGB, with the EXIF data it had."""
    if image.mode == "F" or image.mode.startswith("I"):
        levels = np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0.0, neginf=0.0)
        low, span = levels.min(), max(np.ptp(levels), 1e-12)
        plain = Image.fromarray(((levels - low) / span * 255).astype(np.uint8)).convert("RGB")
    else:
        # A palette with transparency cannot become RGB in one step.
        plain = (image.convert("RGBA") if image.mode == "P" else image).convert("RGB")
    plain.info["exif"] = image.getexif().tobytes()
    return plain


def drawn(version_classes: Sequence[str], item: DatasetItem, data: bytes) -> Drawn:
    """One image with its boxes, coloured by class.

    Raises:
        BadInput: as `thumbnail`.
    """
    biggest = sorted(item.objects, key=lambda o: -_area(o.box))[:MOST_BOXES]
    layers = [_picture(item, thumbnail(item, data))]
    layers += [
        _edge(o.box, Markup('style="color:{}"').format(colour(o.class_index)), version_classes[o.class_index])
        for o in biggest
    ]
    counts = Counter(o.class_index for o in item.objects)
    title = " · ".join(part for part in (camera_of(item.metadata) or "", item.split, item.source) if part)
    return Drawn(
        svg=_svg(item, layers, f"{title}: {len(item.objects)} objects"),
        title=title,
        legend=tuple((version_classes[index], colour(index), n) for index, n in counts.most_common()),
        left_out=len(item.objects) - len(biggest),
    )


def paired(change: Relabelling, before: DatasetVersion, item: DatasetItem, data: bytes, number: int) -> Pair:
    """One relabelled image as it was labelled, and as it is; what stayed is thin.

    Args:
        item: as it is now.
        number: makes the picture's id unique in the page, which holds its bytes once.

    Raises:
        BadInput: as `thumbnail`.
    """
    old = before.by_image[item.image]
    name = f"relabelled-{number}"
    touched = {one.id for one in change.changes}
    kept = [_edge(o.box, Markup('class="kept"'), "unchanged") for o in item.objects if o.id not in touched]
    pictures = (
        _picture(item, thumbnail(item, data), Markup('id="{}" ').format(name)),
        Markup('<use href="#{}"/>').format(name),
    )
    sides = []
    for picture, was in zip(pictures, (True, False), strict=True):
        said = f"{'before' if was else 'after'}: {len(old.objects if was else item.objects)} objects"
        marks = _marks(item, change.changes, was=was)
        sides.append(_svg(item, [picture, *kept[:MOST_BOXES], *marks], said))
    return Pair(
        before=sides[0],
        after=sides[1],
        title=" · ".join(part for part in (camera_of(item.metadata) or "", item.split) if part),
        changes=Counter(one.kind for one in change.changes),
        unchanged=change.unchanged,
    )


def _marks(item: DatasetItem, changes: Iterable[ObjectChange], *, was: bool) -> list[Markup]:
    """Edges first, so that every tag stays readable."""
    style = "before" if was else "after"
    edges, tags = [], []
    for change in list(changes)[:MOST_BOXES]:
        seen: NamedBox | None = change.before if was else change.after
        if seen is None:
            continue
        dashed = " gone" if change.kind == "removed" else " new" if change.kind == "added" else ""
        edges.append(
            _edge(seen.box, Markup('class="{}"').format(style + dashed), f"{seen.name}, {change.kind}")
        )
        tags.append(_tag(item, seen, style))
    return [*edges, *(tags if len(tags) <= _MOST_TAGS else [])]


def colour(index: int) -> str:
    """A colour per class; neighbours in the class list lie far apart on the colour circle."""
    return f"hsl({(25 + index * _GOLDEN_ANGLE) % 360:.0f} 90% {(62, 50, 72)[index % 3]}%)"


def _svg(item: DatasetItem, layers: Iterable[Markup], said: str) -> Markup:
    return Markup('<svg class="frame" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        item.width, item.height, said, Markup().join(layers)
    )


def _picture(item: DatasetItem, uri: str, name: str = "") -> Markup:
    # The thumbnail's sides are whole pixels, so its shape may differ from the image's by a hair.
    return Markup('<image {}width="{}" height="{}" preserveAspectRatio="none" href="{}"/>').format(
        name, item.width, item.height, uri
    )


def _edge(box: tuple[float, float, float, float], look: Markup, said: str) -> Markup:
    x1, y1, x2, y2 = box
    shape = Markup('x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"').format(x1, y1, x2 - x1, y2 - y1)
    return Markup('<g {}><rect class="halo" {}/><rect class="edge" {}><title>{}</title></rect></g>').format(
        look, shape, shape, said
    )


def _tag(item: DatasetItem, seen: NamedBox, style: str) -> Markup:
    """Above the box, or inside where the picture ends."""
    text = max(item.width, item.height * 1.2) / 26
    label = shortened(seen.name, 18)
    width, height = (len(label) * 0.55 + 0.6) * text, text * 1.3
    x = max(0.0, min(seen.box[0], item.width - width))
    y = seen.box[1] - height if seen.box[1] >= height else max(0.0, min(seen.box[1], item.height - height))
    return Markup(
        '<g class="tag {}"><rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>'
        '<text x="{:.1f}" y="{:.1f}" font-size="{:.1f}">{}</text></g>'
    ).format(style, x, y, width, height, x + text * 0.3, y + text, text, label)


def _area(box: tuple[float, float, float, float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
