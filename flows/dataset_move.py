"""What the commands do that bring dataset versions elsewhere."""

import time
from collections.abc import Sequence
from pathlib import Path

import typer

from flows.dataset_place import progress_bar
from retrain.dataset.formats.registry import write_dataset
from retrain.dataset.manager import DatasetManager
from retrain.dataset.reading.materialise import materialise
from retrain.dataset.repository.dvc_repository import DvcRepository


def export_version(
    manager: DatasetManager,
    name: str,
    target: Path,
    target_format: str,
    splits: Sequence[str] | None,
    *,
    one_based: bool,
) -> None:
    """Write files in another format, and say where."""
    version = manager.get_version(name)
    with progress_bar() as progress:
        if progress is not None:
            progress("writing files and reading them back", 0, 0)
        write_dataset(version, manager, target, target_format, splits, one_based=one_based)
    images = sum(splits is None or item.split in splits for item in version.items)
    typer.echo(f"{target}: {images} images of {version.name} as {target_format}")


def lay_out(manager: DatasetManager, name: str, target: Path, split: str | None) -> None:
    """Print the folder and nothing else, so that a script can use it."""
    with progress_bar() as progress:
        folder = materialise(manager.get_version(name), manager, split, target, progress)
    typer.echo(folder)


def add_remote(
    manager: DatasetManager, name: str, url: str, endpoint_url: str | None, *, replace: bool
) -> None:
    """Also before there is a version."""
    manager.repository.init(time.time())
    manager.repository.add_remote(name, url, endpoint_url, replace=replace)
    typer.echo(f"{name} is {url}; `retrain dataset push` sends the versions there")


def push_all(manager: DatasetManager, git_remote: str | None) -> None:
    """Data first, then the history, so that nobody sees a version whose data is not there."""
    with progress_bar() as progress:
        if progress is not None:
            progress("sending", 0, 0)
        manager.repository.push(git_remote)
    history = f", and the history to {git_remote}" if git_remote is not None else ""
    typer.echo(f"sent the data of {len(manager.versions())} versions{history}")


def pull_data(manager: DatasetManager, names: Sequence[str] | None) -> None:
    """Of all versions, or of some."""
    with progress_bar() as progress:
        if progress is not None:
            progress("fetching", 0, 0)
        manager.repository.pull(names)
    typer.echo(f"the data of {', '.join(names or manager.versions()) or 'no version'} is here")


def clone_history(source: str, folder: Path) -> None:
    """Git's part; DVC's is pulled."""
    cloned = DatasetManager(DvcRepository.clone(source, folder).folder)
    typer.echo(
        f"{folder} has the history of {len(cloned.versions())} versions; "
        f"`retrain dataset pull --path {folder}` brings the data"
    )
