"""What `retrain train` does: check and train one job by settings of its own, and show how it gets on."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows.training_view import follow
from retrain.errors import ConfigError, Conflict, NotFound
from retrain.training.jobs import JobState, JobStatus, TrainingJobs
from retrain.training.preflight_report import Check
from tasks.resources import Resources
from tasks.training import execution_settings, training_settings
from tasks.training_job import jobs_folder, orchestrator_for, read_settings

_POLL_S = 0.5


def settings_of(
    file: Path | None, dataset: str | None, gpus: int | None, resources: Resources
) -> dict[str, Any]:
    """Settings of a file, or without one those that cycles train the first model with; options go before them.

    Raises:
        ConfigError: nothing says on which dataset version.
    """
    if file is not None:
        settings = read_settings(file)
    else:
        settings = training_settings(resources.config, fresh=True) | execution_settings(resources)
    settings |= {} if dataset is None else {"dataset": dataset}
    settings |= {} if gpus is None else {"num_gpus": gpus}
    if "dataset" not in settings and "train_data" not in settings:
        raise ConfigError("Give --dataset, the name of a dataset version; `retrain dataset log` lists them.")
    return settings


def train(resources: Resources, settings: dict[str, Any], console: Console, *, resume: bool) -> None:
    """Run the flow here and show the job meanwhile."""
    from flows.own_server import interruptible
    from flows.training import training_flow

    orchestrator, request = orchestrator_for(settings, resources)
    job_id = orchestrator.job_id(request)
    if not console.is_terminal:
        console.print(f"job {job_id}")
    jobs = TrainingJobs(jobs_folder(resources))
    with interruptible(lambda: _how_to_go_on(jobs, job_id)), _shown(jobs, job_id, console):
        done = training_flow(settings, resume=resume, config=resources.config)
    best = done["best"]
    if done["reused"]:
        console.print("was finished already; nothing was trained")
    console.print(f"best epoch {best['epoch']}: mAP50 {best['map50']:.4f}, mAP50-95 {best['map50_95']:.4f}")
    if done["reused"] or not console.is_terminal:
        console.print(f"model {done['model_folder']}", soft_wrap=True)
    console.print(f"MLflow run {done['run_id']}")


def resume(resources: Resources, job_id: str, console: Console) -> None:
    """Go on with a job, by its id or the beginning of it, as it was asked for."""
    job = TrainingJobs(jobs_folder(resources)).get(job_id)
    if job.state is JobState.RUNNING:
        raise Conflict(f"Training job {job.id} is running; look with `retrain jobs watch {job.id[:8]}`.")
    train(resources, job.asked, console, resume=True)


def check(resources: Resources, settings: dict[str, Any], console: Console) -> None:
    """Look for what would make this training fail, without training it.

    Raises:
        RetrainError: what was found.
    """
    orchestrator, request = orchestrator_for(settings, resources)
    report = orchestrator.preflight(request)
    table = Table("check", "", "found", box=None, pad_edge=False)
    for one in report.checks:
        table.add_row(one.name, _verdict(one), Text(" ".join(filter(None, (one.said, one.warning)))))
    console.print(table)
    report.raise_if_failed()


def _how_to_go_on(jobs: TrainingJobs, job_id: str) -> str:
    with suppress(NotFound):  # interrupted before it was begun
        if jobs.get(job_id).checkpoints:
            return f"the same command again goes on with job {job_id[:8]} from its last checkpoint."
    return f"job {job_id[:8]} has no checkpoint yet, so the same command begins it again."


def _verdict(check: Check) -> Text:
    if not check.ok:
        return Text("bad", style="red")
    return Text("look", style="yellow") if check.warning else Text("good", style="green")


@contextmanager
def _shown(jobs: TrainingJobs, job_id: str, console: Console) -> Iterator[None]:
    over = threading.Event()
    viewer = threading.Thread(target=follow, args=(_until(over, jobs, job_id), console), daemon=True)
    viewer.start()
    try:
        yield
    finally:
        over.set()
        viewer.join()


def _until(over: threading.Event, jobs: TrainingJobs, job_id: str) -> Iterator[JobStatus]:
    """The job whenever it changed, once it is running, until it is over."""
    before: JobStatus | None = None
    ending = False
    while not ending:
        ending = over.wait(_POLL_S)
        with suppress(NotFound):  # not begun yet
            now = jobs.get(job_id)
            if now != before and (before is not None or now.state is JobState.RUNNING):
                before = now
                yield now
