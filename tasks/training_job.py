"""A training that somebody asked for, outside of any cycle."""

import difflib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from prefect import get_run_logger, task
from prefect.runtime import task_run

from retrain.errors import BadInput, ConfigError, Conflict, NotFound
from retrain.training.jobs import JobState, TrainingJobs
from tasks.resources import Resources
from tasks.retrying import RETRYING
from tasks.tracked_training import TrackedTraining, run_closed_on_failure

if TYPE_CHECKING:
    from retrain.training.orchestrator import TrainingOrchestrator


def read_settings(file: Path) -> dict[str, Any]:
    """Training settings of a yaml file such as configs/yolov8n.yaml.

    Raises:
        NotFound: no such file.
        BadInput: it is no yaml, or holds no settings.
    """
    try:
        read = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise NotFound(f"There is no file {file}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadInput(f"{file} is not yaml: {' '.join(str(error).split())}.") from error
    if not isinstance(read, dict) or not all(isinstance(key, str) for key in read):
        raise BadInput(f"{file} must hold settings, such as `epochs: 100`.")
    return read


def orchestrator_for(
    settings: Mapping[str, Any], resources: Resources
) -> tuple["TrainingOrchestrator", dict[str, Any]]:
    """What trains by these settings, and the request to give it.

    Raises:
        ConfigError: a setting is unknown (names the nearest) or cannot be.
        Unavailable: there are fewer GPUs than asked for.
    """
    from retrain.training.execution import Execution
    from retrain.training.orchestrator import TrainingOrchestrator
    from retrain.training.request import TrainingRequest

    made_with = [field.name for field in fields(Execution)]
    valid = (*made_with, "dataset", *(field.name for field in fields(TrainingRequest)))
    for key in settings:
        if key not in valid:
            close = difflib.get_close_matches(key, valid, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]!r}?" if close else f"valid are {', '.join(sorted(valid))}."
            raise ConfigError(f"Training has no setting {key!r}; {hint}")
    how = {"pictures": True} | {key: value for key, value in settings.items() if key in made_with}
    request = {key: value for key, value in settings.items() if key not in made_with}
    return TrainingOrchestrator(jobs_folder(resources), datasets=resources.datasets_path, **how), request


def jobs_folder(resources: Resources) -> Path:
    """Where the jobs of cycles and of commands are."""
    return resources.home / "jobs"


@task(name="train job", timeout_seconds=7 * 24 * 3600, **RETRYING)
def train_job(resources: Resources, settings: Mapping[str, Any], *, resume: bool) -> dict[str, Any]:
    """A finished job, tracked in an MLflow run of its own; what was killed goes on from its last checkpoint."""
    orchestrator, request = orchestrator_for(settings, resources)
    job_id = orchestrator.job_id(request)
    get_run_logger().info("training job %s", job_id)
    name = f"{request.get('model', 'model')} on {request.get('dataset', 'given data')}"
    run = resources.tracker.run_for(f"job/{job_id}", name)
    if "dataset" in request:
        version = resources.datasets.get_version(request["dataset"])
        run.log_dataset(version.name, version.digest, str(resources.datasets_path))
    tracked = TrackedTraining(run, f"training job {job_id}", orchestrator.settings_of(request))
    # A retry of this task must not lift a cancellation that came after it was asked for.
    first = task_run.run_count in {None, 0, 1}
    preflight = resources.config.training.preflight
    try:
        with run_closed_on_failure(run):
            result = orchestrator.train(request, tracked.epoch, resume=resume and first, preflight=preflight)
            model_uri = tracked.finish(result)
    except Conflict:
        if TrainingJobs(jobs_folder(resources)).get(job_id).state is JobState.CANCELLED:
            run.finish("KILLED")
        raise
    return {
        "job_id": result.job_id,
        "model_folder": str(result.model_folder),
        "model_uri": model_uri,
        "run_id": run.id,
        "best": result.best.to_json(),
        "reused": result.reused,
    }
