"""Trains a detector from a plain configuration; may be killed at any instant and called again."""
# ruff: noqa: E402 - torch reads its switches while it is imported, so these are set first.

from retrain import environment

environment.prepare()

import os
import shutil
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lightning
import torch
from filelock import FileLock, Timeout

from retrain.detector import Detector, StoredModel
from retrain.errors import BadInput, ConfigError, Conflict, NotFound, PostConditionFailed, Unavailable
from retrain.storage import files
from retrain.training.checkpoints import CheckpointManager
from retrain.training.console import quiet
from retrain.training.data import DetectionData
from retrain.training.draws import check_shared
from retrain.training.fitting import Clock, FitSettings, Saved, fit
from retrain.training.job import TrainingJob
from retrain.training.joined import joined
from retrain.training.launched import Launched, launched_place
from retrain.training.model import build_model
from retrain.training.place import ALONE, Place
from retrain.training.recorder import OnEpoch
from retrain.training.reproducible import reproducible
from retrain.training.request import TrainingRequest
from retrain.training.result import EpochReport, TrainingResult
from retrain.training.supervisor import Supervisor
from retrain.training.ultralytics_parts import ULTRALYTICS_VERSION
from retrain.training.validation import Validation
from retrain.training.weights import write_model_folder

_RESULT = "result.json"


