"""After each epoch: report it, decide whether it is the best and whether to stop, and make it durable."""

import math
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from retrain.errors import PostConditionFailed
from retrain.training.checkpoints import CheckpointManager
from retrain.training.early_stopping import EarlyStopping, best_epoch
from retrain.training.ema import MovingAverage, cpu_copy
from retrain.training.result import EpochReport

OnEpoch = Callable[[EpochReport], None]


class EpochRecorder(Callback):
    """Writes one checkpoint per epoch, then tells `on_epoch`.

    Args:
        checkpoints: where.
        average: the averaged weights, saved with the checkpoint.
        stopping: when to give up.
        epochs: of the whole job.
        images: training images.
        on_epoch: called once an epoch is durable.
        clock: seconds, for durations only.
        saved: state of the checkpoint to go on from.
    """

    def __init__(
        self,
        *,
        checkpoints: CheckpointManager,
        average: MovingAverage,
        stopping: EarlyStopping,
        epochs: int,
        images: int,
        on_epoch: OnEpoch,
        clock: Callable[[], float],
        saved: dict[str, Any] | None = None,
    ) -> None:
        self._checkpoints, self._average, self._stopping = checkpoints, average, stopping
        self._epochs, self._images = epochs, images
        self._on_epoch, self._clock = on_epoch, clock
        self._reports = [EpochReport.from_json(report) for report in saved["reports"]] if saved else []
        self._best: dict[str, torch.Tensor] = saved["best"] if saved else {}
        self._started = self._trained = 0.0

    def on_train_epoch_start(self, *_: Any) -> None:
        self._started = self._clock()

    def on_validation_start(self, *_: Any) -> None:
        self._trained = self._clock()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        report = self._report(pl_module)
        if not all(math.isfinite(value) for value in report.losses.values()):
            raise PostConditionFailed(
                f"Training diverged in epoch {report.epoch}: losses are {dict(report.losses)}; lower learning_rate."
            )
        self._reports.append(report)
        history = [earlier.map50_95 for earlier in self._reports]
        if best_epoch(history) == len(history) - 1:
            self._best = cpu_copy(self._average.model.state_dict())
        stop = self._stopping.should_stop(history)
        self._checkpoints.save(
            report.epoch,
            {
                **pl_module.training_state(),
                "average": self._average.state(),
                "best": self._best,
                "reports": [earlier.to_json() for earlier in self._reports],
                "finished": stop or report.epoch == self._epochs,
            },
        )
        trainer.should_stop = trainer.should_stop or stop
        self._on_epoch(report)

    def _report(self, module: LightningModule) -> EpochReport:
        now = self._clock()
        seconds = [*(earlier.seconds for earlier in self._reports), now - self._started]
        epoch = module.epoch + 1
        return EpochReport(
            epoch=epoch,
            epochs=self._epochs,
            losses=module.losses,
            map50=module.scores[0],
            map50_95=module.scores[1],
            lr=module.learning_rate,
            seconds=seconds[-1],
            images_per_s=self._images / max(self._trained - self._started, 1e-9),
            eta_s=sum(seconds) / len(seconds) * (self._epochs - epoch),
        )
