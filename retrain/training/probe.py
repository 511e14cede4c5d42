"""Single training steps outside any job: nothing of the job is touched, no checkpoint and no weights are left."""

from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from retrain.training.data import DetectionData
from retrain.training.job import TrainingJob
from retrain.training.labelled_images import LabelledImages
from retrain.training.model import build_model
from retrain.training.optimizers import build_optimizer, freeze
from retrain.training.precision import precision_of
from retrain.training.ultralytics_parts import DetectionModel

Batch = dict[str, Any]
_LEARNT_BY_HEART = 8


class Probe:
    """Models and batches as the job would use them.

    Args:
        job: what would be trained.
        data: of the job; its images need not be cached.
        device: `cpu` or `cuda`.
        images: that one process is given per batch.
    """

    def __init__(self, job: TrainingJob, data: DetectionData, device: str, images: int) -> None:
        self._job, self._data, self._device = job, data, device
        self.images, self.classes = images, len(job.request.classes)

    def fresh_model(self) -> DetectionModel:
        """On the device, in training mode, with the layers frozen that the job freezes."""
        model = build_model(self._job, self._data).to(self._device)
        freeze(model, self._frozen)
        model.train()
        return model

    def optimizer(self, model: DetectionModel) -> Optimizer:
        """The job's own."""
        request = self._job.request
        return build_optimizer(
            model,
            request.optimizer,
            request.learning_rate,
            request.momentum,
            request.weight_decay,
            self._frozen,
        )

    def batch(self, count: int) -> Batch:
        """The first training images of the first epoch, as the job's transforms give them, repeated where too few."""
        drawn = next(self._data.batches.first())
        chosen = [drawn[index % len(drawn)] for index in range(count)]
        dataset = self._data.train.loader.dataset
        return self._placed(LabelledImages.collate_fn([dataset[draw] for draw in chosen]))

    def labelled_batch(self) -> Batch:
        """Some training images that have labels, as they are, without any augmentation."""
        images = self._data.plain_images()
        order = [draw.image for drawn in self._data.batches.first() for draw in drawn]
        labelled = [index for index in order if len(images.labels[index]["cls"])]
        chosen = list(dict.fromkeys(labelled))[: min(self.images, _LEARNT_BY_HEART)]
        if len(chosen) == 1:
            chosen *= 2  # statistics of one image alone cannot be normalised by at the smallest scale
        return self._placed(LabelledImages.collate_fn([images[index] for index in chosen]))

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        precision = precision_of(self._job.mixed_precision, self._device)
        kind = torch.float16 if precision == "fp16" else torch.bfloat16
        with torch.autocast(self._device, dtype=kind, enabled=precision != "fp32"):
            loss: torch.Tensor = model.loss(batch)[0].sum()  # type: ignore[operator]
        return loss

    def step(self, model: nn.Module, optimizer: Optimizer, batch: Batch) -> None:
        self.loss(model, batch).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()

    def _placed(self, batch: Batch) -> Batch:
        placed = {
            key: value.to(self._device) if torch.is_tensor(value) else value for key, value in batch.items()
        }
        return {**placed, "img": placed["img"].float() / 255}

    @property
    def _frozen(self) -> tuple[str, ...]:
        return tuple(f"model.{layer}." for layer in self._job.request.freeze)
