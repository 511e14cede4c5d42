"""The same recipe through Ultralytics' own trainer: scores and weights must be equal, epoch by epoch."""

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.ultralytics_trainer import train_with_ultralytics
from retrain.detector import StoredModel
from retrain.training.orchestrator import TrainingOrchestrator
from retrain.training.reproducible import reproducible
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


def train_peer(config: dict[str, Any], start: StoredModel, folder: Path) -> list[dict[str, Any]]:
    seen: list[dict[str, Any]] = []

    def record(trainer: Any) -> None:
        weights = {name: tensor.clone() for name, tensor in trainer.ema.ema.state_dict().items()}
        losses = {name: float(value) for name, value in trainer.tloss.items()}
        seen.append({**trainer.metrics, "weights": weights, "losses": losses})

    train_with_ultralytics(config, folder, record, start.weights)
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

    theirs = train_peer(config, start, tmp_path)
    ours = TrainingOrchestrator(tmp_path / "jobs").train(config)

    assert [report.map50_95 for report in ours.epochs] == [epoch["metrics/mAP50-95(B)"] for epoch in theirs]
    assert [report.map50 for report in ours.epochs] == [epoch["metrics/mAP50(B)"] for epoch in theirs]
    for report, epoch in zip(ours.epochs, theirs, strict=True):
        assert report.losses == pytest.approx(epoch["losses"], rel=1e-5)
    released = StoredModel.read(ours.model_folder).weights
    expected = theirs[ours.best.epoch - 1]["weights"]
    assert all(torch.equal(released[name], tensor) for name, tensor in expected.items())
