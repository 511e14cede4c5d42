"""The repository's own reproducible pipeline, run by `dvc repro`: restored data → train → evaluate.

    python -m flows.pipeline train
    python -m flows.pipeline evaluate

Both read `params.yaml` and work in the current directory, which DVC sets to the repository.
"""

import csv
import json
import shutil
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image

from retrain.boxes import Annotations, yolo_to_xyxy
from retrain.environment import prepare
from retrain.errors import BadInput, NotFound
from retrain.evaluation.run import EvaluationItem, evaluate

OUTPUT = Path(".retrain/pipeline")
MODEL, METRICS, PLOTS = OUTPUT / "model", OUTPUT / "metrics.json", OUTPUT / "plots"


def restore(folder: Path | None = None) -> str:
    """Make the seed data of a repository again and say what it is.

    Raises:
        NotFound: the folder has no params.yaml.
    """
    from retrain.simulation.seed_data import restore as make

    root = folder or _checkout()
    digest = make(root / "data", _params(root))
    return f"{root / 'data'}: {digest}, as data.dvc records it"


def train_pipeline() -> None:
    """Train on data/train and data/val; leave the model and its training curve."""
    from retrain.training.orchestrator import TrainingOrchestrator

    params = _params(Path())
    settings = params["train"]
    result = TrainingOrchestrator(OUTPUT / "jobs").train(
        {
            "model": "yolov8n",
            "classes": list(_classes()),
            "train_data": ["data/train"],
            "val_data": "data/val",
            "epochs": settings["epochs"],
            "batch_size": settings["batch_size"],
            "learning_rate": settings["learning_rate"],
            "image_size": settings["image_size"],
            "augment": {"mosaic": 0.5, "fliplr": 0.0},
            "seed": params["seed"],
        },
        on_epoch=lambda report: print(
            f"epoch {report.epoch}/{report.epochs}: mAP50 {report.map50:.3f}", flush=True
        ),
    )
    shutil.copytree(result.model_folder, MODEL, dirs_exist_ok=True)
    rows = [
        [report.epoch, report.map50, report.map50_95, *report.losses.values()] for report in result.epochs
    ]
    _write_csv("training.csv", ["epoch", "map50", "map50_95", *result.epochs[0].losses], rows)


def evaluate_pipeline() -> None:
    """Score the model on data/test; leave metrics and precision-recall curves."""
    from retrain.detector import Detector

    params = _params(Path())
    detector = Detector.load(MODEL)
    confidence = params["evaluate"]["confidence"]
    found = evaluate(detector.predict, list(_items(Path("data/test"))), _classes(), confidence=confidence)
    summary = found.summary
    chosen = {name: getattr(summary, name) for name in ("map50", "map50_95", "precision", "recall", "f1")}
    METRICS.parent.mkdir(parents=True, exist_ok=True)
    METRICS.write_text(json.dumps(chosen, indent=2) + "\n", encoding="utf-8")
    rows = []
    for index, name in enumerate(_classes()):
        curve = found.calculator.pr_curve(index)
        rows += [[name, r, p] for r, p in zip(curve.recall.tolist(), curve.precision.tolist(), strict=True)]
    _write_csv("precision_recall.csv", ["class", "recall", "precision"], rows)
    print(json.dumps(chosen))


def _items(folder: Path) -> list[EvaluationItem]:
    images = sorted((folder / "images").iterdir())
    if not images:
        raise BadInput(f"{folder / 'images'} is empty; run `retrain data restore`.")
    return [EvaluationItem(path.stem, path.stem, partial(_pixels, path), _truth(path)) for path in images]


def _pixels(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def _truth(image: Path) -> Annotations:
    height, width = _pixels(image).shape[:2]
    text = (image.parents[1] / "labels" / f"{image.stem}.txt").read_text(encoding="ascii")
    rows = np.array([line.split() for line in text.splitlines()], dtype=np.float64).reshape(-1, 5)
    return Annotations.of(yolo_to_xyxy(rows[:, 1:], width, height), rows[:, 0].astype(np.int64))


def _write_csv(name: str, header: list[str], rows: list[list[Any]]) -> None:
    PLOTS.mkdir(parents=True, exist_ok=True)
    with (PLOTS / name).open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def _params(root: Path) -> Mapping[str, Any]:
    try:
        return dict(yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise NotFound(f"No params.yaml in {root.absolute()}; run this in the Retrain repository.") from error


def _classes() -> tuple[str, ...]:
    from retrain.simulation.scenes import CLASSES

    return CLASSES


def _checkout() -> Path:
    return Path(__file__).resolve().parents[1]


if __name__ == "__main__":
    prepare()
    stages = {"train": train_pipeline, "evaluate": evaluate_pipeline}
    if len(sys.argv) != 2 or sys.argv[1] not in stages:
        sys.exit(f"usage: python -m flows.pipeline {'|'.join(stages)}")
    stages[sys.argv[1]]()
