"""Trains a job from where it stands to its end, alone or as one of several processes that share every batch."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.strategies import DDPStrategy

from retrain.errors import Cancelled
from retrain.storage.open_blobs import open_blobs
from retrain.training.best_models import BestModels
from retrain.training.checkpoints import CheckpointManager, Position
from retrain.training.compiling import compile_network, require_compiler
from retrain.training.data import DetectionData
from retrain.training.detection_module import DetectionModule
from retrain.training.ema import MovingAverage
from retrain.training.job import TrainingJob
from retrain.training.model import build_model
from retrain.training.place import ALONE, Place, PlacedEnvironment
from retrain.training.precision import lightning_precision
from retrain.training.recorder import EpochRecorder, OnEpoch
from retrain.training.resolved import ReadBack
from retrain.training.result import EpochReport
from retrain.training.usage import Usage
from retrain.training.validation import Validation

Saved = tuple[Position, dict[str, Any]]
Clock = Callable[[], float]


@dataclass(frozen=True)
class FitSettings:
    """What does not change the result, but for `micro_batches`, which changes it a little.

    Attributes:
        device: `cpu` or `cuda`.
        precision: `fp32`, `bf16` or `fp16`; the job's own.
        checkpoint_minutes: how often a checkpoint is written within an epoch; None writes one per epoch only.
        port: on which the leading of several processes listens, on this machine.
        timeout_s: how long one of them waits for the others.
        slice_drop_limit: a slice that scores worse than at the start by more than this is reported, in map50.
        keep_best: how many of the best models are kept as files; of 1 there is none, it is in the checkpoint.
        checkpoint_mirror: address of the blob store that checkpoints are copied to, see `open_blobs`.
        micro_batches: parts that a batch is trained on in, where it does not fit into memory as a whole.
    """

    device: str
    precision: str
    checkpoint_minutes: float | None = None
    port: int = 0
    timeout_s: float = 600.0
    slice_drop_limit: float = 0.05
    keep_best: int = 1
    checkpoint_mirror: str | None = None
    micro_batches: int = 1


def open_checkpoints(job: TrainingJob, mirror: str | None) -> CheckpointManager:
    """Those of a job, copied to the blob store at that address if one is given."""
    store = None if mirror is None else open_blobs(mirror)
    return CheckpointManager(job.checkpoints, mirror=store, prefix=f"checkpoints/{job.id}")


def fit(
    job: TrainingJob,
    settings: FitSettings,
    saved: Saved | None,
    checkpoints: CheckpointManager | None,
    on_epoch: OnEpoch,
    clock: Clock,
    place: Place = ALONE,
    watching: Callback | None = None,
    on_progress: Callable[[], None] = lambda: None,
) -> None:
    """Train until the last checkpoint says that the job is finished; call within `reproducible`.

    Args:
        saved: the checkpoint to go on from; the same in all processes.
        checkpoints: where to; None in all processes but the leading one.
        watching: a further callback.
        on_progress: called for each image that is read, and each batch that is scored, before training begins.
    """
    request, stopping = job.request, job.request.stopping
    if request.compile:
        # Not after all images were read.
        require_compiler(settings.device)
    data = DetectionData(job, settings.device, place.rank, place.processes, on_progress)
    model = build_model(job, data)
    first, state = saved or (Position(0), None)
    if state is not None:
        model.load_state_dict(state["model"])
    if request.channels_last:
        # Images need not be: a convolution gives what its weights are in.
        model.to(memory_format=torch.channels_last)
    if request.compile:
        compile_network(model)
    average = MovingAverage(state["average"] if state else None)
    reports = [EpochReport.from_json(report) for report in state["reports"]] if state else []
    history = [stopping.metric_of(report) for report in reports]
    best_models = None
    if checkpoints is not None and settings.keep_best > 1:
        best_models = BestModels(job.best_models, settings.keep_best)
        best_models.resume([stopping.score(value) for value in history], state["best"] if state else {})
    validation = Validation(data, job.folder, place)
    module = DetectionModule(
        model=model,
        job=job,
        data=data,
        average=average,
        validation=validation,
        resume=state,
        first_epoch=first.epoch,
        first_batch=first.images // request.batch_size,
        history=history,
        place=place,
        micro_batches=settings.micro_batches,
    )
    data.train.follow(lambda: module.start)
    recorder = EpochRecorder(
        checkpoints=checkpoints,
        average=average,
        stopping=stopping,
        epochs=request.epochs,
        batch_size=request.batch_size,
        every_s=None if settings.checkpoint_minutes is None else 60 * settings.checkpoint_minutes,
        on_epoch=on_epoch,
        clock=clock,
        saved=state,
        score_start=partial(validation.score, on_batch=on_progress) if request.initial_weights else None,
        slice_drop_limit=settings.slice_drop_limit,
        best_models=best_models,
        usage=Usage(settings.device, clock),
        precision=settings.precision,
    )
    read_back = ReadBack(
        job, data, place, first.epoch, settings.device, settings.precision, fresh=state is None
    )
    # Only the remaining epochs are asked for: every schedule is a function of the job's own epoch, so nothing of
    # Lightning's progress needs to be restored.
    trainer = Trainer(
        accelerator="gpu" if settings.device == "cuda" else "cpu",
        devices=place.processes // place.nodes,
        num_nodes=place.nodes,
        strategy="auto" if place.processes == 1 else _strategy(settings, place),
        # Lightning would look for launchers itself, and wait for tasks that SLURM was asked for but did not start.
        plugins=[PlacedEnvironment(place)] if place.processes == 1 else None,
        sync_batchnorm=request.sync_batchnorm,
        precision=lightning_precision(settings.precision),
        max_epochs=request.epochs - first.epoch,
        callbacks=[read_back, CancelWatch(job), average, recorder, *([watching] if watching else [])],
        default_root_dir=job.folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        # Inference tensors cached by the averaged model could not be updated later.
        inference_mode=False,
    )
    with _interruptible():
        trainer.fit(module, data.train, data.val)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C stays a KeyboardInterrupt: Lightning makes an exit of it, and has all later ones ignored."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as left:
        if not isinstance(left.__context__, KeyboardInterrupt):
            raise
        signal.signal(signal.SIGINT, before)
        raise left.__context__ from None


class CancelWatch(Callback):
    """Raises `Cancelled` after the batch in which somebody asked to stop the job."""

    def __init__(self, job: TrainingJob) -> None:
        self._job = job

    def look(self, *_: Any, **__: Any) -> None:
        if self._job.cancel_mark.exists():
            raise Cancelled(
                f"Training job {self._job.id} was cancelled; it goes on from its last checkpoint when it is resumed."
            )

    on_train_batch_end = on_validation_batch_end = look


def _strategy(settings: FitSettings, place: Place) -> DDPStrategy:
    return DDPStrategy(
        cluster_environment=PlacedEnvironment(place, settings.port),
        process_group_backend="nccl" if settings.device == "cuda" else "gloo",
        timeout=timedelta(seconds=settings.timeout_s),
        # Normalisation layers have statistics of their own in each process, as in Ultralytics' trainer, or the same.
        broadcast_buffers=False,
    )
