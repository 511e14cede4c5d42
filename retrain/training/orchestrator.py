"""Trains a detector from a plain configuration; may be killed at any instant and called again."""
# ruff: noqa: E402 - torch reads its switches while it is imported, so these are set first.

from retrain import environment

environment.prepare()

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from retrain.errors import ConfigError, Conflict, PostConditionFailed
from retrain.storage import files
from retrain.training.batch_size import AUTO, chosen_batch_size
from retrain.training.checkpoints import CheckpointManager
from retrain.training.console import quiet
from retrain.training.dataset_version import with_data_of_version
from retrain.training.draws import check_shared
from retrain.training.execution import Execution
from retrain.training.export.bundle import FORMATS
from retrain.training.fitting import Clock, FitSettings, Saved, open_checkpoints
from retrain.training.fitting_in_memory import FittingInMemory
from retrain.training.job import TrainingJob
from retrain.training.job_files import PREFLIGHT, REPORTS, plain
from retrain.training.job_notes import asked_for, failure_noted, note_start, noting
from retrain.training.jobs import LOCK_WAIT_S
from retrain.training.joined import Explain, joined
from retrain.training.launched import Launched, launched_place
from retrain.training.place import ALONE, Place
from retrain.training.preflight import run_preflight
from retrain.training.preflight_report import PreflightReport
from retrain.training.recorder import OnEpoch
from retrain.training.releasing import Releasing
from retrain.training.reproducible import reproducible
from retrain.training.request import TrainingRequest
from retrain.training.result import EpochReport, TrainingResult
from retrain.training.supervisor import Supervisor


