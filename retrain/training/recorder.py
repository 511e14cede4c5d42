"""After each epoch: report it, decide whether it is the best and whether to stop, and make it durable."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from retrain.training.best_models import BestModels
from retrain.training.checkpoints import CheckpointManager, Position
from retrain.training.early_stopping import EarlyStopping
from retrain.training.ema import MovingAverage
from retrain.training.result import EpochReport, SliceScore
from retrain.training.slices import regressions
from retrain.training.ultralytics_parts import DetectionModel
from retrain.training.usage import Usage
from retrain.training.validation import Scores

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
        score_start: scores the model that training starts from, the reference of its slices; None: there is none.
        best_models: is offered every epoch; None keeps none but the best, in the checkpoint.
        slice_drop_limit: a slice that falls below the reference by more than this is reported.
        usage: of this machine; its figures go into each report.
        precision: the job's, kept with each checkpoint.
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
        score_start: Callable[[DetectionModel], Scores] | None = None,
        best_models: BestModels | None = None,
        slice_drop_limit: float = 0.05,
        usage: Usage,
        precision: str,
    ) -> None:
        self._precision = precision
        self._usage = usage
        self._checkpoints, self._average, self._stopping = checkpoints, average, stopping
        self._epochs, self._batch_size = epochs, batch_size
        self._every_s = every_s
        self._on_epoch, self._clock = on_epoch, clock
        self._reports = [EpochReport.from_json(report) for report in saved["reports"]] if saved else []
        self._best: dict[str, torch.Tensor] = saved["best"] if saved else {}
        # Part of every checkpoint, so that it stays what it was although the model has changed.
        self._reference: Mapping[str, SliceScore] | None = saved.get("reference") if saved else None
        self._score_start = None if saved else score_start
        self._best_models = best_models
        self._slice_drop_limit = slice_drop_limit
        self._started = self._trained = self._saved = 0.0
        self._batches = 0

    def on_train_start(self, *_: Any) -> None:
        if self._score_start is not None:
            # The average, because it is what every epoch is scored by; until the first step it is the model itself.
            self._reference = self._score_start(self._average.model).slices

    def on_train_epoch_start(self, *_: Any) -> None:
        self._started = self._saved = self._clock()
        self._usage.start()
        self._batches = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not batch:
            return
        self._batches += 1
        self._usage.batch()
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
        self._used = self._usage.read()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        report = self._report(pl_module)
        self._reports.append(report)
        history = pl_module.history
        history.append(self._stopping.metric_of(report))
        # Copied once: tensors that are the best ones too are then stored once.
        average = self._average.state()
        if self._stopping.is_best(history):
            self._best = average["weights"]
        score = self._stopping.score(history[-1])
        # Before the checkpoint: after a crash between the two the epoch is trained and offered again.
        if self._best_models is not None and math.isfinite(score):
            self._best_models.offer(report.epoch, score, average["weights"])
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
            "reference": self._reference,
            "reports": [report.to_json() for report in self._reports],
            "finished": finished,
            "threads": torch.get_num_threads(),
            "precision": self._precision,
        }

    def _report(self, module: LightningModule) -> EpochReport:
        now = self._clock()
        seconds = [*(earlier.seconds for earlier in self._reports), now - self._started]
        epoch, scores = module.epoch + 1, module.scores
        return EpochReport(
            epoch=epoch,
            epochs=self._epochs,
            losses=module.losses(),
            **scores._asdict(),
            lr=module.learning_rate,
            seconds=seconds[-1],
            images_per_s=self._batches * self._batch_size / max(self._trained - self._started, 1e-9),
            batch_seconds=(self._trained - self._started) / max(self._batches, 1),
            usage=self._used,
            eta_s=sum(seconds) / len(seconds) * (self._epochs - epoch),
            regressions=tuple(regressions(self._reference or {}, scores.slices, self._slice_drop_limit)),
        )
