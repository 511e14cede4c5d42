from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

COLOURS = ((230, 60, 40), (40, 90, 240))


def write_rectangles(root: Path, count: int, seed: int, side: int = 64) -> Path:
    """Coloured rectangles on dark noise, in Ultralytics layout."""
    rng = np.random.default_rng(seed)
    (root / "images").mkdir(parents=True)
    (root / "labels").mkdir()
    for index in range(count):
        image = rng.integers(0, 60, (side, side, 3)).astype(np.uint8)
        rows = []
        for _ in range(int(rng.integers(1, 3))):
            label, (width, height) = int(rng.integers(0, 2)), rng.integers(side // 4, side // 2, 2)
            x, y = rng.integers(0, side - width), rng.integers(0, side - height)
            image[y : y + height, x : x + width] = COLOURS[label]
            centre = ((x + width / 2) / side, (y + height / 2) / side)
            rows.append(f"{label} {centre[0]:.6f} {centre[1]:.6f} {width / side:.6f} {height / side:.6f}")
        Image.fromarray(image).save(root / "images" / f"{index:04d}.png")
        (root / "labels" / f"{index:04d}.txt").write_text("\n".join(rows) + "\n")
    return root


@pytest.fixture(scope="session")
def rectangles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A configuration over 18 images; batches of 4 leave half an accumulation window at each epoch's end."""
    root = tmp_path_factory.mktemp("rectangles")
    return {
        "train_dirs": [write_rectangles(root / "train", 18, seed=0)],
        "val_dir": write_rectangles(root / "val", 8, seed=1),
        "classes": ["red", "blue"],
        "epochs": 3,
        "batch_size": 4,
        "nominal_batch": 8,
        "image_size": 64,
        "close_mosaic": 1,
        "augment": {"fliplr": 0.5, "mosaic": 1.0},
        "threads": 1,
    }