class TrainingOrchestrator:
    """Runs training jobs, each in its own folder under `work_dir`.

    A job is named by its request and data: training the same again returns the stored result, and a job that was
    killed continues after its last whole checkpoint and ends with the same weights as if it had not been.

    In processes that torchrun, srun or Kubernetes started together, all call `train` and train one job. Only the
    leading one locks, writes and reports; starting again after a failure is up to the launcher.

    Args:
        work_dir: nothing is written elsewhere; None is `jobs` in the home folder. Several machines share it, or the
            leading one alone has the result.
        num_gpus: of this machine. 0 trains on the CPU; more than one have a process each, which share every batch
            (DDP).
        mixed_precision: True is bfloat16, or float16 with loss scaling on GPUs that cannot do it; `bf16` or `fp16` is
            that one. Validation stays float32.
        gradient_accumulation: batches per optimizer step.
        checkpoint_minutes: how often a checkpoint is written within an epoch; None writes one per epoch only.
        num_processes: on this machine, that share every batch on the CPU; None is one, or as many as were launched.
        supervised: one process is watched too, as several always are, and therefore is a child of this one.
        stall_s: seconds without progress after which watched processes are stopped and started again.
        max_restarts: how often in a row they are started again after a crash or a stall without a new epoch.
        datasets: repository of the versions that a configuration names; None is `datasets` in the home folder.
        slice_drop_limit: a class or camera whose map50 falls by more than this below that of the model that training
            starts from is reported.
        keep_best: how many of the best epochs keep their weights, in the job's folder `best`.
        checkpoint_mirror: folder or `s3://<bucket>/<prefix>` that checkpoints are copied to, so that another machine
            can go on from there.
        export: formats that the model is written in beside its own: `pt` for Ultralytics, `onnx`.
        pictures: draw how the training went, precision over recall, and some validation images with what was found, in
            the job's folder `pictures`.
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
        supervised: bool = False,
        stall_s: float = 600.0,
        max_restarts: int = 3,
        datasets: Path | None = None,
        slice_drop_limit: float = 0.05,
        keep_best: int = 1,
        checkpoint_mirror: str | None = None,
        export: Sequence[str] = tuple(FORMATS),
        pictures: bool = False,
        clock: Clock = time.perf_counter,
    ) -> None:
        self._how = Execution(
            num_gpus=num_gpus,
            mixed_precision=mixed_precision,
            gradient_accumulation=gradient_accumulation,
            checkpoint_minutes=checkpoint_minutes,
            num_processes=num_processes,
            supervised=supervised,
            stall_s=stall_s,
            max_restarts=max_restarts,
            slice_drop_limit=slice_drop_limit,
            keep_best=keep_best,
            checkpoint_mirror=checkpoint_mirror,
            export=export,
            pictures=pictures,
        )
        home = environment.home()
        self._work_dir = Path(work_dir or home / "jobs").absolute()
        self._datasets = Path(datasets or home / "datasets").absolute()
        supervisor = Supervisor(stall_s, max_restarts)
        # Like those that are watched, launched processes wait longer for one another than a stall may last.
        self._patience_s = supervisor.patience_s
        self._fitting = FittingInMemory(self._how, supervisor, clock)
        self._releasing = Releasing(self._how.device, keep_best, tuple(export), pictures)

    def train(
        self,
        config: Mapping[str, Any],
        on_epoch: OnEpoch | None = None,
        *,
        resume: bool = False,
        preflight: bool = False,
    ) -> TrainingResult:
        """Train, or finish, or return what is finished.

        Args:
            config: settings of `TrainingRequest`; `dataset`, the name of a dataset version, may stand for `train_data`,
                `val_data` and `classes`, and `auto` for the number of a `batch_size`, see `chosen_batch_size`.
            on_epoch: called after each epoch once it is durable. After a crash the last durable epoch is reported
                again, since nobody knows whether it was.
            resume: insist that there is a job to go on with, and do so even if it was cancelled.
            preflight: run `preflight` before a job begins, keep its report in the job's `preflight.json`, and raise
                what it found.

        Raises:
            ConfigError: a setting is unknown, out of range or not what training would really use.
            NotFound, BadInput: data or initial weights are missing or damaged, or there is nothing to resume.
            Conflict: another process trains this job now, or it was cancelled.
            Cancelled: somebody asked to stop it; checkpoints are kept.
            OutOfMemory: not even one image at a time fits; where some do, batches are trained on in parts.
            StorageFull: no space; free some and call again.
            PostConditionFailed: training diverged, or the stored model is not the trained one.
            Unavailable: other launched processes did not come, or one is gone.
        """
        launched = launched_place(os.environ)
        if launched is None:
            return self._run(config, on_epoch or _ignore, resume=resume, preflight=preflight)
        self._check_launched(launched)
        with joined(launched, self._how.device, self._patience_s) as (place, explain):
            told = on_epoch if on_epoch and place.leads else _ignore
            return self._run(config, told, place, explain, resume=resume, preflight=preflight)

    def resume(self, job_id: str, on_epoch: OnEpoch | None = None) -> TrainingResult:
        """Go on with a job that was cancelled, failed or interrupted, as it was asked for; else as `train`.

        Raises:
            NotFound: there is no such job.
            Conflict: this orchestrator would make another job of it: its precision or accumulation differ, or the data
                is not what it was.
        """
        config = asked_for(self._work_dir, job_id)
        if (now := self.job_id(config)) != job_id:
            raise Conflict(
                f"Job {job_id} cannot go on: with its settings the job is now {now}, because its data changed or this "
                "orchestrator has another precision or accumulation. Train anew."
            )
        return self.train(config, on_epoch, resume=True)

    def preflight(self, config: Mapping[str, Any], limit_hours: float | None = None) -> PreflightReport:
        """What would stop this training or make it vain: labels, memory, disk, time, and whether anything is learnt.

        All is checked even when something fails; nothing is written but the lists of a dataset version
        and a batch size that was left to be chosen.

        Args:
            limit_hours: a training expected to take longer fails.

        Raises:
            ConfigError: a setting is unknown or out of range.
            NotFound, BadInput: data or initial weights are missing, so that the job cannot even be named.
        """
        job, _ = self._job(config)
        with quiet():
            return run_preflight(job, self._how.device, self._how.processes, limit_hours)

    def _note_start(
        self, job: TrainingJob, config: Mapping[str, Any], dataset: Mapping[str, str] | None, *, resume: bool
    ) -> None:
        # Another machine may know it from the mirror alone.
        elsewhere = resume and bool(open_checkpoints(job, self._how.checkpoint_mirror).positions())
        # As it was chosen: wherever the job goes on, that stays.
        config = {**config, "batch_size": job.request.batch_size}
        note_start(
            job, config, dataset, self._how.to_json(), time.time(), resume=resume, known_elsewhere=elsewhere
        )

    def _check_first(self, job: TrainingJob, place: Place) -> None:
        if not open_checkpoints(job, self._how.checkpoint_mirror).positions():
            processes = max(place.processes // place.nodes, self._how.processes)
            report = run_preflight(job, self._how.device, processes, nodes=place.nodes)
            job.write(PREFLIGHT, report.to_json())
            report.raise_if_failed()

    def settings_of(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """All settings that `train` would use for this configuration, as they are stored, places left out."""
        return plain(self._job(config)[0].request.identity())

    def job_id(self, config: Mapping[str, Any]) -> str:
        """The id `train` would use for this configuration."""
        return self._job(config)[0].id

    def _check_launched(self, launched: Launched) -> None:
        started, asked = launched.place.processes // launched.place.nodes, self._how.asked_processes
        if asked not in {None, started}:
            raise ConfigError(
                f"{launched.by} started {started} processes on this machine, but {asked} are asked for by "
                f"{'num_gpus' if self._how.device == 'cuda' else 'num_processes'}; make them the same."
            )

    def _run(
        self,
        config: Mapping[str, Any],
        on_epoch: OnEpoch,
        place: Place = ALONE,
        explain: Explain = lambda _: None,
        *,
        resume: bool,
        preflight: bool,
    ) -> TrainingResult:
        job, dataset = self._job(config, place)
        jobs = place.gathered(job.id)
        if len(set(jobs)) > 1:
            raise ConfigError(
                f"Processes that were launched together have to train one job, but have {', '.join(jobs)}; give all "
                "the same settings and data."
            )
        self._work_dir.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(job.lock, timeout=LOCK_WAIT_S) if place.leads else nullcontext(), quiet():
                finished = place.led(lambda: self._finished(job))
                if finished is not None:
                    return finished
                place.led(lambda: self._note_start(job, config, dataset, resume=resume))
                # From now on others see the job.
                place.led(job.threads)
                with failure_noted(job, explain) if place.leads else nullcontext():
                    if preflight:
                        place.led(lambda: self._check_first(job, place))
                    result = self._train(
                        job, dataset, noting(job, on_epoch) if place.leads else on_epoch, place
                    )
        except Timeout as error:
            raise Conflict(f"Training job {job.id} is running in another process; wait for it.") from error
        return result

    def _job(
        self, config: Mapping[str, Any], place: Place = ALONE
    ) -> tuple[TrainingJob, dict[str, str] | None]:
        """The job, and the dataset version it was asked for with."""
        dataset, processes = None, max(place.processes, self._how.processes)
        if "dataset" in config:
            config, dataset = with_data_of_version(config, self._datasets, self._work_dir / "selections")
        if config.get("batch_size") == AUTO:
            here = processes // place.nodes
            size = place.led(lambda: chosen_batch_size(config, self._how, self._work_dir, here, place.nodes))
            config = {**config, "batch_size": size}
        request = TrainingRequest.of(config)
        check_shared(request.batch_size, processes)
        if request.sync_batchnorm and (processes == 1 or self._how.device == "cpu"):
            raise ConfigError(
                f"sync_batchnorm normalises by the images of several GPUs, but {processes} process(es) train on "
                f"{self._how.device}; set it to false, or num_gpus to more than one."
            )
        job = TrainingJob.of(
            request,
            self._work_dir,
            self._how.gradient_accumulation,
            mixed_precision=self._how.mixed_precision,
        )
        return job, dataset

    def _finished(self, job: TrainingJob) -> TrainingResult | None:
        finished = self._releasing.finished(job)
        if finished is not None:
            # Left when the process was killed between the two.
            open_checkpoints(job, self._how.checkpoint_mirror).clear()
        return finished

    def _train(
        self, job: TrainingJob, dataset: dict[str, str] | None, on_epoch: OnEpoch, place: Place
    ) -> TrainingResult:
        checkpoints = open_checkpoints(job, self._how.checkpoint_mirror)
        saved, threads, precision = place.led(lambda: _begun(job, checkpoints, self._how.device))
        settings = FitSettings(
            self._how.device,
            precision,
            self._how.checkpoint_minutes,
            slice_drop_limit=self._how.slice_drop_limit,
            keep_best=self._how.keep_best,
            checkpoint_mirror=self._how.checkpoint_mirror,
        )
        with reproducible(job.request.seed, threads):
            if saved is not None and saved[0].epoch:
                if place.leads:
                    job.write(REPORTS, saved[1]["reports"][:-1])
                on_epoch(EpochReport.from_json(saved[1]["reports"][-1]))
            if saved is None or not saved[1]["finished"]:
                self._fitting.run(job, settings, saved, checkpoints, on_epoch, place)

            def end() -> TrainingResult:
                resumed_from = None if saved is None else saved[0].epoch
                processes = max(place.processes, self._how.processes)
                result = self._releasing.release(
                    job, _finished_state(job, checkpoints), dataset, resumed_from, processes
                )
                checkpoints.clear()
                (job.folder / REPORTS).unlink(missing_ok=True)
                return result

            return place.led(end)


def _finished_state(job: TrainingJob, checkpoints: CheckpointManager) -> dict[str, Any]:
    last = checkpoints.newest_good()
    if last is None or not last[1]["finished"]:
        raise PostConditionFailed(f"Training job {job.id} ended without a last checkpoint; call train again.")
    return last[1]


def _begun(job: TrainingJob, checkpoints: CheckpointManager, device: str) -> tuple[Saved | None, int, str]:
    """Checkpoint to go on from, number of CPU threads and precision."""
    files.remove_leftovers(job.folder)
    saved = checkpoints.newest_good()
    known = {} if saved is None else saved[1]
    return saved, job.threads(known.get("threads")), job.precision(device, known.get("precision"))


def _ignore(_: EpochReport) -> None:
    """Where nobody asked to be told."""
