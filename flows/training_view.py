"""How a training job looks in a terminal, and as lines where there is none."""

import sys
import time
from collections.abc import Iterable

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from retrain.training.jobs import JobState, JobStatus
from retrain.training.result import EpochReport

_SHOWN_EPOCHS = 8
_STYLES = {
    JobState.RUNNING: "cyan",
    JobState.FINISHED: "green",
    JobState.CANCELLED: "yellow",
    JobState.FAILED: "red",
    JobState.INTERRUPTED: "yellow",
}


def follow(statuses: Iterable[JobStatus], console: Console) -> JobStatus | None:
    """Show a job until there is no more to come; returns how it was at last."""
    last: JobStatus | None = None
    if console.is_terminal:
        with Live(console=console, refresh_per_second=4) as live:
            for last in statuses:
                live.update(job_view(last))
        return last
    said = 0
    for last in statuses:
        for report in last.reports:
            if report.epoch > said:
                console.print(epoch_line(report), soft_wrap=True)
                said = report.epoch
    return last


def epoch_line(report: EpochReport) -> str:
    """One epoch, for a log."""
    losses = " ".join(f"{name} {value:.3f}" for name, value in report.losses.items())
    return (
        f"epoch {report.epoch}/{report.epochs}  mAP50 {report.map50:.4f}  mAP50-95 {report.map50_95:.4f}  {losses}  "
        f"{report.seconds:.1f} s  {report.images_per_s:.1f} images/s"
    )


def job_view(job: JobStatus) -> RenderableType:
    """State, how far it is, the last epochs and what is to be done next."""
    done = len(job.reports)
    head = Table.grid(padding=(0, 1))
    head.add_row(
        Text(str(job.settings.get("model", "")), style="bold"),
        f"on {job.dataset['name']}" if job.dataset else "",
        Text(job.state, style=_STYLES[job.state]),
        ProgressBar(total=job.epochs, completed=done, width=24),
        f"{done}/{job.epochs} epochs",
        _remaining(job),
    )
    parts: list[RenderableType] = [Text(f"job {job.id}", style="dim"), head]
    if job.reports:
        parts.append(_epochs(job))
    if job.error:
        parts.append(Text(job.error, style="red"))
    if job.model_folder:
        parts.append(Text(f"model {job.model_folder}"))
    return Group(*parts)


def jobs_table(jobs: Iterable[JobStatus]) -> Table:
    """One line for each job."""
    columns = ("job", "model", "dataset", "state", "epochs", "best mAP50-95", "started (UTC)")
    table = Table(*columns, box=None, pad_edge=False)
    for job in jobs:
        best = max((report.map50_95 for report in job.reports), default=None)
        started = job.started_at and time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(job.started_at))
        table.add_row(
            job.id,
            Text(str(job.settings.get("model", ""))),
            Text(job.dataset["name"] if job.dataset else "-"),
            Text(job.state, style=_STYLES[job.state]),
            f"{len(job.reports)}/{job.epochs}",
            "-" if best is None else f"{best:.4f}",
            started or "-",
        )
    return table


def output() -> Console:
    """Standard output; a pipe has no width, so nothing is cut there."""
    return Console(width=None if sys.stdout.isatty() else 10_000, highlight=False)


def _epochs(job: JobStatus) -> Table:
    names = list(job.reports[-1].losses)
    table = Table(
        "epoch", "mAP50", "mAP50-95", "precision", "recall", *names, "lr", "images/s", "s", box=None
    )
    best = max(job.reports, key=lambda report: report.map50_95).epoch
    for report in job.reports[-_SHOWN_EPOCHS:]:
        losses = [f"{report.losses[name]:.3f}" for name in names]
        scores = [f"{getattr(report, name):.4f}" for name in ("map50", "map50_95", "precision", "recall")]
        row = [str(report.epoch), *scores, *losses, f"{report.lr:.2g}", f"{report.images_per_s:.1f}"]
        table.add_row(*row, f"{report.seconds:.1f}", style="bold" if report.epoch == best else None)
    return table


def _remaining(job: JobStatus) -> str:
    if job.state is not JobState.RUNNING or not job.reports:
        return ""
    minutes, seconds = divmod(round(job.reports[-1].eta_s), 60)
    return f"about {minutes} min left" if minutes else f"about {seconds} s left"