class TrainingOrchestrator:
    """Runs training jobs, each in its own folder under `work_dir`.

    A job is named by its request and data: training the same again returns the stored result, and a job that was
    killed continues after its last whole checkpoint and ends with the same weights as if it had not been.

    In processes that torchrun, srun or Kubernetes started together, all call `train` and train one job. Only the
    leading one locks, writes and reports; starting again after a failure is up to the launcher.

    Args:
        work_dir: nothing is written elsewhere. Several machines share it, or the leading one alone has the result.
        num_gpus: of this machine. 0 trains on the CPU; more than one have a process each, which share every batch
            (DDP).
        mixed_precision: bfloat16 where that is safe; validation stays float32.
        gradient_accumulation: batches per optimizer step.
        checkpoint_minutes: how often a checkpoint is written within an epoch; None writes one per epoch only.
        num_processes: on this machine, that share every batch on the CPU; None is one, or as many as were launched.
        supervised: one process is watched too, as several always are, and therefore is a child of this one.
        stall_s: seconds without progress after which watched processes are stopped and started again.
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
        supervised: bool = False,
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
        self._here = num_gpus or num_processes
        self._processes = self._here or 1
        self._supervised = supervised or self._processes > 1
        self._supervisor = Supervisor(stall_s, max_restarts)
        self._clock = clock

    def train(self, config: Mapping[str, Any], on_epoch: OnEpoch | None = None) -> TrainingResult:
        """Train, or finish, or return what is finished.

        Args:
            config: settings of `TrainingRequest`.
            on_epoch: called after each epoch once it is durable, in the leading process. After a crash the last durable
                epoch is reported again, since nobody knows whether it was.

        Raises:
            ConfigError: a setting is unknown, out of range or not what training would really use.
            NotFound, BadInput: data or initial weights are missing or damaged.
            Conflict: another process trains this job now.
            StorageFull: no space; free some and call again.
            PostConditionFailed: training diverged, or the stored model is not the trained one.
            Unavailable: other launched processes did not come, or one is gone.
        """
        launched = launched_place(os.environ)
        if launched is None:
            return self._run(config, on_epoch or _ignore, ALONE)
        self._check_launched(launched)
        # Like those that a supervisor watches: longer than a stall may last.
        with joined(launched, self._device, self._supervisor.patience_s) as place:
            return self._run(config, on_epoch if on_epoch and place.leads else _ignore, place)

    def job_id(self, config: Mapping[str, Any]) -> str:
        """The id `train` would use for this configuration."""
        return self._job(config, self._processes).id

    def _check_launched(self, launched: Launched) -> None:
        started = launched.place.processes // launched.place.nodes
        if self._here not in {None, started}:
            raise ConfigError(
                f"{launched.by} started {started} processes on this machine, but {self._here} are asked for by "
                f"{'num_gpus' if self._device == 'cuda' else 'num_processes'}; make them the same."
            )

    def _run(self, config: Mapping[str, Any], on_epoch: OnEpoch, place: Place) -> TrainingResult:
        job = self._job(config, max(place.processes, self._processes))
        jobs = place.gathered(job.id)
        if len(set(jobs)) > 1:
            raise ConfigError(
                f"Processes that were launched together have to train one job, but have {', '.join(jobs)}; give all "
                "the same settings and data."
            )
        self._work_dir.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(job.lock, timeout=0) if place.leads else nullcontext(), quiet():
                return place.led(lambda: self._finished(job)) or self._train(job, on_epoch, place)
        except Timeout as error:
            raise Conflict(f"Training job {job.id} is running in another process; wait for it.") from error

    def _job(self, config: Mapping[str, Any], processes: int) -> TrainingJob:
        request = TrainingRequest.of(config)
        check_shared(request.batch_size, processes)
        if request.sync_batchnorm and (processes == 1 or self._device == "cpu"):
            raise ConfigError(
                f"sync_batchnorm normalises by the images of several GPUs, but {processes} process(es) train on "
                f"{self._device}; set it to false, or num_gpus to more than one."
            )
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

    def _train(self, job: TrainingJob, on_epoch: OnEpoch, place: Place) -> TrainingResult:
        checkpoints = CheckpointManager(job.checkpoints)
        saved, threads = place.led(lambda: _begun(job, checkpoints))
        with reproducible(job.request.seed, threads):
            if saved is not None and saved[0].epoch:
                on_epoch(EpochReport.from_json(saved[1]["reports"][-1]))
            if saved is None or not saved[1]["finished"]:
                self._fit(job, saved, on_epoch, place)
            return place.led(
                lambda: self._ended(job, checkpoints, None if saved is None else saved[0].epoch, place)
            )

    def _fit(self, job: TrainingJob, saved: Saved | None, on_epoch: OnEpoch, place: Place) -> None:
        settings = FitSettings(self._device, self._checkpoint_minutes)
        if place.processes > 1 or not self._supervised:
            checkpoints = CheckpointManager(job.checkpoints) if place.leads else None
            fit(job, settings, saved, checkpoints, on_epoch, self._clock, place)
            return
        reported = set() if saved is None else {saved[0].epoch}

        def report_new(report: EpochReport) -> None:
            if report.epoch not in reported:
                reported.add(report.epoch)
                on_epoch(report)

        self._supervisor.run(job, settings, self._processes, report_new)

    def _ended(
        self, job: TrainingJob, checkpoints: CheckpointManager, resumed_from: int | None, place: Place
    ) -> TrainingResult:
        last = checkpoints.newest_good()
        if last is None or not last[1]["finished"]:
            raise PostConditionFailed(
                f"Training job {job.id} ended without a last checkpoint; call train again."
            )
        processes = max(place.processes, self._processes)
        result = self._release(job, state=last[1], resumed_from=resumed_from, processes=processes)
        checkpoints.clear()
        return result

    def _release(
        self, job: TrainingJob, *, state: dict[str, Any], resumed_from: int | None, processes: int
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
            resolved={**_resolved(job, data, self._device), "processes": processes},
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


def _begun(job: TrainingJob, checkpoints: CheckpointManager) -> tuple[Saved | None, int]:
    """Checkpoint to go on from and number of CPU threads."""
    files.remove_leftovers(job.folder)
    return checkpoints.newest_good(), job.threads()


def _ignore(_: EpochReport) -> None:
    """Where nobody asked to be told."""


def _resolved(job: TrainingJob, data: DetectionData, device: str) -> dict[str, Any]:
    used = data.arguments
    return {
        **job.request.identity(),
        "accumulate": job.accumulate,
        "mixed_precision": job.mixed_precision,
        "device": device,
        "threads": job.threads(),
        "images": data.images,
        "batches": len(data.train),
        "augment": {name: getattr(used, name) for name in job.request.augment},
        "torch": torch.__version__,
        "lightning": lightning.__version__,
        "ultralytics": ULTRALYTICS_VERSION,
    }
