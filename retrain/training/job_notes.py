"""What is written down of a job while it runs, for whoever looks at it or goes on with it."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from retrain.errors import Cancelled, Conflict, NotFound, RetrainError
from retrain.training.job import TrainingJob
from retrain.training.job_files import FAILURE, REPORTS, REQUEST, plain, read_json
from retrain.training.recorder import OnEpoch
from retrain.training.result import EpochReport

# Written down whole, because whoever resumes may do so from another folder.
_PLACES = ("train_data", "val_data", "initial_weights", "model")


def note_start(
    job: TrainingJob,
    config: Mapping[str, Any],
    dataset: Mapping[str, str] | None,
    made_with: Mapping[str, Any],
    now: float,
    *,
    resume: bool,
    known_elsewhere: bool = False,
) -> None:
    """Note what is asked for, and forget how the last try ended.

    Args:
        config: as it was given.
        dataset: the version it names.
        made_with: settings of the orchestrator.
        now: seconds since the epoch.
        resume: insist on a job to go on with, even a cancelled one.
        known_elsewhere: there is a checkpoint of it, if not here.

    Raises:
        NotFound: there is nothing to resume.
        Conflict: it was cancelled, and nobody asked to resume it.
    """
    if resume and not (known_elsewhere or job.folder.is_dir()):
        raise NotFound(
            "There is nothing to resume: no job was started with these settings and this data in "
            f"{job.folder.parent}."
        )
    if job.cancel_mark.exists():
        if not resume:
            raise Conflict(f"Training job {job.id} was cancelled; resume it to go on.")
        job.cancel_mark.unlink()
    (job.folder / FAILURE).unlink(missing_ok=True)
    places = {name: getattr(job.request, name) for name in _PLACES if name in config}
    asked = {"config": {**config, **places}, "dataset": dataset, "started_at": now, "orchestrator": made_with}
    job.write(REQUEST, plain(asked))


def asked_for(work_dir: Path, job_id: str) -> dict[str, Any]:
    """The configuration a job was last started with.

    Raises:
        NotFound: there is no such job.
    """
    request = read_json(work_dir / job_id / REQUEST)
    if request is None:
        raise NotFound(f"There is no training job {job_id} in {work_dir}.")
    config: dict[str, Any] = request["config"]
    return config


@contextmanager
def failure_noted(job: TrainingJob, explain: Callable[[Exception], RetrainError | None]) -> Iterator[None]:
    """Leave why training ended; a cancelled one has its mark.

    Args:
        explain: what an exception is really about, if another process failed.
    """
    try:
        yield
    except Exception as error:
        cause = error if isinstance(error, RetrainError) else explain(error)
        if cause is not None and not isinstance(cause, Cancelled):
            job.write(FAILURE, {"error": type(cause).__name__, "message": str(cause)})
        raise


def noting(job: TrainingJob, on_epoch: OnEpoch) -> OnEpoch:
    """`on_epoch` that also leaves the reports of all epochs so far."""

    def note(report: EpochReport) -> None:
        earlier = [one for one in job.read(REPORTS) or [] if one["epoch"] < report.epoch]
        job.write(REPORTS, [*earlier, report.to_json()])
        on_epoch(report)

    return note
