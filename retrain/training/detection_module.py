"""An Ultralytics detector as a LightningModule, optimised by hand so that it trains as Ultralytics would.

Automatic optimisation cannot state the accumulation ramp, the summed (not averaged) gradients or the half-filled
accumulation window that is carried from one epoch into the next.
"""

from types import SimpleNamespace
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch.nn.modules.batchnorm import _BatchNorm

from retrain.errors import ConfigError
from retrain.training.data import DetectionData
from retrain.training.ema import MovingAverage
from retrain.training.job import TrainingJob
from retrain.training.lr_schedule import LearningRateScheduler, StepSettings
from retrain.training.request import OPTIMIZERS
from retrain.training.ultralytics_parts import BaseTrainer, DetectionModel
from retrain.training.validation import Validation

_CLIP_NORM = 10.0


class DetectionModule(LightningModule):
    """Trains one model from `first_epoch` on.

    Args:
        model: from `build_model`, or restored from a checkpoint.
        job: what is asked for.
        data: its loaders.
        average: follows the model; what is validated.
        validation: scores the average after each epoch.
        resume: `training_state()` of the run to go on from.
        first_epoch: epochs finished before this run.
    """

    def __init__(
        self,
        *,
        model: DetectionModel,
        job: TrainingJob,
        data: DetectionData,
        average: MovingAverage,
        validation: Validation,
        resume: dict[str, Any] | None = None,
        first_epoch: int = 0,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model = model
        self.stepped = False
        self.scores = (0.0, 0.0)
        self._job, self._data = job, data
        self._average, self._validation = average, validation
        self._resume, self._first_epoch = resume, first_epoch
        self._last_step = -1 if resume is None else int(resume["last_step"])
        self._sums: dict[str, torch.Tensor] = {}
        self._frozen = (*(f"model.{layer}." for layer in job.request.freeze), ".dfl")
        self.schedule = schedule(job, len(data.train))
        self._settings = self.schedule.at(0)

    @property
    def epoch(self) -> int:
        """Of the whole job, from 0."""
        return self._first_epoch + self.current_epoch

    @property
    def losses(self) -> dict[str, float]:
        """Mean of each loss term over the epoch so far, by the name the model gives it."""
        return {name: float(total) / len(self._data.train) for name, total in self._sums.items()}

    @property
    def learning_rate(self) -> float:
        return self._settings.learning_rate

    def training_state(self) -> dict[str, Any]:
        """What the next epoch depends on, the moving average left out."""
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, torch.optim.Optimizer)
        return {
            "model": self.model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "last_step": self._last_step,
            "gradients": {
                name: parameter.grad
                for name, parameter in self.model.named_parameters()
                if parameter.grad is not None
            },
        }

    def configure_optimizers(self) -> torch.optim.Optimizer:
        request, accumulate = self._job.request, self._job.accumulate
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(not any(frozen in name for frozen in self._frozen))
        if not any(parameter.requires_grad for parameter in self.model.parameters()):
            raise ConfigError(f"freeze is {list(request.freeze)}, which leaves nothing to train.")
        optimizer = BaseTrainer.build_optimizer(
            SimpleNamespace(args=self._data.arguments, data=self._data.description),
            self.model,
            name=OPTIMIZERS[request.optimizer],
            lr=request.learning_rate,
            momentum=request.momentum,
            decay=request.weight_decay * request.batch_size * accumulate / self._data.arguments.nbs,
        )
        _check_optimizer(optimizer, OPTIMIZERS[request.optimizer], request.learning_rate)
        if self._resume is not None:
            optimizer.load_state_dict(self._resume["optimizer"])
        return optimizer

    def on_train_start(self) -> None:
        if self._resume is None:
            return
        parameters = dict(self.model.named_parameters())
        for name, gradient in self._resume["gradients"].items():
            parameters[name].grad = gradient.to(self.device, copy=True)
        self._resume = None
        if self._first_epoch and getattr(self.model.model[-1], "one2one_cv2", None) is not None:
            # The two-headed loss shifts its weights once an epoch.
            self.model.criterion = self.model.init_criterion()
            self.model.criterion.updates = self._first_epoch - 1
            self.model.criterion.update()

    def on_train_epoch_start(self) -> None:
        self._sums = {}
        self.model.train()
        for name, module in self.model.named_modules():
            if isinstance(module, _BatchNorm) and any(frozen in name for frozen in self._frozen):
                module.eval()

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        step = self.epoch * len(self._data.train) + batch_idx
        self._settings = self.schedule.at(step)
        optimizer: Any = self.optimizers()
        _apply(optimizer, self._settings)
        batch["img"] = batch["img"].float() / 255
        loss, terms = self.model.loss(batch)
        # Terms come multiplied by the batch size of this process; averaging over processes is undone.
        self.manual_backward(loss.sum() * self.trainer.world_size)
        for name, value in terms.items():
            self._sums[name] = self._sums.get(name, 0) + value.detach()
        self.stepped = step - self._last_step >= self._settings.accumulate
        if self.stepped:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), max_norm=_CLIP_NORM)
            optimizer.step()
            optimizer.zero_grad()
            self._last_step = step

    def on_train_epoch_end(self) -> None:
        if hasattr(self.model.criterion, "update"):
            self.model.criterion.update()

    def on_validation_model_zero_grad(self) -> None:
        """Keep gradients: a half-filled accumulation window continues in the next epoch."""

    def on_validation_epoch_start(self) -> None:
        self._validation.start(self._average.model)

    def validation_step(self, batch: dict[str, Any]) -> None:
        self._validation.step(self._average.model, batch)

    def on_validation_epoch_end(self) -> None:
        self.scores = self._validation.finish()


def schedule(job: TrainingJob, batches: int) -> LearningRateScheduler:
    request = job.request
    return LearningRateScheduler(
        shape=request.scheduler,
        learning_rate=request.learning_rate,
        final_fraction=request.final_lr_fraction,
        epochs=request.epochs,
        batches=batches,
        warmup_epochs=request.warmup_epochs,
        warmup_bias_lr=request.warmup_bias_lr,
        momentum=request.momentum,
        accumulate=job.accumulate,
    )


def _apply(optimizer: Any, settings: StepSettings) -> None:
    for group in optimizer.param_groups:
        group["lr"] = (
            settings.bias_learning_rate if group["param_group"] == "bias" else settings.learning_rate
        )
        if "momentum" in group:
            group["momentum"] = settings.momentum


def _check_optimizer(optimizer: torch.optim.Optimizer, name: str, learning_rate: float) -> None:
    rates = {group["lr"] for group in optimizer.param_groups}
    if type(optimizer).__name__ != name or rates != {learning_rate}:
        raise ConfigError(
            f"Asked for {name} at {learning_rate}, but Ultralytics made {type(optimizer).__name__} at {sorted(rates)}."
        )
