"""The same recipe through Ultralytics' own trainer: scores and weights must be equal, epoch by epoch."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from ultralytics.models.yolo.detect import DetectionTrainer

from retrain.detector import StoredModel
from retrain.training.draws import epoch_order
from retrain.training.orchestrator import TrainingOrchestrator
from retrain.training.reproducible import reproducible, seed_augmentation
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


class OurOrder:
    """Stands for Ultralytics' shuffling, which carries its random state from epoch to epoch and cannot be resumed."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def __iter__(self) -> Iterator[int]:
        return iter(epoch_order(len(self), SEED, self.trainer.epoch).tolist())

    def __len__(self) -> int:
        return len(self.trainer.train_loader.dataset)


def draw_as_we_do(trainer: Any) -> None:
    """Order and augmentation seeds are all that is not Ultralytics' own here."""
    loader = trainer.train_loader
    loader.batch_sampler.sampler.sampler = OurOrder(trainer)
    original = type(loader.dataset).__getitem__

    class SeededDataset(type(loader.dataset)):  # type: ignore[misc]
        def __getitem__(self, index: int) -> Any:
            order = epoch_order(len(self), SEED, trainer.epoch).tolist()
            seed_augmentation(SEED, trainer.epoch, order.index(index))
            return original(self, index)

    loader.dataset.__class__ = SeededDataset


def begin_anew(trainer: Any) -> None:
    """Else the loader would go on in the order of the epoch before."""
    trainer.train_loader.reset()


def train_with_ultralytics(config: dict[str, Any], start: StoredModel, folder: Path) -> list[dict[str, Any]]:
    data = {"train": str(config["train_data"][0] / "images"), "val": str(config["val_data"] / "images")}
    (folder / "data.yaml").write_text(yaml.safe_dump({**data, "names": {0: "red", 1: "blue"}}))
    trainer = DetectionTrainer(
        overrides={
            "model": "yolov8n.yaml",
            "data": str(folder / "data.yaml"),
            "project": str(folder),
            "optimizer": config["optimizer"],
            "lr0": config["learning_rate"],
            "cos_lr": config["scheduler"] == "cosine",
            "epochs": config["epochs"],
            "batch": config["batch_size"],
            "nbs": config["nominal_batch"],
            "imgsz": config["image_size"],
            "warmup_epochs": 1.0,
            "warmup_bias_lr": config["warmup_bias_lr"],
            "close_mosaic": config["close_mosaic"],
            "seed": SEED,
            "workers": 0,
            "device": "cpu",
            "amp": False,
            "cache": "ram",
            "plots": False,
            "pretrained": False,
            **config["augment"],
        }
    )
    seen: list[dict[str, Any]] = []

    def load_start(trainer: Any) -> None:
        trainer.model.load_state_dict(start.weights)
        trainer.ema.ema.load_state_dict(start.weights)

    def record(trainer: Any) -> None:
        weights = {name: tensor.clone() for name, tensor in trainer.ema.ema.state_dict().items()}
        losses = {name: float(value) for name, value in trainer.tloss.items()}
        seen.append({**trainer.metrics, "weights": weights, "losses": losses})

    trainer.add_callback("on_pretrain_routine_end", load_start)
    trainer.add_callback("on_train_start", draw_as_we_do)
    trainer.add_callback("on_train_epoch_start", begin_anew)
    trainer.add_callback("on_fit_epoch_end", record)
    trainer.final_eval = lambda: None
    trainer.train()
    return seen


@pytest.mark.parametrize(("optimizer", "scheduler"), [("adamw", "linear"), ("sgd", "cosine")])
def test_scores_losses_and_weights_equal_those_of_the_ultralytics_trainer(
    optimizer: str,
    scheduler: str,
    rectangles: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ultralytics.utils.callbacks.add_integration_callbacks", lambda _: None)
    monkeypatch.setattr("ultralytics.data.utils.check_font", lambda *_: None)
    start = starting_weights(tmp_path / "start")
    config = {
        **rectangles,
        "optimizer": optimizer,
        "scheduler": scheduler,
        "learning_rate": 0.005,
        "seed": SEED,
    }
    config |= {"warmup_bias_lr": 0.1, "initial_weights": tmp_path / "start"}

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        # Draws of augmentation come from a generator that nothing else touches, here as there.
        with reproducible(SEED, threads=1):
            theirs = train_with_ultralytics(config, start, tmp_path)
    finally:
        torch.set_num_threads(threads)
    ours = TrainingOrchestrator(tmp_path / "jobs").train(config)

    assert [report.map50_95 for report in ours.epochs] == [epoch["metrics/mAP50-95(B)"] for epoch in theirs]
    assert [report.map50 for report in ours.epochs] == [epoch["metrics/mAP50(B)"] for epoch in theirs]
    for report, epoch in zip(ours.epochs, theirs, strict=True):
        assert report.losses == pytest.approx(epoch["losses"], rel=1e-5)
    released = StoredModel.read(ours.model_folder).weights
    expected = theirs[ours.best.epoch - 1]["weights"]
    assert all(torch.equal(released[name], tensor) for name, tensor in expected.items())
