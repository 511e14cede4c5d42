"""`retrain jobs`: what became of each training, and stopping one."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.config_option import ConfigFile

if TYPE_CHECKING:
    from retrain.training.jobs import TrainingJobs

Job = Annotated[str, typer.Argument(help="Id of a job, or the beginning of it.")]

jobs_app = typer.Typer(help="Training jobs: list, look at, watch, cancel, resume.", no_args_is_help=True)


@jobs_app.command("list")
def list_(config: ConfigFile = None) -> None:
    """All jobs, the one started last at the end."""
    from flows.training_view import jobs_table, output

    output().print(jobs_table(_jobs(config).list()))


@jobs_app.command()
def show(job: Job, config: ConfigFile = None) -> None:
    """State, epochs and what it made."""
    from flows.training_view import job_view, output

    output().print(job_view(_jobs(config).get(job)))


@jobs_app.command()
def watch(job: Job, config: ConfigFile = None) -> None:
    """Show a job until it no longer runs."""
    from flows.training_view import follow, job_view, output

    console = output()
    last = follow(_jobs(config).watch(job), console)
    if last is not None and not console.is_terminal:
        console.print(job_view(last))


@jobs_app.command()
def cancel(
    job: Job,
    wait_s: Annotated[float, typer.Option(min=0, help="Seconds to wait until it has stopped.")] = 60.0,
    config: ConfigFile = None,
) -> None:
    """Stop a job after its current batch. Its checkpoints stay; nothing goes on with it until it is resumed."""
    stopped = _jobs(config).cancel(job, wait_s)
    typer.echo(f"{stopped.id}: {stopped.state} after {len(stopped.reports)} of {stopped.epochs} epochs")


def _jobs(config: Path | None) -> "TrainingJobs":
    from flows.dataset_place import open_resources
    from retrain.training.jobs import TrainingJobs
    from tasks.training_job import jobs_folder

    return TrainingJobs(jobs_folder(open_resources(config)))
