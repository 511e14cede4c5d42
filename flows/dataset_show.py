"""What the commands do that show dataset versions."""

from collections.abc import Callable, Sequence
from pathlib import Path

import typer
from rich.text import Text

from flows.dataset_place import output, print_json, progress_bar
from flows.dataset_view import (
    info_json,
    log_table,
    quality_lines,
    version_json,
    version_line,
    version_table,
    waiver_lines,
)
from retrain.dataset.history.history import VersionInfo
from retrain.dataset.manager import DatasetManager
from retrain.dataset.quality.checks import version_quality
from retrain.dataset.report.samples import choose_samples
from retrain.dataset.report.terminal import statistics_view
from retrain.dataset.stats import dataset_statistics
from retrain.dataset.version import DatasetVersion
from retrain.errors import BadInput, NotFound, PostConditionFailed

_SAMPLES = 24
_SAMPLES_OF_A_CHANGE = 12


def show_infos(infos: Sequence[VersionInfo], *, as_json: bool) -> None:
    """The log, or a part of it."""
    if as_json:
        print_json([info_json(info) for info in infos])
    elif not infos:
        typer.echo("no version yet")
    else:
        output().print(log_table(infos))


def show_version(manager: DatasetManager, name: str, *, as_json: bool) -> None:
    """One version's header, counts and waivers."""
    version = manager.get_version(name)
    info = next(info for info in manager.log() if info.name == version.name)
    if as_json:
        print_json(version_json(version, info))
    else:
        output().print(version_table(version, info))


def show_statistics(manager: DatasetManager, name: str, html: Path | None, *, as_json: bool) -> None:
    """Statistics as tables or JSON, and as a page where one is wanted."""
    version = manager.get_version(name)
    statistics = dataset_statistics(version)
    if html is not None:
        from retrain.dataset.report.page import stats_page

        samples = manager.images(version, choose_samples(version.items, _SAMPLES))
        html.write_text(stats_page(statistics, samples), encoding="utf-8")
    if as_json:
        print_json(statistics.to_json())
        return
    output().print(statistics_view(statistics))
    _say_written(html)


def show_diff(manager: DatasetManager, before: str, after: str, html: Path | None, *, as_json: bool) -> None:
    """A change as lines or JSON, and as a page where one is wanted."""
    old, new = manager.get_version(before), manager.get_version(after)
    change = manager.diff(before, after)
    if html is not None:
        from retrain.dataset.report.page import diff_page

        added, relabelled = (
            manager.images(
                new, choose_samples([new.by_image[image] for image in images], _SAMPLES_OF_A_CHANGE)
            )
            for images in (change.added, change.relabelled)
        )
        html.write_text(diff_page(change, old, new, added, relabelled), encoding="utf-8")
    if as_json:
        print_json(change.to_json())
        return
    output().print(Text(change.to_text()))
    _say_written(html)


def show_quality(manager: DatasetManager, name: str, examples: int, *, as_json: bool) -> None:
    """The quality report and the accepted leaks.

    Raises:
        PostConditionFailed: there are errors, after they were printed.
    """
    version = manager.get_version(name)
    report = version_quality(version, _is_here(manager, version))
    if as_json:
        print_json({**report.to_json(), "waived": waiver_lines(version)})
    else:
        lines = [
            *quality_lines(report, version, examples),
            *(f"leak waived: {line}" for line in waiver_lines(version)),
        ]
        output().print(Text("\n".join(lines)))
    if errors := report.counts_by_severity["error"]:
        raise PostConditionFailed(f"{version.name} has {errors} errors.")


def show_verified(manager: DatasetManager, name: str | None) -> None:
    """Re-hash one version or all, and print which are whole.

    Raises:
        PostConditionFailed: some are not, after everything that is damaged or missing was printed.
    """
    names = manager.versions() if name is None else [name]
    if not names:
        typer.echo("no version yet")
    console, damaged, whole = output(), [], set[str]()
    for one in names:
        try:
            with progress_bar() as progress:
                version = manager.verify(one, progress, whole)
        except (BadInput, NotFound) as problem:
            if name is not None and isinstance(problem, NotFound):
                raise
            damaged.append(one)
            state = "is not all here" if "not on this machine" in str(problem) else "is damaged"
            console.print(Text(f"{one} {state}\n{problem}", style="red"))
        else:
            console.print(Text(f"{one} is whole: {version_line(version).partition(': ')[2]}"))
    if damaged:
        raise PostConditionFailed(
            f"{', '.join(damaged)} cannot be read whole; pull them from a remote, or restore them."
        )


def _is_here(manager: DatasetManager, version: DatasetVersion) -> Callable[[str], bool]:
    def is_here(pack: str) -> bool:
        try:
            return manager.pack_file(version, pack).exists()
        except NotFound:
            return False

    return is_here


def _say_written(file: Path | None) -> None:
    if file is not None:
        typer.echo(f"\nwritten: {file}")
