"""The same recipe through Ultralytics' own trainer: scores and weights must be equal, epoch by epoch."""

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.training import BCCD, RECIPE, write_data
from benchmarks.training_steps import open_windows
from benchmarks.ultralytics_trainer import train_with_ultralytics
from retrain.detector import StoredModel
from retrain.training.orchestrator import TrainingOrchestrator
from retrain.training.reproducible import reproducible
from retrain.training.result import TrainingResult
from retrain.training.ultralytics_parts import DetectionModel, yaml_model_load
from retrain.training.weights import write_model_folder

SEED = 3


def starting_weights(folder: Path) -> StoredModel:
    architecture = {**yaml_model_load("yolov8n.yaml"), "channels": 3}
    with reproducible(SEED, threads=1):
        model = DetectionModel(architecture, nc=2, verbose=False)
    stored = StoredModel(model.yaml, ("red", "blue"), 64, model.state_dict())
    write_model_folder(folder, stored)
    return stored


def train_peer(
    config: dict[str, Any], folder: Path, start: StoredModel | None = None
) -> list[dict[str, Any]]:
    seen: list[dict[str, Any]] = []

    def record(trainer: Any) -> None:
        weights = {name: tensor.clone() for name, tensor in trainer.ema.ema.state_dict().items()}
        losses = {name: float(value) for name, value in trainer.tloss.items()}
        # Their `metrics` are rounded to 5 decimals.
        box = trainer.validator.metrics.box
        seen.append({"map50": box.map50, "map50_95": box.map, "weights": weights, "losses": losses})

    train_with_ultralytics(config, folder, record, start and start.weights)
    return seen


@pytest.mark.parametrize(("optimizer", "scheduler"), [("adamw", "linear"), ("sgd", "cosine")])
def test_scores_losses_and_weights_equal_those_of_the_ultralytics_trainer(
    optimizer: str,
    scheduler: str,
    rectangles: dict[str, Any],
    tmp_path: Path,
) -> None:
    start = starting_weights(tmp_path / "start")
    config = {
        **rectangles,
        "optimizer": optimizer,
        "scheduler": scheduler,
        "learning_rate": 0.005,
        "seed": SEED,
    }
    config |= {"warmup_epochs": 1.0, "warmup_bias_lr": 0.1, "initial_weights": tmp_path / "start"}

    theirs = train_peer(config, tmp_path, start)
    ours = TrainingOrchestrator(tmp_path / "jobs", export=()).train(config)

    check_equal(ours, theirs)


def test_bccd_too_from_scratch(tmp_path: Path) -> None:
    if not BCCD.is_dir():
        pytest.skip("needs ../shared/data/bccd")
    config = {**write_data(tmp_path / "data"), **RECIPE, "image_size": 96, "epochs": 3, "seed": SEED}

    places = {"train_data": [Path(config["train_data"][0])], "val_data": Path(config["val_data"])}
    theirs = train_peer({**config, **places}, tmp_path)
    ours = TrainingOrchestrator(tmp_path / "jobs", export=()).train(config)

    check_equal(ours, theirs)
    # Equal zeros say nothing, nor do epochs that end with an optimizer step: no gradients are carried over then.
    assert ours.best.map50 > 0
    assert open_windows(config, ours.resolved["batches"]) == config["epochs"]


def check_equal(ours: TrainingResult, theirs: list[dict[str, Any]]) -> None:
    for key in ("map50", "map50_95"):
        assert [getattr(report, key) for report in ours.epochs] == [epoch[key] for epoch in theirs]
    for report, epoch in zip(ours.epochs, theirs, strict=True):
        assert report.losses == pytest.approx(epoch["losses"], rel=1e-5)
    released = StoredModel.read(ours.model_folder).weights
    expected = theirs[ours.best.epoch - 1]["weights"]
    assert all(torch.equal(released[name], tensor) for name, tensor in expected.items())
