"""An Ultralytics detector as a LightningModule, optimised by hand so that it trains as Ultralytics would.

Automatic optimisation cannot state the accumulation ramp, the summed (not averaged) gradients or the half-filled
accumulation window that is carried from one epoch into the next.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch.nn.modules.batchnorm import _BatchNorm

from retrain.errors import PostConditionFailed
from retrain.training.compiling import compile_errors
from retrain.training.data import DetectionData
from retrain.training.ema import MovingAverage
from retrain.training.job import TrainingJob
from retrain.training.lr_schedule import StepSettings
from retrain.training.micro_batches import memory_errors, parts
from retrain.training.optimizers import apply, build_optimizer, freeze
from retrain.training.place import ALONE, Place
from retrain.training.ultralytics_parts import DetectionModel
from retrain.training.validation import Scores, Validation

# On a GPU, looking at a loss waits for all work before it.
_LOOK_AT_LOSS_EVERY = 50
_NO_BATCH = -1


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
        first_batch: batches of the next epoch that were trained on before this run.
        history: of the metric that stopping goes by, one per epoch finished before this run.
        place: of this process.
        micro_batches: parts that each batch is trained on in, one after the other.
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
        first_batch: int = 0,
        history: Sequence[float] = (),
        place: Place = ALONE,
        micro_batches: int = 1,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model = model
        self.stepped = False
        self.scores = Scores(0.0, 0.0, 0.0, 0.0)
        self.history = list(history)
        self._job, self._data = job, data
        self._average, self._validation = average, validation
        self._resume, self._first_epoch, self._first_batch = resume, first_epoch, first_batch
        self._place, self._micro_batches = place, micro_batches
        self._last_step = -1 if resume is None else int(resume["last_step"])
        self._sums: dict[str, torch.Tensor] = {}
        self._bad_batch = torch.tensor(_NO_BATCH)
        self._frozen = tuple(f"model.{layer}." for layer in job.request.freeze)
        # Before the model is shared with other processes, which wait for a gradient of all that is not frozen.
        freeze(model, self._frozen)
        self.schedule = job.request.schedule(len(data.train), job.accumulate)
        self._settings = self.schedule.at(0)

    @property
    def epoch(self) -> int:
        """Of the whole job, from 0."""
        return self._first_epoch + self.current_epoch

    @property
    def start(self) -> tuple[int, int]:
        """Epoch and batch (from 0) at which the epoch that begins now is to begin."""
        return self.epoch, self._first_batch if self.epoch == self._first_epoch else 0

    def losses(self) -> dict[str, float]:
        """Mean of each loss term over the epoch so far, by the name the model gives it; all processes have to ask."""
        sums = {name: self._place.summed(total.clone()) for name, total in self._sums.items()}
        batches = len(self._data.train) * self._place.processes
        return {name: float(total) / batches for name, total in sums.items()}

    @property
    def learning_rate(self) -> float:
        return self._settings.learning_rate

    @property
    def settings_now(self) -> StepSettings:
        """What the schedule says about the batch that is trained on."""
        return self._settings

    def training_state(self) -> dict[str, Any]:
        """What the next epoch depends on, the moving average left out."""
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, torch.optim.Optimizer)
        return {
            "model": self.model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "last_step": self._last_step,
            "losses": {name: float(total) for name, total in self._sums.items()},
            "scaler": self._scaler_state(),
            "gradients": {
                name: parameter.grad
                for name, parameter in self.model.named_parameters()
                if parameter.grad is not None
            },
        }

    def configure_optimizers(self) -> torch.optim.Optimizer:
        request = self._job.request
        optimizer = build_optimizer(
            self.model,
            request.optimizer,
            request.learning_rate,
            request.momentum,
            self._data.weight_decay,
            self._frozen,
        )
        if self._resume is not None:
            optimizer.load_state_dict(self._resume["optimizer"])
        return optimizer

    def on_train_start(self) -> None:
        if self._resume is None:
            return
        parameters = dict(self.model.named_parameters())
        for name, gradient in self._resume["gradients"].items():
            parameters[name].grad = gradient.to(self.device, copy=True)
        if self._first_batch:
            self._sums = {
                name: torch.tensor(total, device=self.device)
                for name, total in self._resume["losses"].items()
            }
        if self._resume["scaler"]:
            self.trainer.precision_plugin.load_state_dict(self._resume["scaler"])
        self._resume = None
        if self._first_epoch and getattr(self.model.model[-1], "one2one_cv2", None) is not None:
            # The two-headed loss shifts its weights once an epoch.
            self.model.criterion = self.model.init_criterion()
            self.model.criterion.updates = self._first_epoch - 1
            self.model.criterion.update()

    def on_train_epoch_start(self) -> None:
        if not self.start[1]:
            self._sums = {}
        self.model.train()
        for name, module in self.model.named_modules():
            if isinstance(module, _BatchNorm) and any(frozen in name for frozen in self._frozen):
                module.eval()

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self.stepped = False
        if not batch:
            return  # trained on before the resume
        step = self.epoch * len(self._data.train) + batch_idx
        self._settings = self.schedule.at(step, self.history)
        optimizer: Any = self.optimizers()
        apply(optimizer.optimizer, self._settings)
        batch["img"] = batch["img"].float() / 255
        compiling = compile_errors() if self._job.request.compile else nullcontext()
        with memory_errors(len(batch["img"]), self._micro_batches), compiling:
            for part in parts(batch, self._micro_batches):
                self._learn(part, len(part["img"]) / len(batch["img"]), batch_idx)
        self.stepped = step - self._last_step >= self._settings.accumulate
        if self.stepped:
            optimizer.step()
            optimizer.zero_grad()
            self._last_step = step

    def _learn(self, part: dict[str, Any], share: float, batch_idx: int) -> None:
        # Called here, because `loss` would go round what is compiled.
        loss, terms = self.model.loss(part, self.model(part["img"]))
        # Terms come multiplied by the images of the part; averaging over processes is undone.
        self.manual_backward(loss.sum() * self._place.processes)
        for name, value in terms.items():
            self._sums[name] = self._sums.get(name, 0) + value.detach() * share
        self._watch(loss.detach().sum(), batch_idx)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        # Here, because gradients of reduced precision are not scaled any more.
        if self._job.request.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), max_norm=self._job.request.clip_norm)

    def check_losses(self) -> None:
        """Raise `PostConditionFailed`, which names the batch, if a loss of this epoch was not finite."""
        bad = int(self._bad_batch)
        if bad == _NO_BATCH:
            return
        names = self._data.names(self.epoch, bad)
        raise PostConditionFailed(
            f"Training diverged in epoch {self.epoch + 1}, batch {bad + 1}: the loss is not finite. Its images are "
            f"{', '.join(names)}. Lower learning_rate, or look at their labels."
        )

    def _watch(self, loss: torch.Tensor, batch: int) -> None:
        self._bad_batch = self._bad_batch.to(loss.device)
        first = ~torch.isfinite(loss) & (self._bad_batch == _NO_BATCH)
        self._bad_batch = torch.where(first, batch, self._bad_batch)
        if loss.device.type == "cpu" or batch % _LOOK_AT_LOSS_EVERY == 0:
            self.check_losses()

    def _scaler_state(self) -> dict[str, Any]:
        state: dict[str, Any] = self.trainer.precision_plugin.state_dict()
        return state

    def on_train_epoch_end(self) -> None:
        self.check_losses()
        if hasattr(self.model.criterion, "update"):
            self.model.criterion.update()

    def on_validation_model_zero_grad(self) -> None:
        """Keep gradients: a half-filled accumulation window continues in the next epoch."""

    def on_validation_epoch_start(self) -> None:
        # Running statistics of normalisation layers are each process's own.
        for buffer in self._average.model.buffers():
            self._place.broadcast(buffer)
        self._validation.start(self._average.model)

    def validation_step(self, batch: dict[str, Any]) -> None:
        self._validation.step(self._average.model, batch)

    def on_validation_epoch_end(self) -> None:
        self.scores = self._validation.finish()
