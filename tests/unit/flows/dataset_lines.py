"""Labelled files to import, and `retrain` as a person runs it."""

import contextlib
import io
import json
import os
import shlex
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from flows.cli import main

CLASSES = ("car", "truck")


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return [" ".join(line.split()) for line in self.out.splitlines() if line.strip()]


def run(line: str, home: Path) -> Done:
    """Run one command line here, with an empty configuration."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("RETRAIN_", "PREFECT_"))
    }
    variables = {**kept, "RETRAIN_HOME": str(home), "COLUMNS": "200"}
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.dict(os.environ, variables, clear=True),
        mock.patch.object(sys, "argv", ["retrain", *shlex.split(line)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as end,
    ):
        main()
    return Done(int(end.value.code or 0), out.getvalue(), err.getvalue())


def png(seed: int) -> bytes:
    """Noise, so that no two look alike."""
    pixels = np.random.default_rng(seed).integers(0, 255, (16, 24, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write_coco(
    folder: Path,
    images: Mapping[str, bytes],
    split: str | None = None,
    classes: Iterable[str] = CLASSES,
    box: tuple[float, ...] = (2, 2, 10, 8),
) -> Path:
    """A COCO folder in which each image shows one object; classes take turns."""
    names = list(classes)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for name, data in images.items():
        (folder / "images" / name).write_bytes(data)
    content = {
        "categories": [{"id": index, "name": name} for index, name in enumerate(names)],
        "images": [
            {"id": i, "file_name": f"images/{name}", "width": 24, "height": 16}
            for i, name in enumerate(images)
        ],
        "annotations": [
            {"id": i, "image_id": i, "category_id": i % len(names), "bbox": list(box)}
            for i in range(len(images))
        ],
    }
    (folder / f"instances_{split or 'default'}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def frames(numbers: Iterable[int]) -> dict[str, bytes]:
    """Two frames to a recording: day0-0.png, day0-1.png, day1-2.png, …"""
    return {f"day{number // 2}-{number}.png": png(number) for number in numbers}
