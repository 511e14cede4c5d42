"""After each epoch: report it, decide whether it is the best and whether to stop, and make it durable."""

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from retrain.training.checkpoints import CheckpointManager, Position
from retrain.training.early_stopping import EarlyStopping
from retrain.training.ema import MovingAverage
from retrain.training.result import EpochReport

OnEpoch = Callable[[EpochReport], None]


class EpochRecorder(Callback):
    """Writes a checkpoint per epoch, then tells `on_epoch`, and one every so often within long epochs.

    Args:
        checkpoints: where; None in processes that only train along.
        average: the averaged weights, saved with the checkpoint.
        stopping: when to give up.
        epochs: of the whole job.
        batch_size: of all processes together.
        every_s: seconds between checkpoints within an epoch; None writes none.
        on_epoch: called once an epoch is durable.
        clock: seconds, for durations only.
        saved: state of the checkpoint to go on from.
    """

    def __init__(
        self,
        *,
        checkpoints: CheckpointManager | None,
        average: MovingAverage,
        stopping: EarlyStopping,
        epochs: int,
        batch_size: int,
        every_s: float | None,
        on_epoch: OnEpoch,
        clock: Callable[[], float],
        saved: dict[str, Any] | None = None,
    ) -> None:
        self._checkpoints, self._average, self._stopping = checkpoints, average, stopping
        self._epochs, self._batch_size = epochs, batch_size
        self._every_s = every_s
        self._on_epoch, self._clock = on_epoch, clock
        self._reports = [EpochReport.from_json(report) for report in saved["reports"]] if saved else []
        self._best: dict[str, torch.Tensor] = saved["best"] if saved else {}
        self._started = self._trained = self._saved = 0.0
        self._batches = 0

    def on_train_epoch_start(self, *_: Any) -> None:
        self._started = self._saved = self._clock()
        self._batches = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not batch:
            return
        self._batches += 1
        last = batch_idx + 1 == trainer.num_training_batches
        if self._every_s is None or self._checkpoints is None or last:
            return
        if self._clock() - self._saved >= self._every_s:
            pl_module.check_losses()
            done = Position(pl_module.epoch, (batch_idx + 1) * self._batch_size)
            self._checkpoints.save(done, self._state(pl_module, self._average.state(), finished=False))
            self._saved = self._clock()

    def on_validation_start(self, *_: Any) -> None:
        self._trained = self._clock()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        report = self._report(pl_module)
        self._reports.append(report)
        history = pl_module.history
        history.append(self._stopping.metric_of(report))
        # Copied once: tensors that are the best ones too are then stored once.
        average = self._average.state()
        if self._stopping.is_best(history):
            self._best = average["weights"]
        stop = self._stopping.should_stop(history)
        if self._checkpoints is not None:
            finished = stop or report.epoch == self._epochs
            self._checkpoints.save(Position(report.epoch), self._state(pl_module, average, finished=finished))
        trainer.should_stop = trainer.should_stop or stop
        self._on_epoch(report)

    def _state(self, module: LightningModule, average: dict[str, Any], *, finished: bool) -> dict[str, Any]:
        return {
            **module.training_state(),
            "average": average,
            "best": self._best,
            "reports": [report.to_json() for report in self._reports],
            "finished": finished,
        }

    def _report(self, module: LightningModule) -> EpochReport:
        now = self._clock()
        seconds = [*(earlier.seconds for earlier in self._reports), now - self._started]
        epoch = module.epoch + 1
        return EpochReport(
            epoch=epoch,
            epochs=self._epochs,
            losses=module.losses(),
            **module.scores._asdict(),
            lr=module.learning_rate,
            seconds=seconds[-1],
            images_per_s=self._batches * self._batch_size / max(self._trained - self._started, 1e-9),
            eta_s=sum(seconds) / len(seconds) * (self._epochs - epoch),
        )
