"""The `retrain dataset` commands that bring versions elsewhere; what they do is imported when they run."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from flows import dataset_options as given
from flows.config_option import ConfigFile

remote_app = typer.Typer(help="Where `push` and `pull` go.", no_args_is_help=True)


def export(
    name: given.Existing,
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="A new or empty folder.", file_okay=False)],
    target_format: Annotated[Literal["coco", "yolo", "voc"], typer.Option("--format")],
    split: given.OfSplit = None,
    one_based: given.OneBased = False,
    path: given.Folder = None,
    config: ConfigFile = None,
) -> None:
    """Write a version as files for other tools; what was written is read back."""
    from flows.dataset_move import export_version
    from flows.dataset_place import existing_datasets

    export_version(existing_datasets(path, config), name, target, target_format, split, one_based=one_based)


def checkout(name: given.Existing, path: given.Folder = None, config: ConfigFile = None) -> None:
    """Show a version's manifest and packs in the folder itself; the next commit shows the newest again."""
    from flows.dataset_place import existing_datasets

    manager = existing_datasets(path, config)
    typer.echo(f"{manager.repository.folder} shows {manager.checkout(name).name}")


def materialise(
    name: given.Existing,
    target: Annotated[
        Path, typer.Argument(metavar="TARGET", help="Folder that keeps these folders.", file_okay=False)
    ],
    split: Annotated[
        str | None, typer.Option(help="Only this split; default: all, each in its folder.")
    ] = None,
    path: given.Folder = None,
    config: ConfigFile = None,
) -> None:
    """Lay a version out as Ultralytics trains on it (data.yaml, images, labels), and print the folder.

    It is made once per content, and shares image files with the others in TARGET; they are read-only.
    """
    from flows.dataset_move import lay_out
    from flows.dataset_place import existing_datasets

    lay_out(existing_datasets(path, config), name, target, split)


@remote_app.command("add")
def remote_add(
    url: Annotated[str, typer.Argument(metavar="URL", help="s3://bucket/prefix, or a folder.")],
    endpoint_url: Annotated[str | None, typer.Option(help="Address of a store other than AWS.")] = None,
    name: Annotated[str, typer.Option(help="What DVC calls it.")] = "store",
    replace: Annotated[bool, typer.Option("--replace", help="Also if it is another place now.")] = False,
    path: given.Folder = None,
    config: ConfigFile = None,
) -> None:
    """Set the remote, for this folder and every clone. Credentials come from the environment only."""
    from flows.dataset_move import add_remote
    from flows.dataset_place import open_datasets

    add_remote(open_datasets(path, config), name, url, endpoint_url, replace=replace)


def push(
    git_remote: Annotated[
        str | None, typer.Option(help="Git address or remote to send the history to as well.")
    ] = None,
    path: given.Folder = None,
    config: ConfigFile = None,
) -> None:
    """Send the data of every version to the remote."""
    from flows.dataset_move import push_all
    from flows.dataset_place import existing_datasets

    push_all(existing_datasets(path, config), git_remote)


def pull(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Versions or tags; default: all.")
    ] = None,
    path: given.Folder = None,
    config: ConfigFile = None,
) -> None:
    """Bring the data of versions from the remote."""
    from flows.dataset_move import pull_data
    from flows.dataset_place import existing_datasets

    pull_data(existing_datasets(path, config), names or None)


def clone(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="Git address of another copy.")],
    path: given.Folder = None,
    config: ConfigFile = None,
) -> None:
    """Copy the history of another copy to here; `pull` then brings the data."""
    from flows.dataset_move import clone_history
    from flows.dataset_place import open_datasets

    clone_history(source, open_datasets(path, config).repository.folder)


def augment_preview(
    name: given.Existing,
    output: Annotated[Path, typer.Option("--output", "-o", help="PNG file.", dir_okay=False)],
    pipeline: Annotated[
        Path | None,
        typer.Option(
            help="YAML list of steps; default: dataset.augmentation_pipeline.",
            dir_okay=False,
            show_default=False,
        ),
    ] = None,
    images: Annotated[int, typer.Option(min=1, help="How many images.")] = 4,
    variants: Annotated[int, typer.Option(min=1, help="How many augmented variants of each.")] = 4,
    seed: Annotated[int, typer.Option(help="Another seed augments otherwise.")] = 0,
    image_size: Annotated[
        int | None,
        typer.Option(
            min=1, help="Longer side, px; default: training.image_size, as the trainer augments them."
        ),
    ] = None,
    path: given.Folder = None,
    config: ConfigFile = None,
) -> None:
    """Draw training images beside augmented variants of them."""
    from flows.dataset_place import existing_datasets
    from flows.dataset_preview import draw_preview, read_request

    request = read_request(pipeline, image_size, config)
    draw_preview(existing_datasets(path, config), name, output, request, images, variants, seed)
