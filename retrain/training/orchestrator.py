"""Trains a detector from a plain configuration; may be killed at any instant and called again."""
# ruff: noqa: E402 - torch reads its switches while it is imported, so these are set first.

from retrain import environment

environment.prepare()

import json
import logging
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
import torch
from filelock import FileLock, Timeout

from retrain.detector import Detector, StoredModel
from retrain.errors import (
    BadInput,
    Cancelled,
    ConfigError,
    Conflict,
    NotFound,
    PostConditionFailed,
    RetrainError,
    Unavailable,
)
from retrain.storage import files
from retrain.storage.open_blobs import open_blobs
from retrain.training.best_models import BestModels
from retrain.training.checkpoints import CheckpointManager
from retrain.training.console import quiet
from retrain.training.data import DetectionData
from retrain.training.dataset_version import with_data_of_version
from retrain.training.draws import check_shared
from retrain.training.export.bundle import FORMATS, bundle
from retrain.training.fitting import Clock, FitSettings, Saved, fit, open_checkpoints
from retrain.training.job import TrainingJob
from retrain.training.job_files import FAILURE, REPORTS, REQUEST, RESULT
from retrain.training.jobs import LOCK_WAIT_S
from retrain.training.model import build_model
from retrain.training.precision import checked_precision
from retrain.training.recorder import OnEpoch
from retrain.training.reproducible import reproducible
from retrain.training.request import TrainingRequest
from retrain.training.result import EpochReport, KeptModel, TrainingResult
from retrain.training.supervisor import Supervisor
from retrain.training.ultralytics_parts import ULTRALYTICS_VERSION
from retrain.training.validation import Validation
from retrain.training.weights import write_model_folder

_PLACES = ("train_data", "val_data", "initial_weights", "model")

logger = logging.getLogger(__name__)


