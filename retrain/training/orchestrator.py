"""Trains a detector from a plain configuration; may be killed at any instant and called again."""
# ruff: noqa: E402 - torch reads its switches while it is imported, so these are set first.

from retrain import environment

environment.prepare()

import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning
import torch
from filelock import FileLock, Timeout
from lightning.pytorch import Trainer

from retrain.detector import Detector, StoredModel
from retrain.errors import BadInput, ConfigError, Conflict, NotFound, PostConditionFailed, Unavailable
from retrain.storage import files
from retrain.training.checkpoints import CheckpointManager
from retrain.training.console import quiet
from retrain.training.data import DetectionData
from retrain.training.detection_module import DetectionModule
from retrain.training.early_stopping import EarlyStopping, best_epoch
from retrain.training.ema import MovingAverage
from retrain.training.job import TrainingJob
from retrain.training.model import build_model
from retrain.training.recorder import EpochRecorder, OnEpoch
from retrain.training.reproducible import reproducible
from retrain.training.request import TrainingRequest
from retrain.training.result import EpochReport, TrainingResult
from retrain.training.ultralytics_parts import ULTRALYTICS_VERSION
from retrain.training.validation import Validation
from retrain.training.weights import write_model_folder

_RESULT, _JOB = "result.json", "job.json"


