"""Ultralytics' own trainer as the peer of ours, in tests and in `benchmarks/training.py`.

All is theirs, apart from what is needed to compare (`OurDraws`) and two calls at their start that reach for the network
or MLflow. A run takes the configuration that our trainer takes.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import yaml

# First, because it sets Ultralytics' switches, which are read while that is imported.
from retrain.training.draws import epoch_order
from retrain.training.reproducible import reproducible, seed_augmentation

# isort: split
from ultralytics.models.yolo.detect import DetectionTrainer

PATCHED = (
    "order of images: ours (theirs carries its random state from epoch to epoch and cannot be resumed)",
    "augmentation: their transforms, seeded for each image as ours are",
)
"""What `OurDraws` changes in theirs; all else runs as it is."""


class OurDraws:
    """Gives Ultralytics' loader the order and the augmentation seeds that our trainer uses."""

    def __init__(self, trainer: Any, seed: int) -> None:
        self._trainer, self._seed = trainer, seed
        loader = trainer.train_loader
        loader.batch_sampler.sampler.sampler = self
        self._dataset = loader.dataset
        theirs = type(self._dataset)

        class SeededDataset(theirs):  # type: ignore[misc]
            def __getitem__(self, index: int) -> Any:
                seed_augmentation(seed, self.drawn_epoch, self.positions[index])
                return theirs.__getitem__(self, index)

        self._dataset.__class__ = SeededDataset

    def begin_epoch(self) -> None:
        """Look everything up once, so that the peer does not pay for it with every image."""
        epoch = self._trainer.epoch
        self._order = epoch_order(len(self), self._seed, epoch).tolist()
        self._dataset.drawn_epoch = epoch
        self._dataset.positions = {index: position for position, index in enumerate(self._order)}
        # Else the loader would go on in the order of the epoch before.
        self._trainer.train_loader.reset()

    def __iter__(self) -> Iterator[int]:
        return iter(self._order)

    def __len__(self) -> int:
        return len(self._dataset)


def overrides(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Their settings for our configuration, which must name each of these; `data.yaml` is written to `folder`."""
    data = {"train": str(config["train_data"][0] / "images"), "val": str(config["val_data"] / "images")}
    names = dict(enumerate(config["classes"]))
    (folder / "data.yaml").write_text(yaml.safe_dump({**data, "names": names}))
    return {
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
        "warmup_epochs": config["warmup_epochs"],
        "warmup_bias_lr": config["warmup_bias_lr"],
        "close_mosaic": config["close_mosaic"],
        "seed": config["seed"],
        "workers": 0,
        "device": "cpu",
        "amp": False,
        "cache": "ram",
        "plots": False,
        "pretrained": False,
        **config["augment"],
    }


def train_with_ultralytics(
    config: Mapping[str, Any],
    folder: Path,
    on_epoch: Callable[[Any], None],
    start: Mapping[str, torch.Tensor] | None = None,
    *,
    our_draws: bool = True,
    **changed: Any,
) -> None:
    """Train to the end, without their closing validation of a half-precision copy.

    Args:
        folder: existing, for what they write.
        on_epoch: called with their trainer when it has validated and saved an epoch.
        start: weights to begin with; None begins with what they draw.
        our_draws: see `OurDraws`.
        changed: their settings, in place of those that follow from `config`.
    """

    def set_up(trainer: Any) -> None:
        if start is not None:
            trainer.model.load_state_dict(start)
            trainer.ema.ema.load_state_dict(start)

    def take_our_draws(trainer: Any) -> None:
        draws = OurDraws(trainer, config["seed"])
        trainer.add_callback("on_train_epoch_start", lambda _: draws.begin_epoch())

    threads = torch.get_num_threads()
    with (
        patch("ultralytics.utils.callbacks.add_integration_callbacks", lambda _: None),
        patch("ultralytics.data.utils.check_font", lambda *_: None),
        # Draws of augmentation come from a generator that nothing else touches, here as there.
        reproducible(config["seed"], config.get("threads", threads)),
    ):
        trainer = DetectionTrainer(overrides={**overrides(config, folder), **changed})
        trainer.add_callback("on_pretrain_routine_end", set_up)
        if our_draws:
            trainer.add_callback("on_train_start", take_our_draws)
        trainer.add_callback("on_fit_epoch_end", on_epoch)
        trainer.final_eval = lambda: None
        trainer.train()
