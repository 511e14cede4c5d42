"""The `retrain dataset` commands that show versions; what they do is imported when they run."""

from typing import Annotated

import typer

from flows import dataset_options as given
from flows.config_option import ConfigFile


def log(as_json: given.AsJson = False, path: given.Folder = None, config: ConfigFile = None) -> None:
    """List all versions, newest first."""
    from flows.dataset_place import existing_datasets
    from flows.dataset_show import show_infos

    show_infos(existing_datasets(path, config).log(), as_json=as_json)


def lineage(
    name: given.Existing,
    as_json: given.AsJson = False,
    path: given.Folder = None,
    config: ConfigFile = None,
) -> None:
    """List a version and those it was made from, newest first."""
    from flows.dataset_place import existing_datasets
    from flows.dataset_show import show_infos

    show_infos(existing_datasets(path, config).lineage(name), as_json=as_json)


def show(
    name: given.Existing,
    as_json: given.AsJson = False,
    path: given.Folder = None,
    config: ConfigFile = None,
) -> None:
    """Show what a version says of itself, with every leak that was waived."""
    from flows.dataset_place import existing_datasets
    from flows.dataset_show import show_version

    show_version(existing_datasets(path, config), name, as_json=as_json)


def stats(
    name: given.Existing,
    html: given.Html = None,
    as_json: given.AsJson = False,
    path: given.Folder = None,
    config: ConfigFile = None,
) -> None:
    """Show classes, sizes, label quality and coverage of a version."""
    from flows.dataset_place import existing_datasets
    from flows.dataset_show import show_statistics

    show_statistics(existing_datasets(path, config), name, html, as_json=as_json)


def diff(
    before: Annotated[str, typer.Argument(metavar="A", help="The older version.")],
    after: Annotated[str, typer.Argument(metavar="B", help="The newer version.")],
    html: given.Html = None,
    as_json: given.AsJson = False,
    path: given.Folder = None,
    config: ConfigFile = None,
) -> None:
    """Show what changed from one version to another."""
    from flows.dataset_place import existing_datasets
    from flows.dataset_show import show_diff

    show_diff(existing_datasets(path, config), before, after, html, as_json=as_json)


def check(
    name: given.Existing,
    examples: Annotated[int, typer.Option(min=0, help="How many issues of each kind to show.")] = 3,
    as_json: given.AsJson = False,
    path: given.Folder = None,
    config: ConfigFile = None,
) -> None:
    """Look for labels, images and classes that cannot be right; exit code 1 when there are errors."""
    from flows.dataset_place import existing_datasets
    from flows.dataset_show import show_quality

    show_quality(existing_datasets(path, config), name, examples, as_json=as_json)


def verify(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="A version, or a tag of one; default: all versions."),
    ] = None,
    path: given.Folder = None,
    config: ConfigFile = None,
) -> None:
    """Read every byte again, and name each damaged or missing object; exit code 1 when there is one."""
    from flows.dataset_place import existing_datasets
    from flows.dataset_show import show_verified

    show_verified(existing_datasets(path, config), name)


def seen(
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGE", help="Digest, its beginning, or an image file.")
    ],
    as_json: given.AsJson = False,
    path: given.Folder = None,
    config: ConfigFile = None,
) -> None:
    """Say which versions have an image, in which split, and which released models saw it."""
    from flows.dataset_forget import show_who_saw
    from flows.dataset_place import open_resources

    show_who_saw(open_resources(config), images, path, as_json=as_json)