class TrainingOrchestrator:
    """Runs training jobs, each in its own folder under `work_dir`.

    A job is named by its request and data: training the same again returns the stored result, and a job that was
    killed continues after its last whole checkpoint and ends with the same weights as if it had not been.

    Args:
        work_dir: nothing is written elsewhere.
        num_gpus: 0 trains on the CPU, 1 on the first GPU.
        mixed_precision: bfloat16 where that is safe; validation stays float32.
        gradient_accumulation: batches per optimizer step.
        clock: seconds, for durations only.
    """

    def __init__(
        self,
        work_dir: Path,
        num_gpus: int = 0,
        mixed_precision: bool = False,
        gradient_accumulation: int = 1,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if num_gpus not in {0, 1}:
            raise ConfigError(
                f"num_gpus is {num_gpus}; training runs in one process so far: use 0 (CPU) or 1."
            )
        if gradient_accumulation < 1:
            raise ConfigError(f"gradient_accumulation must be at least 1, got {gradient_accumulation}.")
        if num_gpus and not torch.cuda.is_available():
            raise Unavailable("num_gpus is 1 but torch sees no GPU; set it to 0.")
        self._work_dir = Path(work_dir).absolute()
        self._device = "cuda" if num_gpus else "cpu"
        self._mixed_precision = mixed_precision
        self._gradient_accumulation = gradient_accumulation
        self._clock = clock

    def train(self, config: Mapping[str, Any], on_epoch: OnEpoch | None = None) -> TrainingResult:
        """Train, or finish, or return what is finished.

        Args:
            config: settings of `TrainingRequest`.
            on_epoch: called after each epoch once it is durable. After a crash the last durable epoch is reported
                again, since nobody knows whether it was.

        Raises:
            ConfigError: a setting is unknown, out of range or not what training would really use.
            NotFound, BadInput: data or initial weights are missing or damaged.
            Conflict: another process trains this job now.
            StorageFull: no space; free some and call again.
            PostConditionFailed: training diverged, or the stored model is not the trained one.
        """
        job = self._job(config)
        self._work_dir.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(job.lock, timeout=0), quiet():
                return self._finished(job) or self._train(job, on_epoch or (lambda _: None))
        except Timeout as error:
            raise Conflict(f"Training job {job.id} is running in another process; wait for it.") from error

    def job_id(self, config: Mapping[str, Any]) -> str:
        """The id `train` would use for this configuration."""
        return self._job(config).id

    def _job(self, config: Mapping[str, Any]) -> TrainingJob:
        request = TrainingRequest.of(config)
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
        with reproducible(job.request.seed, _threads(job)):
            data = DetectionData(job, self._device)
            model = build_model(job, data)
            validation = Validation(data, job.folder)
            if saved is not None:
                on_epoch(EpochReport.from_json(saved[1]["reports"][-1]))
            if saved is None or not saved[1]["finished"]:
                self._fit(
                    job, data, model, validation, saved=saved, checkpoints=checkpoints, on_epoch=on_epoch
                )
            last = checkpoints.newest_good()
            if last is None or not last[1]["finished"]:
                raise PostConditionFailed(
                    f"Training job {job.id} ended without a last checkpoint; call train again."
                )
            resumed_from = None if saved is None else saved[0]
            result = self._release(
                job, data, model.yaml, validation, state=last[1], resumed_from=resumed_from
            )
        checkpoints.clear()
        return result

    def _fit(
        self,
        job: TrainingJob,
        data: DetectionData,
        model: Any,
        validation: Validation,
        *,
        saved: tuple[int, dict[str, Any]] | None,
        checkpoints: CheckpointManager,
        on_epoch: OnEpoch,
    ) -> None:
        first, state = saved or (0, None)
        if state is not None:
            model.load_state_dict(state["model"])
        average = MovingAverage(state["average"] if state else None)
        module = DetectionModule(
            model=model,
            job=job,
            data=data,
            average=average,
            validation=validation,
            resume=state,
            first_epoch=first,
        )
        data.train.before_epoch(lambda: data.start_epoch(module.epoch))
        recorder = EpochRecorder(
            checkpoints=checkpoints,
            average=average,
            stopping=EarlyStopping(job.request.patience),
            epochs=job.request.epochs,
            images=data.images,
            on_epoch=on_epoch,
            clock=self._clock,
            saved=state,
        )
        # Only the remaining epochs are asked for: every schedule is a function of the job's own epoch, so nothing
        # of Lightning's progress needs to be restored.
        trainer = Trainer(
            accelerator="gpu" if self._device == "cuda" else "cpu",
            devices=1,
            precision="bf16-mixed" if job.mixed_precision else "32-true",
            max_epochs=job.request.epochs - first,
            callbacks=[average, recorder],
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
        trainer.fit(module, data.train, data.val)

    def _release(
        self,
        job: TrainingJob,
        data: DetectionData,
        architecture: dict[str, Any],
        validation: Validation,
        *,
        state: dict[str, Any],
        resumed_from: int | None,
    ) -> TrainingResult:
        reports = [EpochReport.from_json(report) for report in state["reports"]]
        best = reports[best_epoch([report.map50_95 for report in reports])]
        request = job.request
        digest = write_model_folder(
            job.model_folder, StoredModel(architecture, request.classes, request.image_size, state["best"])
        )
        self._verify(job, validation, best)
        result = TrainingResult(
            job_id=job.id,
            model_folder=job.model_folder,
            weights_sha256=digest,
            epochs=reports,
            best=best,
            resumed_from_epoch=resumed_from,
            stopped_early=len(reports) < request.epochs,
            resolved=_resolved(job, data, self._device),
        )
        job.write(_RESULT, result.to_json())
        return result

    def _verify(self, job: TrainingJob, validation: Validation, best: EpochReport) -> None:
        """The folder, loaded as serving loads it, is the model that was validated."""
        model = StoredModel.read(job.model_folder).build().to(self._device)
        _, measured = validation.score(model)
        # Equal on one machine; GPUs of another kind round differently.
        if abs(measured - best.map50_95) > 1e-3:
            raise PostConditionFailed(
                f"{job.model_folder} scores map50_95 {measured:.4f} on the validation images, but epoch {best.epoch} "
                f"scored {best.map50_95:.4f}; the data or the machine changed since."
            )
        Detector.load(job.model_folder, self._device).warm_up()


def _threads(job: TrainingJob) -> int:
    """Fixed when the job starts, because the order of sums, and so the weights, depends on it."""
    stored = job.read(_JOB)
    if stored is None:
        available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        threads = job.request.threads or available
        stored = {**job.request.identity(), "threads": threads}
        job.write(_JOB, stored)
    threads = stored["threads"]
    assert isinstance(threads, int)
    return threads


def _resolved(job: TrainingJob, data: DetectionData, device: str) -> dict[str, Any]:
    used = data.arguments
    return {
        **job.request.identity(),
        "accumulate": job.accumulate,
        "mixed_precision": job.mixed_precision,
        "device": device,
        "threads": _threads(job),
        "images": data.images,
        "batches": len(data.train),
        "augment": {name: getattr(used, name) for name in job.request.augment},
        "torch": torch.__version__,
        "lightning": lightning.__version__,
        "ultralytics": ULTRALYTICS_VERSION,
    }
