"""Folders as other tools write them, and versions to export."""

import io
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from retrain.dataset.version import DatasetItem, DatasetVersion, LabelledObject
from retrain.storage.digests import content_digest


def encoded(
    width: int = 40, height: int = 30, shade: int = 0, kind: str = "PNG", orientation: int = 1
) -> bytes:
    buffer, exif = io.BytesIO(), Image.Exif()
    if orientation != 1:
        exif[0x0112] = orientation
    Image.new("RGB", (width, height), (shade, 0, 0)).save(buffer, kind, exif=exif)
    return buffer.getvalue()


def lay_out(folder: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def voc_xml(name: str, *objects: tuple, width: int = 40, height: int = 30) -> str:
    """Objects are class, xmin, ymin, xmax, ymax."""
    corners = ("xmin", "ymin", "xmax", "ymax")
    rows = "".join(
        f"<object><name>{o[0]}</name><bndbox>"
        + "".join(f"<{tag}>{value}</{tag}>" for tag, value in zip(corners, o[1:], strict=True))
        + "</bndbox></object>"
        for o in objects
    )
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f"<annotation><filename>{name}</filename>{size}{rows}</annotation>"


class Store:
    """The bytes of the images of a version."""

    def __init__(self, images: list[bytes]) -> None:
        self._images = {content_digest(data): data for data in images}

    def images(self, version, items):
        for item in items:
            yield item, self._images[item.image]


def item_of(data: bytes, *objects: LabelledObject, **fields) -> DatasetItem:
    with Image.open(io.BytesIO(data)) as image:
        width, height = image.size
        suffix = {"PNG": "png", "JPEG": "jpg"}[str(image.format)]
        if image.getexif().get(0x0112, 1) >= 5:
            width, height = height, width
    given = {"split": "train", "group": "g", "source": "human", **fields}
    return DatasetItem(
        image=content_digest(data),
        pack="ab" * 32,
        format=suffix,
        width=width,
        height=height,
        objects=tuple(objects),
        **given,
    )


def version_of(items, classes=("cat", "dog"), splits=None) -> DatasetVersion:
    return DatasetVersion(
        name="v1.0.0",
        description="Erste Fassung",
        classes=tuple(classes),
        parent=None,
        parent_digest=None,
        splits=splits or {"train": 0.7, "val": 0.2, "test": 0.1},
        salt="",
        items=tuple(sorted(items, key=lambda item: item.image)),
    )


def said(dataset) -> list[tuple[str, str, str, str]]:
    return [(p.file, p.where, p.what, p.lost) for p in dataset.problems]


@pytest.fixture(scope="session")
def build():
    """The functions above, for tests (which cannot import a conftest)."""
    return SimpleNamespace(
        image=encoded,
        lay_out=lay_out,
        voc_xml=voc_xml,
        store=Store,
        item=item_of,
        version=version_of,
        said=said,
    )
