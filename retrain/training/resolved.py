"""Requested is resolved: what was set up is read back from the objects themselves and compared with the request.

Not from the settings that they were made of: a library that overrides a setting silently does so on the way from one
to the other.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import Optimizer

from retrain.errors import ConfigError
from retrain.training.compiling import is_compiled
from retrain.training.data import DetectionData
from retrain.training.job import TrainingJob
from retrain.training.job_files import RESOLVED
from retrain.training.optimizers import always_frozen, optimizer_differences
from retrain.training.place import Place
from retrain.training.precision import lightning_precision
from retrain.training.request import OPTIMIZERS
from retrain.training.transforms import OPEN_ONLY, strengths


class Setting(NamedTuple):
    """One setting as it was asked for and as it was found."""

    name: str
    requested: Any
    resolved: Any


class ReadBack(Callback):
    """Compares before the first step, and stops the training on the first difference.

    Args:
        job: what is asked for; what is found is written to its folder.
        data: its loaders.
        place: of this process; the leading one writes.
        first_epoch: epochs finished before this run.
        fresh: this run begins the training.
        device: asked for.
        precision: the job's own.
    """

    def __init__(
        self,
        job: TrainingJob,
        data: DetectionData,
        place: Place,
        first_epoch: int,
        device: str,
        precision: str,
        *,
        fresh: bool,
    ) -> None:
        self._job, self._data, self._place = job, data, place
        self._first_epoch, self._device, self._fresh = first_epoch, device, fresh
        self._precision = precision
        self._batch_seen = self._rates_seen = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        settings = [
            *self._of_model(pl_module),
            *self._of_data(),
            *self._of_trainer(trainer, pl_module),
            *self._of_optimizer(trainer.optimizers[0], pl_module),
        ]
        _compare(settings)
        if self._place.leads:
            self._job.write(RESOLVED, {setting.name: setting.resolved for setting in settings})

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._batch_seen or not batch:
            return
        self._batch_seen = True
        request = self._job.request
        shown = min(request.batch_size, self._data.images - batch_idx * request.batch_size)
        part = -(-shown // self._place.processes)
        size = request.image_size
        _compare([Setting("shape of a batch", [part, 3, size, size], list(batch["img"].shape))])

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Once, whether the schedule reached the optimizer."""
        if self._rates_seen:
            return
        self._rates_seen = True
        due = pl_module.settings_now
        _compare(
            Setting(
                f"learning rate of {group['param_group']}",
                due.rate(group["initial_lr"], bias=group["param_group"] == "bias"),
                group["lr"],
            )
            for group in optimizer.param_groups
        )

    def _of_model(self, module: LightningModule) -> Iterator[Setting]:
        request, model = self._job.request, module.model
        classes = list(request.classes)
        yield Setting("classes", classes, [model.names.get(index) for index in range(len(model.names))])
        yield Setting("classes of the head", len(classes), model.model[-1].nc)
        names = [name for name, _ in model.named_parameters()]
        layers = tuple(f"model.{layer}." for layer in request.freeze)
        yield Setting(
            "frozen",
            [name for name in names if name.startswith(layers) or always_frozen(name)],
            [name for name, parameter in model.named_parameters() if not parameter.requires_grad],
        )
        first = next(weights for weights in model.parameters() if weights.dim() == 4)
        yield Setting(
            "channels_last", request.channels_last, first.is_contiguous(memory_format=torch.channels_last)
        )
        yield Setting("compile", request.compile, is_compiled(model))
        yield Setting("device", self._device, next(model.parameters()).device.type)

    def _of_data(self) -> Iterator[Setting]:
        request, data = self._job.request, self._data
        for role, images in (("training", data.training_images), ("validation", data.validation_images)):
            yield Setting(
                f"classes of {role} images", list(request.classes), list(images.data["names"].values())
            )
            yield Setting(
                "image_size" if role == "training" else f"size of {role} images",
                request.image_size,
                images.imgsz,
            )
        # Not asked for where it is `auto`.
        yield Setting("cache", data.cache if request.cache == "auto" else request.cache, data.cache)
        drawn = data.drawn
        yield Setting("augment", _floats(request.augment), strengths(drawn.open))
        # The last epochs, where there are any.
        closed = _floats({**request.augment, **dict.fromkeys(OPEN_ONLY, 0.0)})
        yield Setting("augment of the last epochs", closed, strengths(drawn.closed))
        yield Setting(
            "close_mosaic", min(request.close_mosaic, request.epochs), request.epochs - drawn.closing
        )

    def _of_trainer(self, trainer: Trainer, module: LightningModule) -> Iterator[Setting]:
        request, job = self._job.request, self._job
        # Every schedule goes by the job's own epochs.
        yield Setting("epochs", request.epochs, self._first_epoch + (trainer.max_epochs or 0))
        yield Setting("epochs of the loss", request.epochs, module.model.args.epochs)
        yield Setting("batch_size", request.batch_size, self._data.batches.batch_size)
        last = request.epochs * len(self._data.train)
        yield Setting("accumulate", job.accumulate, module.schedule.at(last).accumulate)
        yield Setting("batches summed by Lightning", 1, trainer.accumulate_grad_batches)
        yield Setting("clipped by Lightning", None, trainer.gradient_clip_val)
        yield Setting("precision", lightning_precision(self._precision), str(trainer.precision))
        yield Setting("scheduler", request.scheduler, module.schedule.shape)

    def _of_optimizer(self, optimizer: Optimizer, module: LightningModule) -> Iterator[Setting]:
        request = self._job.request
        kinds = {shown: name for name, shown in OPTIMIZERS.items()}
        yield Setting(
            "optimizer", request.optimizer, kinds.get(type(optimizer).__name__, type(optimizer).__name__)
        )
        found = optimizer_differences(
            optimizer,
            module.model,
            request.optimizer,
            request.learning_rate,
            request.momentum,
            self._data.weight_decay,
            # A resumed optimizer is in the middle of its warm-up of the momentum.
            momentum_known=self._fresh,
        )
        yield Setting("groups of the optimizer", [], list(found))
        decays = {group["weight_decay"] for group in optimizer.param_groups if group["params"]}
        yield Setting("weight_decay", self._data.weight_decay, max(decays))
        yield Setting(
            "learning_rate",
            request.learning_rate,
            min(group["initial_lr"] for group in optimizer.param_groups),
        )


def _floats(values: Mapping[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items()}


def _compare(settings: Any) -> None:
    different = [setting for setting in settings if setting.requested != setting.resolved]
    if different:
        told = "; ".join(
            f"{name}: requested {asked!r}, got {got!r}" for name, asked, got in map(_short, different)
        )
        raise ConfigError(f"Training was not set up as requested. {told}.")


def _short(setting: Setting) -> Setting:
    """Of mappings and lists only what differs."""
    name, asked, got = setting
    if isinstance(asked, dict) and isinstance(got, dict):
        keys = [key for key in {**asked, **got} if asked.get(key) != got.get(key)]
        return Setting(name, {key: asked.get(key) for key in keys}, {key: got.get(key) for key in keys})
    if name == "frozen":
        return Setting(
            name, [one for one in asked if one not in got], [one for one in got if one not in asked]
        )
    return setting
