"""Trains a detector from a plain configuration; may be killed at any instant and called again."""
# ruff: noqa: E402 - torch reads its switches while it is imported, so these are set first.

from retrain import environment

environment.prepare()

import gc
import logging
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning
import torch
from filelock import FileLock, Timeout

from retrain.detector import Detector, StoredModel
from retrain.errors import (
    BadInput,
    ConfigError,
    Conflict,
    NotFound,
    OutOfMemory,
    PostConditionFailed,
    Unavailable,
)
from retrain.storage import files
from retrain.training.checkpoints import CheckpointManager
from retrain.training.console import quiet
from retrain.training.data import DetectionData
from retrain.training.draws import check_shared
from retrain.training.fitting import Clock, FitSettings, Saved, fit
from retrain.training.job import TrainingJob
from retrain.training.micro_batches import more_parts
from retrain.training.model import build_model
from retrain.training.preflight import run_preflight
from retrain.training.preflight_report import PreflightReport
from retrain.training.recorder import OnEpoch
from retrain.training.reproducible import reproducible, seed_everything
from retrain.training.request import TrainingRequest
from retrain.training.resolved import RESOLVED
from retrain.training.result import EpochReport, TrainingResult
from retrain.training.supervisor import Supervisor
from retrain.training.ultralytics_parts import ULTRALYTICS_VERSION
from retrain.training.validation import Validation
from retrain.training.weights import write_model_folder

logger = logging.getLogger(__name__)

_RESULT, _PREFLIGHT = "result.json", "preflight.json"


