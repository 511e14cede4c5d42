"""One training by settings of its own, outside of any cycle."""

from collections.abc import Mapping
from typing import Any

from prefect import flow
from prefect.runtime import flow_run

from retrain.config import RetrainConfig
from tasks.resources import build_resources
from tasks.training_job import train_job


def _run_name() -> str:
    settings = flow_run.parameters["settings"]
    return f"train {settings.get('model', 'a model')} on {settings.get('dataset', 'given data')}"


@flow(
    name="training",
    flow_run_name=_run_name,
    description="Trains a model on a dataset version, or goes on with that training; nothing is released.",
    timeout_seconds=8 * 24 * 3600,
    persist_result=False,
)
def training_flow(
    settings: dict[str, Any], *, resume: bool = False, config: RetrainConfig | None = None
) -> Mapping[str, Any]:
    """Train one job.

    Args:
        settings: as in configs/yolov8n.yaml, with `dataset`, the name of a dataset version.
        resume: insist that there is a job to go on with, and do so even if it was cancelled.
        config: unset, the configuration of the process that runs the flow.

    Raises:
        ConfigError, NotFound, BadInput, Unavailable: it cannot be trained as asked; nothing was begun.
        Conflict: the job is trained elsewhere, or was cancelled.
        Cancelled: somebody asked to stop it.
    """
    return train_job(build_resources(config), settings, resume=resume)
