"""The `retrain dataset` commands that make versions; what they do is imported when they run."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows import dataset_options as given
from flows.config_option import ConfigFile

if TYPE_CHECKING:
    from flows.dataset_import import SourceOptions
    from flows.dataset_make import VersionOptions


def create(
    name: given.Name,
    parent: given.Parent = None,
    splits: given.Splits = None,
    description: given.Description = None,
    classes: given.Classes = None,
    gold: given.Gold = False,
    path: given.Folder = None,
    config: ConfigFile = None,
) -> None:
    """Begin a draft, which nobody sees before it is committed."""
    from flows.dataset_make import create as begin
    from flows.dataset_place import open_datasets, output

    begin(
        open_datasets(path, config),
        version_options(name, description, parent, splits, classes, gold=gold),
        output(),
    )


def add(
    name: given.Name,
    source: given.Source,
    source_format: given.FormatOfSource = None,
    group_by: given.GroupBy = None,
    source_label: given.SourceLabel = None,
    on_error: given.OnError = "raise",
    relabel: given.Relabel = False,
    keep_splits: given.KeepSplits = True,
    report: given.Report = None,
    one_based: given.OneBased = False,
    path: given.Folder = None,
    config: ConfigFile = None,
) -> None:
    """Add labelled images to a draft; adding the same again changes nothing."""
    from flows.dataset_import import SourceOptions
    from flows.dataset_make import add as add_files
    from flows.dataset_place import existing_datasets, output

    files = SourceOptions(
        source, source_format, group_by, source_label, on_error, relabel, keep_splits, report, one_based
    )
    add_files(existing_datasets(path, config), name, files, output())


def commit(
    name: given.Name,
    waive: given.Waive = None,
    path: given.Folder = None,
    config: ConfigFile = None,
) -> None:
    """Make a draft a version: splits, leak check, storage, tag. Killed anywhere, the same command goes on."""
    from flows.dataset_make import commit as end
    from flows.dataset_place import existing_datasets, output

    end(existing_datasets(path, config), name, waive, output())


def import_(
    name: given.Name,
    source: given.Source,
    parent: given.Parent = None,
    splits: given.Splits = None,
    description: given.Description = None,
    classes: given.Classes = None,
    gold: given.Gold = False,
    waive: given.Waive = None,
    source_format: given.FormatOfSource = None,
    group_by: given.GroupBy = None,
    source_label: given.SourceLabel = None,
    on_error: given.OnError = "raise",
    relabel: given.Relabel = False,
    keep_splits: given.KeepSplits = True,
    report: given.Report = None,
    one_based: given.OneBased = False,
    path: given.Folder = None,
    config: ConfigFile = None,
) -> None:
    """Create, add and commit in one."""
    from flows.dataset_import import SourceOptions

    import_now(
        version_options(name, description, parent, splits, classes, gold=gold),
        SourceOptions(
            source, source_format, group_by, source_label, on_error, relabel, keep_splits, report, one_based
        ),
        waive,
        path,
        config,
    )


def merge(
    name: given.Name,
    first: Annotated[str, typer.Argument(metavar="A", help="Version whose classes come first.")],
    second: Annotated[str, typer.Argument(metavar="B", help="Version whose images are added.")],
    class_map: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FROM=TO|FILE",
            help="Class of B and what it is called in the new version; nothing after = drops it. Or a YAML file of "
            "such pairs. Every class of B must be said; by default classes of the same name are the same.",
        ),
    ] = None,
    description: given.Description = None,
    waive: given.Waive = None,
    path: given.Folder = None,
    config: ConfigFile = None,
) -> None:
    """Make a version with the images of two."""
    from flows.dataset_arguments import read_class_map
    from flows.dataset_make import show_made
    from flows.dataset_place import existing_datasets, output

    manager = existing_datasets(path, config)
    made = manager.merge(name, first, second, read_class_map(class_map or []), description, waive)
    show_made(manager, made, output())


def subset(
    name: given.Name,
    of: Annotated[str, typer.Argument(metavar="OF", help="Version to take images from.")],
    where: given.Where = None,
    description: given.Description = None,
    path: given.Folder = None,
    config: ConfigFile = None,
) -> None:
    """Make a version with only the images that meet all conditions."""
    from flows.dataset_make import show_made
    from flows.dataset_place import existing_datasets, output

    manager = existing_datasets(path, config)
    show_made(manager, manager.subset(name, of, where or [], description), output())


def revert(
    name: given.Name,
    to: Annotated[str, typer.Option("--to", help="Version whose images and labels are wanted again.")],
    description: given.Description = None,
    path: given.Folder = None,
    config: ConfigFile = None,
) -> None:
    """Make a version that is as an older one was; those between stay."""
    from flows.dataset_make import show_made
    from flows.dataset_place import existing_datasets, output

    manager = existing_datasets(path, config)
    show_made(manager, manager.revert(name, to, description), output())


def import_now(
    options: "VersionOptions",
    source: "SourceOptions",
    waive: str | None,
    path: Path | None,
    config: Path | None,
) -> None:
    """Make a version of labelled files, and print it."""
    from flows.dataset_make import import_files
    from flows.dataset_place import open_datasets, output

    import_files(open_datasets(path, config), options, source, waive, output())


def version_options(
    name: str,
    description: str | None,
    parent: str | None,
    splits: str | None,
    classes: str | None,
    *,
    gold: bool,
) -> "VersionOptions":
    """What was typed, understood."""
    from flows.dataset_arguments import read_classes, read_fractions
    from flows.dataset_make import VersionOptions

    return VersionOptions(name, description, parent, read_fractions(splits), read_classes(classes), gold)