class TrainingOrchestrator:
    """Runs training jobs, each in its own folder under `work_dir`.

    A job is named by its request and data: training the same again returns the stored result, and a job that was
    killed continues after its last whole checkpoint and ends with the same weights as if it had not been.

    Args:
        work_dir: nothing is written elsewhere.
        num_gpus: 0 trains on the CPU; more than one have a process each, which share every batch (DDP).
        mixed_precision: bfloat16 where that is safe; validation stays float32.
        gradient_accumulation: batches per optimizer step.
        checkpoint_minutes: how often a checkpoint is written within an epoch; None writes one per epoch only.
        num_processes: that share every batch on the CPU; None is one.
        stall_s: seconds without progress after which several processes are stopped and started again.
        max_restarts: how often in a row they are started again after a crash or a stall without a new epoch.
        clock: seconds, for durations only.
    """

    def __init__(
        self,
        work_dir: Path,
        num_gpus: int = 0,
        mixed_precision: bool = False,
        gradient_accumulation: int = 1,
        checkpoint_minutes: float | None = 10.0,
        num_processes: int | None = None,
        stall_s: float = 600.0,
        max_restarts: int = 3,
        clock: Clock = time.perf_counter,
    ) -> None:
        if isinstance(num_gpus, bool) or not isinstance(num_gpus, int) or num_gpus < 0:
            raise ConfigError(f"num_gpus must be a whole number of at least 0, got {num_gpus!r}.")
        if num_gpus and num_processes not in {None, num_gpus}:
            raise ConfigError(
                f"num_processes is {num_processes}, but every GPU has one process; leave it out beside num_gpus."
            )
        if num_processes is not None and num_processes < 1:
            raise ConfigError(f"num_processes must be at least 1, got {num_processes}.")
        if gradient_accumulation < 1:
            raise ConfigError(f"gradient_accumulation must be at least 1, got {gradient_accumulation}.")
        if checkpoint_minutes is not None and not checkpoint_minutes >= 0:
            raise ConfigError(f"checkpoint_minutes must be 0 or more, or None, got {checkpoint_minutes}.")
        if num_gpus > torch.cuda.device_count():
            raise Unavailable(
                f"num_gpus is {num_gpus}, but torch sees {torch.cuda.device_count()} on this machine; use at most that "
                "many, 0 for the CPU."
            )
        self._work_dir = Path(work_dir).absolute()
        self._device = "cuda" if num_gpus else "cpu"
        self._mixed_precision = mixed_precision
        self._gradient_accumulation = gradient_accumulation
        self._checkpoint_minutes = checkpoint_minutes
        self._processes = num_gpus or num_processes or 1
        self._supervisor = Supervisor(stall_s, max_restarts)
        self._clock = clock

    def train(
        self, config: Mapping[str, Any], on_epoch: OnEpoch | None = None, *, preflight: bool = False
    ) -> TrainingResult:
        """Train, or finish, or return what is finished.

        Args:
            config: settings of `TrainingRequest`.
            on_epoch: called after each epoch once it is durable. After a crash the last durable epoch is reported
                again, since nobody knows whether it was.
            preflight: run `preflight` before a job begins, keep its report in the job's `preflight.json`, and raise
                what it found.

        Raises:
            ConfigError: a setting is unknown, out of range or not what training would really use.
            NotFound, BadInput: data or initial weights are missing or damaged.
            Conflict: another process trains this job now.
            OutOfMemory: not even one image at a time fits; where some do, batches are trained on in parts.
            StorageFull: no space; free some and call again.
            PostConditionFailed: training diverged, or the stored model is not the trained one.
        """
        job = self._job(config)
        self._work_dir.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(job.lock, timeout=0), quiet():
                if (finished := self._finished(job)) is not None:
                    return finished
                if preflight and not CheckpointManager(job.checkpoints).positions():
                    report = run_preflight(job, self._device, self._processes)
                    job.write(_PREFLIGHT, report.to_json())
                    report.raise_if_failed()
                return self._train(job, on_epoch or (lambda _: None))
        except Timeout as error:
            raise Conflict(f"Training job {job.id} is running in another process; wait for it.") from error

    def preflight(self, config: Mapping[str, Any], limit_hours: float | None = None) -> PreflightReport:
        """What would stop this training or make it vain: labels, memory, disk, time, and whether anything is learnt.

        All is checked even when something fails; nothing is written.

        Args:
            limit_hours: a training expected to take longer fails.

        Raises:
            ConfigError: a setting is unknown or out of range.
            NotFound, BadInput: data or initial weights are missing, so that the job cannot even be named.
        """
        job = self._job(config)
        with quiet():
            return run_preflight(job, self._device, self._processes, limit_hours)

    def job_id(self, config: Mapping[str, Any]) -> str:
        """The id `train` would use for this configuration."""
        return self._job(config).id

    def _job(self, config: Mapping[str, Any]) -> TrainingJob:
        request = TrainingRequest.of(config)
        check_shared(request.batch_size, self._processes)
        return TrainingJob.of(
            request, self._work_dir, self._gradient_accumulation, mixed_precision=self._mixed_precision
        )

    def _finished(self, job: TrainingJob) -> TrainingResult | None:
        stored = job.read(_RESULT)
        if stored is None:
            return None
        try:
            StoredModel.read(job.model_folder)
        except (NotFound, BadInput):
            # Training is repeatable, so a damaged model is made again.
            shutil.rmtree(job.folder)
            return None
        # Left when the process was killed between the two.
        CheckpointManager(job.checkpoints).clear()
        return TrainingResult.from_json(stored, job.model_folder)

    def _train(self, job: TrainingJob, on_epoch: OnEpoch) -> TrainingResult:
        files.remove_leftovers(job.folder)
        checkpoints = CheckpointManager(job.checkpoints)
        saved = checkpoints.newest_good()
        with reproducible(job.request.seed, job.threads()):
            if saved is not None and saved[0].epoch:
                on_epoch(EpochReport.from_json(saved[1]["reports"][-1]))
            if saved is None or not saved[1]["finished"]:
                self._fit(job, saved, on_epoch, self._clock)
            last = checkpoints.newest_good()
            if last is None or not last[1]["finished"]:
                raise PostConditionFailed(
                    f"Training job {job.id} ended without a last checkpoint; call train again."
                )
            resumed_from = None if saved is None else saved[0].epoch
            result = self._release(job, state=last[1], resumed_from=resumed_from)
        checkpoints.clear()
        return result

    def _fit(self, job: TrainingJob, saved: Saved | None, on_epoch: OnEpoch, clock: Clock) -> None:
        while True:
            settings = FitSettings(self._device, self._checkpoint_minutes, micro_batches=job.micro_batches())
            try:
                self._fit_once(job, settings, saved, on_epoch, clock)
            except OutOfMemory as error:
                told = str(error)
            else:
                return
            # Out of the handler, which keeps the failed attempt in memory.
            images = job.request.batch_size // self._processes
            job.split(more_parts(settings.micro_batches, images, told))
            logger.warning("%s Training job %s goes on in %d parts.", told, job.id, job.micro_batches())
            gc.collect()
            torch.cuda.empty_cache()
            seed_everything(job.request.seed)
            saved = CheckpointManager(job.checkpoints).newest_good()

    def _fit_once(
        self, job: TrainingJob, settings: FitSettings, saved: Saved | None, on_epoch: OnEpoch, clock: Clock
    ) -> None:
        if self._processes == 1:
            fit(job, settings, saved, CheckpointManager(job.checkpoints), on_epoch, clock)
            return
        reported = set() if saved is None else {saved[0].epoch}

        def report_new(report: EpochReport) -> None:
            if report.epoch not in reported:
                reported.add(report.epoch)
                on_epoch(report)

        self._supervisor.run(job, settings, self._processes, report_new)

    def _release(
        self, job: TrainingJob, *, state: dict[str, Any], resumed_from: int | None
    ) -> TrainingResult:
        data = DetectionData(job, self._device)
        architecture = build_model(job, data).yaml
        reports = [EpochReport.from_json(report) for report in state["reports"]]
        request = job.request
        best = reports[
            request.stopping.best_epoch([request.stopping.metric_of(report) for report in reports])
        ]
        digest = write_model_folder(
            job.model_folder, StoredModel(architecture, request.classes, request.image_size, state["best"])
        )
        self._verify(job, Validation(data, job.folder), best)
        result = TrainingResult(
            job_id=job.id,
            model_folder=job.model_folder,
            weights_sha256=digest,
            epochs=reports,
            best=best,
            resumed_from_epoch=resumed_from,
            stopped_early=len(reports) < request.epochs,
            resolved={**_resolved(job, data, self._device), "processes": self._processes},
        )
        job.write(_RESULT, result.to_json())
        return result

    def _verify(self, job: TrainingJob, validation: Validation, best: EpochReport) -> None:
        """The folder, loaded as serving loads it, is the model that was validated."""
        model = StoredModel.read(job.model_folder).build().to(self._device)
        measured = validation.score(model).map50_95
        # Equal on one machine; GPUs of another kind round differently.
        if abs(measured - best.map50_95) > 1e-3:
            raise PostConditionFailed(
                f"{job.model_folder} scores map50_95 {measured:.4f} on the validation images, but epoch {best.epoch} "
                f"scored {best.map50_95:.4f}; the data or the machine changed since."
            )
        Detector.load(job.model_folder, self._device).warm_up()


def _resolved(job: TrainingJob, data: DetectionData, device: str) -> dict[str, Any]:
    return {
        **job.request.identity(),
        # What the set-up was found to be.
        **(job.read(RESOLVED) or {}),
        "accumulate": job.accumulate,
        "micro_batches": job.micro_batches(),
        "mixed_precision": job.mixed_precision,
        "device": device,
        "threads": job.threads(),
        "images": data.images,
        "batches": len(data.train),
        "torch": torch.__version__,
        "lightning": lightning.__version__,
        "ultralytics": ULTRALYTICS_VERSION,
    }
