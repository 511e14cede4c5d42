import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from retrain.storage.digests import file_digest
from retrain.storage.packs import pack_file_name, write_packs
from retrain.storage.selections import SelectedImage, write_selection_file
from retrain.training.orchestrator import TrainingOrchestrator
from retrain.training.result import TrainingResult

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
        "train_data": [write_rectangles(root / "train", 18, seed=0)],
        "val_data": write_rectangles(root / "val", 8, seed=1),
        "classes": ["red", "blue"],
        "epochs": 3,
        "batch_size": 4,
        "nominal_batch": 8,
        "image_size": 64,
        "close_mosaic": 1,
        "augment": {"fliplr": 0.5, "mosaic": 1.0},
        "threads": 1,
    }


def name_by_content(root: Path, target: Path) -> Path:
    """The same data, its images named as in packs."""
    for part in ("images", "labels"):
        (target / part).mkdir(parents=True)
    for path in sorted((root / "images").iterdir()):
        digest = file_digest(path)
        (target / "images" / f"{digest}.png").write_bytes(path.read_bytes())
        (target / "labels" / f"{digest}.txt").write_bytes((root / "labels" / f"{path.stem}.txt").read_bytes())
    return target


def write_selected(folder: Path, root: Path, side: int = 64) -> Path:
    """A selection of packs with what is in a folder; images that show class 1 weigh 3, others 1."""
    images = sorted((folder / "images").iterdir())
    selected, files = [], []
    for number, pack in enumerate(
        write_packs(root / "packs", [(path.name, path) for path in images], 60_000)
    ):
        files.append(root / "packs" / pack_file_name(pack))
        with zipfile.ZipFile(files[-1]) as archive:
            names = archive.namelist()
        for name in names:
            labels = (folder / "labels" / f"{Path(name).stem}.txt").read_text()
            weight = 3.0 if any(line.startswith("1 ") for line in labels.splitlines()) else 1.0
            selected.append(SelectedImage(name, number, side, side, labels, weight))
    assert len(files) > 1
    return write_selection_file(root, files, selected)


@pytest.fixture(scope="session")
def named_rectangles(rectangles: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """`rectangles` in folders as they are made of a dataset version."""
    root = tmp_path_factory.mktemp("named")
    train = name_by_content(rectangles["train_data"][0], root / "train")
    return {
        **rectangles,
        "train_data": [train],
        "val_data": name_by_content(rectangles["val_data"], root / "val"),
    }


@pytest.fixture(scope="session")
def packed_rectangles(
    named_rectangles: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """`named_rectangles`, in packs instead of folders."""
    root = tmp_path_factory.mktemp("packed")
    train = write_selected(named_rectangles["train_data"][0], root / "train")
    return {
        **named_rectangles,
        "train_data": [train],
        "val_data": write_selected(named_rectangles["val_data"], root / "val"),
    }


@pytest.fixture(scope="session")
def whole_batches(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A configuration over 24 images: every batch of 8 is whole."""
    root = tmp_path_factory.mktemp("whole")
    return {
        "train_data": [str(write_rectangles(root / "train", 24, seed=0))],
        "val_data": str(write_rectangles(root / "val", 20, seed=1)),
        "classes": ["red", "blue"],
        "epochs": 3,
        "batch_size": 8,
        "nominal_batch": 8,
        "image_size": 64,
        "warmup_epochs": 0.0,
        "learning_rate": 0.001,
        "optimizer": "sgd",
        "close_mosaic": 1,
        "threads": 1,
    }


@pytest.fixture(scope="session")
def trained_by_two(whole_batches: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    """`whole_batches`, trained by two processes of our own, undisturbed."""
    return TrainingOrchestrator(tmp_path_factory.mktemp("two"), num_processes=2, export=()).train(
        whole_batches
    )


@pytest.fixture(scope="session")
def well_trained(rectangles: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    """`rectangles`, trained for so long that the model finds something, in every format; to be read only."""
    config = {**rectangles, "epochs": 25, "learning_rate": 0.01, "augment": {"mosaic": 0.0}}
    result = TrainingOrchestrator(tmp_path_factory.mktemp("well-trained")).train(config)
    assert result.best.map50 > 0.1, "a model that finds nothing proves nothing"
    return result
