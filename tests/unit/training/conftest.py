import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from retrain.storage.digests import content_digest
from retrain.storage.packs import pack_file_name, write_pack
from retrain.storage.selections import SelectedImage, write_selection_file

LABELS = "0 0.5 0.5 0.2 0.2\n"


def encoded(
    seed: int, kind: str = "PNG", size: tuple[int, int] = (40, 30), mode: str = "RGB", turned: int = 0
) -> bytes:
    """Noise of that many pixels (before it is turned), as an encoded image."""
    rng, buffer = np.random.default_rng(seed), io.BytesIO()
    channels = {"RGB": (3,), "RGBA": (4,), "L": (), "I;16": ()}[mode]
    kind_of_pixel, most = (np.uint16, 65535) if mode == "I;16" else (np.uint8, 255)
    pixels = rng.integers(0, most, (size[1], size[0], *channels)).astype(kind_of_pixel)
    exif = Image.Exif()
    if turned:
        exif[0x0112] = turned
    Image.fromarray(pixels).save(buffer, kind, **({"exif": exif} if turned else {}))
    return buffer.getvalue()


def write_both(
    root: Path, packs: Sequence[Mapping[str, tuple[bytes, tuple[int, int], str]]], weights: bool = False
) -> tuple[Path, Path]:
    """The same images as a data folder and as a selection of packs.

    Args:
        packs: images of each by format and number, as bytes, (width, height) and labels.
    """
    folder, images, files = root / "folder", [], []
    (folder / "images").mkdir(parents=True)
    (folder / "labels").mkdir()
    for number, members in enumerate(packs):
        named = {f"{content_digest(data[0])}.{key.partition('-')[0]}": data for key, data in members.items()}
        pack = write_pack(root / "packs", [(name, data) for name, (data, _, _) in named.items()])
        files.append(root / "packs" / pack_file_name(pack))
        for name, (data, (width, height), labels) in named.items():
            (folder / "images" / name).write_bytes(data)
            (folder / "labels" / f"{Path(name).stem}.txt").write_text(labels)
            weight = 1.0 + len(labels) % 7 if weights else None
            images.append(SelectedImage(name, number, width, height, labels, weight))
    images.sort(key=lambda image: image.name)
    return folder, write_selection_file(root / "selections", files, images)


@pytest.fixture
def encode() -> Callable[..., bytes]:
    return encoded


@pytest.fixture
def as_both() -> Callable[..., tuple[Path, Path]]:
    return write_both


@pytest.fixture
def some_images() -> list[dict[str, tuple[bytes, tuple[int, int], str]]]:
    """Two packs of nine images of many shapes, with up to five boxes, one of them twice."""
    rng = np.random.default_rng(0)
    packs = []
    for pack in range(2):
        members = {}
        for index in range(9):
            size = (int(rng.integers(20, 90)), int(rng.integers(20, 90)))
            boxes = rng.uniform(0.1, 0.3, (int(rng.integers(0, 5)), 4)) + 0.3
            rows = [f"{index % 2} {' '.join(f'{value:.10f}' for value in box)}\n" for box in boxes]
            kind = ("JPEG", "PNG", "BMP")[index % 3]
            key = f"{ {'JPEG': 'jpg'}.get(kind, kind.lower()) }-{index}".replace(" ", "")
            members[key] = (encoded(100 * pack + index, kind, size), size, "".join(rows + rows[:1]))
        packs.append(members)
    return packs
