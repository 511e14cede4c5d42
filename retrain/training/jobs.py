"""Looks at training jobs, from any process: which there are, how far each is, and stops one."""

import fcntl
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from retrain.errors import BadInput, Conflict, NotFound, PostConditionFailed
from retrain.storage import files
from retrain.training.job_files import CANCELLED, FAILURE, JOB, REPORTS, REQUEST, RESULT, lock_of, read_json
from retrain.training.result import EpochReport

logger = logging.getLogger(__name__)

# Longer than a look at the lock takes, so that nobody who starts a job meets one.
LOCK_WAIT_S = 2.0


class JobState(StrEnum):
    """What became of a job; worked out from what is on disk, so that no crash can leave it wrong."""

    RUNNING = "running"
    FINISHED = "finished"
    CANCELLED = "cancelled"
    """Somebody asked to stop it; goes on when it is resumed."""
    FAILED = "failed"
    """It said why; training it again goes on from its last checkpoint."""
    INTERRUPTED = "interrupted"
    """Its process is gone and said nothing; training it again goes on from its last checkpoint."""


@dataclass(frozen=True, kw_only=True)
class JobStatus:
    """One job as it is now.

    Attributes:
        settings: of the request, JSON-ready.
        reports: of the epochs that are durable.
        best_epoch: whose weights are in `model_folder`, from 1; None until the job is finished.
        checkpoints: newest last; empty once it is finished.
        model_folder: what it made; None until the job is finished.
        error: why it failed.
        dataset: `name` and `digest` of the version it was asked to train on.
        started_at: seconds since the epoch, of the last start; None for jobs of older versions.
        asked: settings of the last start, those of the orchestrator among them, to start it again.
    """

    id: str
    state: JobState
    folder: Path
    settings: dict[str, Any]
    reports: list[EpochReport]
    best_epoch: int | None
    checkpoints: list[Path]
    model_folder: Path | None
    error: str | None
    dataset: dict[str, str] | None
    started_at: float | None
    asked: dict[str, Any]

    @property
    def epochs(self) -> int:
        """How many were asked for."""
        return int(self.settings["epochs"])


class TrainingJobs:
    """The jobs under one `work_dir`.

    Args:
        work_dir: the orchestrator's.
    """

    def __init__(self, work_dir: Path) -> None:
        self._work_dir = Path(work_dir).absolute()

    def list(self) -> list[JobStatus]:
        """All jobs, the one started last at the end."""
        found = []
        for folder in sorted(path.parent for path in self._work_dir.glob(f"*/{JOB}")):
            try:
                found.append(_status(folder))
            except BadInput as error:
                # The others are as they were.
                logger.warning("%s", error)
        return sorted(found, key=lambda job: (job.started_at or 0.0, job.id))

    def get(self, job_id: str) -> JobStatus:
        """A job by its id or the beginning of it.

        Raises:
            NotFound: there is none.
            BadInput: several begin so.
        """
        matching = [path.parent for path in self._work_dir.glob(f"*/{JOB}") if _begins(path, job_id)]
        if not matching:
            raise NotFound(f"There is no training job {job_id} in {self._work_dir}.")
        if len(matching) > 1:
            raise BadInput(
                f"{len(matching)} training jobs begin with {job_id}; give more of the id: "
                f"{', '.join(sorted(folder.name for folder in matching))}."
            )
        return _status(matching[0])

    def watch(self, job_id: str, poll_s: float = 1.0) -> Iterator[JobStatus]:
        """The job now, then again whenever it changed, until it is not running."""
        before: JobStatus | None = None
        while True:
            now = self.get(job_id)
            if now != before:
                yield now
            if now.state is not JobState.RUNNING:
                return
            before = now
            time.sleep(poll_s)

    def cancel(self, job_id: str, wait_s: float = 60.0) -> JobStatus:
        """Stop a job; no one goes on with it until somebody resumes it.

        Args:
            wait_s: how long to wait for its process, which looks after every batch.

        Raises:
            NotFound: there is none.
            Conflict: it is finished.
            PostConditionFailed: its process still runs; it is asked to stop and will when it looks.
        """
        found = self.get(job_id)
        if found.state is JobState.FINISHED:
            raise Conflict(f"Training job {found.id} is finished; there is nothing to cancel.")
        files.write_whole(found.folder / CANCELLED, b"")
        deadline = time.monotonic() + wait_s
        while (now := self.get(found.id)).state is JobState.RUNNING:
            if time.monotonic() > deadline:
                raise PostConditionFailed(
                    f"Training job {found.id} was asked to stop but still runs after {wait_s:g} s; it stops when its "
                    "process has done what it is at. Look again with `retrain jobs`."
                )
            time.sleep(0.1)
        return now


def _begins(path: Path, job_id: str) -> bool:
    return bool(job_id) and path.parent.name.startswith(job_id)


def _status(folder: Path) -> JobStatus:
    """Raises `BadInput` for a folder whose files are no job's, or damaged."""
    try:
        return _read_status(folder)
    except (ValueError, KeyError, TypeError, PermissionError) as error:
        raise BadInput(
            f"{folder} holds no training job that can be read ({type(error).__name__}: {error}); remove it, or what "
            "is damaged in it."
        ) from error


def _read_status(folder: Path) -> JobStatus:
    # Before anything is read: a job that ends meanwhile is then seen as it was, running.
    running = _is_held(lock_of(folder))
    result, failure, request = (read_json(folder / name) for name in (RESULT, FAILURE, REQUEST))
    reports = result["epochs"] if result else read_json(folder / REPORTS) or []
    return JobStatus(
        id=folder.name,
        state=_state(folder, running=running, finished=result is not None, failed=failure is not None),
        folder=folder,
        settings=_settings(folder),
        reports=[EpochReport.from_json(report) for report in reports],
        best_epoch=result["best_epoch"] if result else None,
        checkpoints=sorted((folder / "checkpoints").glob("*.ckpt"), key=lambda path: path.stem),
        model_folder=folder / "model" if result else None,
        error=failure["message"] if failure else None,
        dataset=request["dataset"] if request else None,
        started_at=request["started_at"] if request else None,
        asked=request["config"] | request["orchestrator"] if request else {},
    )


def _settings(folder: Path) -> dict[str, Any]:
    settings: dict[str, Any] = read_json(folder / JOB)
    return {**settings, "epochs": int(settings["epochs"])}


def _state(folder: Path, *, running: bool, finished: bool, failed: bool) -> JobState:
    if running:
        return JobState.RUNNING
    if finished:
        return JobState.FINISHED
    if (folder / CANCELLED).exists():
        return JobState.CANCELLED
    return JobState.FAILED if failed else JobState.INTERRUPTED


def _is_held(lock: Path) -> bool:
    """Whether a process holds it; the kernel knows, whatever killed the last one."""
    try:
        with lock.open("rb") as file:
            # Shared, so that two who look do not see each other.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