class TrainingOrchestrator:
    """Runs training jobs, each in its own folder under `work_dir`.

    A job is named by its request and data: training the same again returns the stored result, and a job that was
    killed continues after its last whole checkpoint and ends with the same weights as if it had not been.

    Args:
        work_dir: nothing is written elsewhere; None is `jobs` in the home folder.
        num_gpus: 0 trains on the CPU; more than one have a process each, which share every batch (DDP).
        mixed_precision: True is bfloat16, or float16 with loss scaling on GPUs that cannot do it; `bf16` or `fp16` is
            that one. Validation stays float32.
        gradient_accumulation: batches per optimizer step.
        checkpoint_minutes: how often a checkpoint is written within an epoch; None writes one per epoch only.
        num_processes: that share every batch on the CPU; None is one.
        stall_s: seconds without progress after which several processes are stopped and started again.
        max_restarts: how often in a row they are started again after a crash or a stall without a new epoch.
        datasets: repository of the versions that a configuration names; None is `datasets` in the home folder.
        slice_drop_limit: a class or camera whose map50 falls by more than this below that of the model that training
            starts from is reported.
        keep_best: how many of the best epochs keep their weights, in the job's folder `best`.
        checkpoint_mirror: folder or `s3://<bucket>/<prefix>` that checkpoints are copied to, so that another machine
            can go on from there.
        export: formats that the model is written in beside its own: `pt` for Ultralytics, `onnx`.
        clock: seconds, for durations only.
    """

    def __init__(
        self,
        work_dir: Path | None = None,
        num_gpus: int = 0,
        mixed_precision: bool | str = False,
        gradient_accumulation: int = 1,
        checkpoint_minutes: float | None = 10.0,
        num_processes: int | None = None,
        stall_s: float = 600.0,
        max_restarts: int = 3,
        datasets: Path | None = None,
        slice_drop_limit: float = 0.05,
        keep_best: int = 1,
        checkpoint_mirror: str | None = None,
        export: Sequence[str] = tuple(FORMATS),
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
        home = environment.home()
        self._work_dir = Path(work_dir or home / "jobs").absolute()
        self._datasets = Path(datasets or home / "datasets").absolute()
        if not 0 <= slice_drop_limit <= 1:
            raise ConfigError(f"slice_drop_limit must be in [0, 1], got {slice_drop_limit}.")
        if isinstance(keep_best, bool) or not isinstance(keep_best, int) or keep_best < 1:
            raise ConfigError(f"keep_best must be a whole number of at least 1, got {keep_best!r}.")
        if isinstance(export, str) or not set(export) <= set(FORMATS):
            raise ConfigError(f"export must be a list of {', '.join(FORMATS)}, or empty, got {export!r}.")
        self._device = "cuda" if num_gpus else "cpu"
        self._mixed_precision = checked_precision(mixed_precision, self._device)
        self._gradient_accumulation = gradient_accumulation
        self._checkpoint_minutes = checkpoint_minutes
        # All that is needed to make another like this one.
        self._made_with = {
            "num_gpus": num_gpus,
            "mixed_precision": mixed_precision,
            "gradient_accumulation": gradient_accumulation,
            "checkpoint_minutes": checkpoint_minutes,
            "num_processes": num_processes,
            "stall_s": stall_s,
            "max_restarts": max_restarts,
            "slice_drop_limit": slice_drop_limit,
            "keep_best": keep_best,
            "checkpoint_mirror": checkpoint_mirror,
            "export": export,
        }
        self._processes = num_gpus or num_processes or 1
        self._supervisor = Supervisor(stall_s, max_restarts)
        self._slice_drop_limit = slice_drop_limit
        self._keep_best = keep_best
        if checkpoint_mirror is not None:
            open_blobs(checkpoint_mirror)  # a wrong address is an error now
        self._checkpoint_mirror = checkpoint_mirror
        self._export = tuple(export)
        self._clock = clock

    def train(
        self, config: Mapping[str, Any], on_epoch: OnEpoch | None = None, *, resume: bool = False
    ) -> TrainingResult:
        """Train, or finish, or return what is finished.

        Args:
            config: settings of `TrainingRequest`; `dataset`, the name of a dataset version, may stand for `train_data`,
                `val_data` and `classes`.
            on_epoch: called after each epoch once it is durable. After a crash the last durable epoch is reported
                again, since nobody knows whether it was.
            resume: insist that there is a job to go on with, and do so even if it was cancelled.

        Raises:
            ConfigError: a setting is unknown, out of range or not what training would really use.
            NotFound, BadInput: data or initial weights are missing or damaged, or there is nothing to resume.
            Conflict: another process trains this job now, or it was cancelled.
            Cancelled: somebody asked to stop it; checkpoints are kept.
            StorageFull: no space; free some and call again.
            PostConditionFailed: training diverged, or the stored model is not the trained one.
        """
        job, dataset = self._job(config)
        self._work_dir.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(job.lock, timeout=LOCK_WAIT_S), quiet():
                finished = self._finished(job)
                if finished is not None:
                    return finished
                self._begin(job, config, dataset, resume=resume)
                with _failure_noted(job):
                    return self._train(job, dataset, _noting(job, on_epoch or (lambda _: None)))
        except Timeout as error:
            raise Conflict(f"Training job {job.id} is running in another process; wait for it.") from error

    def resume(self, job_id: str, on_epoch: OnEpoch | None = None) -> TrainingResult:
        """Go on with a job that was cancelled, failed or interrupted, as it was asked for; else as `train`.

        Raises:
            NotFound: there is no such job.
            Conflict: this orchestrator would make another job of it: its precision or accumulation differ, or the data
                is not what it was.
        """
        request = self._work_dir / job_id / REQUEST
        if not request.is_file():
            raise NotFound(f"There is no training job {job_id} in {self._work_dir}.")
        config = json.loads(request.read_bytes())["config"]
        if (now := self.job_id(config)) != job_id:
            raise Conflict(
                f"Job {job_id} cannot go on: with its settings the job is now {now}, because its data changed or this "
                "orchestrator has another precision or accumulation. Train anew."
            )
        return self.train(config, on_epoch, resume=True)

    def job_id(self, config: Mapping[str, Any]) -> str:
        """The id `train` would use for this configuration."""
        return self._job(config)[0].id

    def _job(self, config: Mapping[str, Any]) -> tuple[TrainingJob, dict[str, str] | None]:
        """The job, and the dataset version it was asked for with."""
        dataset = None
        if "dataset" in config:
            config, dataset = with_data_of_version(config, self._datasets, self._work_dir / "selections")
        request = TrainingRequest.of(config)
        check_shared(request.batch_size, self._processes)
        job = TrainingJob.of(
            request, self._work_dir, self._gradient_accumulation, mixed_precision=self._mixed_precision
        )
        return job, dataset

    def _begin(
        self, job: TrainingJob, config: Mapping[str, Any], dataset: dict[str, str] | None, *, resume: bool
    ) -> None:
        if resume and not job.folder.is_dir():
            raise NotFound(
                f"There is nothing to resume: no job was started with these settings and this data in {self._work_dir}."
            )
        if job.cancel_mark.exists():
            if not resume:
                raise Conflict(f"Training job {job.id} was cancelled; resume it to go on.")
            job.cancel_mark.unlink()
        (job.folder / FAILURE).unlink(missing_ok=True)
        # Whole paths, because whoever resumes may do so from another folder.
        places = {name: getattr(job.request, name) for name in _PLACES if name in config}
        content = {
            "config": {**config, **places},
            "dataset": dataset,
            "started_at": time.time(),
            "orchestrator": self._made_with,
        }
        job.write(REQUEST, _plain(content))

    def _finished(self, job: TrainingJob) -> TrainingResult | None:
        stored = job.read(RESULT)
        if stored is None:
            return None
        try:
            StoredModel.read(job.model_folder)
        except (NotFound, BadInput):
            # Training is repeatable, so a damaged model is made again.
            shutil.rmtree(job.folder)
            return None
        # Left when the process was killed between the two.
        open_checkpoints(job, self._checkpoint_mirror).clear()
        result = TrainingResult.from_json(stored, job.model_folder, bundle(job.model_folder, self._export))
        return replace(result, kept=self._kept(job, len(result.epochs)))

    def _train(self, job: TrainingJob, dataset: dict[str, str] | None, on_epoch: OnEpoch) -> TrainingResult:
        files.remove_leftovers(job.folder)
        checkpoints = open_checkpoints(job, self._checkpoint_mirror)
        saved = checkpoints.newest_good()
        threads = job.threads(None if saved is None else saved[1].get("threads"))
        with reproducible(job.request.seed, threads):
            if saved is not None and saved[0].epoch:
                on_epoch(EpochReport.from_json(saved[1]["reports"][-1]))
            if saved is None or not saved[1]["finished"]:
                self._fit(job, saved, checkpoints, on_epoch)
            last = checkpoints.newest_good()
            if last is None or not last[1]["finished"]:
                raise PostConditionFailed(
                    f"Training job {job.id} ended without a last checkpoint; call train again."
                )
            resumed_from = None if saved is None else saved[0].epoch
            result = self._release(job, dataset, state=last[1], resumed_from=resumed_from)
        checkpoints.clear()
        (job.folder / REPORTS).unlink(missing_ok=True)
        return result

    def _fit(
        self, job: TrainingJob, saved: Saved | None, checkpoints: CheckpointManager, on_epoch: OnEpoch
    ) -> None:
        settings = FitSettings(
            self._device,
            self._checkpoint_minutes,
            slice_drop_limit=self._slice_drop_limit,
            keep_best=self._keep_best,
            checkpoint_mirror=self._checkpoint_mirror,
        )
        # Decided once, before there are several processes.
        job.precision(self._device)
        if self._processes == 1:
            fit(job, settings, saved, checkpoints, on_epoch, self._clock)
            return
        reported = set() if saved is None else {saved[0].epoch}

        def report_new(report: EpochReport) -> None:
            if report.epoch not in reported:
                reported.add(report.epoch)
                on_epoch(report)

        self._supervisor.run(job, settings, self._processes, report_new)

    def _release(
        self,
        job: TrainingJob,
        dataset: dict[str, str] | None,
        *,
        state: dict[str, Any],
        resumed_from: int | None,
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
            files=bundle(job.model_folder, self._export),
            weights_sha256=digest,
            epochs=reports,
            best=best,
            resumed_from_epoch=resumed_from,
            stopped_early=len(reports) < request.epochs,
            resolved=_plain(
                {**_resolved(job, data, self._device), "processes": self._processes, "dataset": dataset}
            ),
            kept=self._kept(job, len(reports)),
        )
        job.write(RESULT, result.to_json())
        return result

    def _kept(self, job: TrainingJob, epochs: int) -> list[KeptModel]:
        if self._keep_best == 1:
            return []
        models = BestModels(job.best_models, self._keep_best, rewindable=0)
        # Those that only going back could have needed.
        models.rewind(epochs)
        kept = models.models()
        if len(kept) < min(self._keep_best, epochs):
            logger.warning(
                "Of training job %s %d of the %d best models are kept.", job.id, len(kept), self._keep_best
            )
        score = job.request.stopping.score
        return [KeptModel(one.epoch, score(one.score), job.best_models / one.file_name) for one in kept]

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


@contextmanager
def _failure_noted(job: TrainingJob) -> Iterator[None]:
    """Leave why training ended, for whoever looks at the job later."""
    try:
        yield
    except Cancelled:
        raise
    except RetrainError as error:
        job.write(FAILURE, {"error": type(error).__name__, "message": str(error)})
        raise


def _noting(job: TrainingJob, on_epoch: OnEpoch) -> OnEpoch:
    """`on_epoch` that also leaves the reports of all epochs so far where they can be read."""

    def keep(report: EpochReport) -> None:
        earlier = [one for one in job.read(REPORTS) or [] if one["epoch"] < report.epoch]
        job.write(REPORTS, [*earlier, report.to_json()])
        on_epoch(report)

    return keep


def _plain(content: Mapping[str, Any]) -> dict[str, Any]:
    """The same as it is read back from a file."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(content), default=str))
    return plain


def _resolved(job: TrainingJob, data: DetectionData, device: str) -> dict[str, Any]:
    used = data.arguments
    return {
        **job.request.identity(),
        "accumulate": job.accumulate,
        "mixed_precision": job.mixed_precision,
        "precision": job.precision(device),
        "device": device,
        "threads": job.threads(),
        "images": data.images,
        "batches": len(data.train),
        "augment": {name: getattr(used, name) for name in job.request.augment},
        "torch": torch.__version__,
        "lightning": lightning.__version__,
        "ultralytics": ULTRALYTICS_VERSION,
    }
