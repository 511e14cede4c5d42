"""Where the `retrain dataset` commands find the versions, and how they show that they are at work."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from retrain.config import load_config
from retrain.dataset.drafting.candidates import Progress as Report
from retrain.dataset.manager import DatasetManager
from retrain.errors import NotFound
from tasks.resources import Resources, build_resources

_AS_WIDE_AS_NEEDED = 10_000


def open_resources(config: Path | None) -> Resources:
    """The adapters of the configuration."""
    return build_resources(None if config is None else load_config(config).config)


def open_datasets(folder: Path | None, config: Path | None) -> DatasetManager:
    """The versions in a folder; without one, in the configured place."""
    return DatasetManager(folder) if folder is not None else open_resources(config).datasets


def existing_datasets(folder: Path | None, config: Path | None) -> DatasetManager:
    """`open_datasets` of a place where there is something already.

    Raises:
        NotFound: there is nothing.
    """
    manager = open_datasets(folder, config)
    if not (place := manager.repository.folder).joinpath(".dvc").is_dir():
        raise NotFound(
            f"There are no datasets in {place}. Check --path, or begin with `retrain dataset import v1.0.0 SOURCE`."
        )
    return manager


def output() -> Console:
    """Standard output. A terminal folds what is too wide; a pipe has no width, so nothing is cut there."""
    return Console(width=None if sys.stdout.isatty() else _AS_WIDE_AS_NEEDED, highlight=False)


def print_json(value: Any) -> None:
    """Valid JSON and nothing else, in ASCII, as nobody knows what the reader decodes."""
    sys.stdout.write(json.dumps(value, indent=2, allow_nan=False) + "\n")


@contextmanager
def progress_bar(console: Console | None = None) -> Iterator[Report | None]:
    """Something to hand over as `progress`: a bar for each step on a terminal, nothing elsewhere.

    Args:
        console: by default standard error, so that standard output stays what was asked for. Print when it is over:
            two streams on one terminal know nothing of each other.
    """
    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[of]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        yield _steps(bar)


def _steps(bar: Progress) -> Callable[[str, int, int], None]:
    shown: dict[str, TaskID] = {}

    def report(step: str, done: int, total: int) -> None:
        if step not in shown:
            for before in shown.values():
                bar.remove_task(before)
            shown.clear()
            shown[step] = bar.add_task(step, total=None, of="")
        # Where nothing can be said of how far it is, the bar only moves.
        if done:
            bar.update(shown[step], completed=done, total=total, of=f"{done:,}/{total:,}")

    return report
