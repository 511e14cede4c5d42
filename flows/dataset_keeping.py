"""The `retrain dataset` commands that name, forget and tidy up; what they do is imported when they run."""

from typing import Annotated

import typer

from flows import dataset_options as given
from flows.config_option import ConfigFile


def tag(
    name: Annotated[str, typer.Argument(metavar="TAG", help="The new name, such as production.")],
    version: Annotated[
        str, typer.Argument(metavar="VERSION", help="What it means: a version, or another tag.")
    ],
    move: Annotated[bool, typer.Option("--move", help="Take it from the version that has it.")] = False,
    path: given.Folder = None,
    config: ConfigFile = None,
) -> None:
    """Give a version another name."""
    from flows.dataset_place import existing_datasets

    manager = existing_datasets(path, config)
    manager.tag(name, version, move=move)
    typer.echo(f"{name} is {manager.get_version(name).name}")


def untag(
    name: Annotated[str, typer.Argument(metavar="TAG", help="A name that `tag` gave.")],
    path: given.Folder = None,
    config: ConfigFile = None,
) -> None:
    """Take a tag away; versions stay."""
    from flows.dataset_place import existing_datasets

    existing_datasets(path, config).untag(name)
    typer.echo(f"{name} is no name of a version any more")


def gc(
    drafts_older_than: Annotated[
        float,
        typer.Option(min=0.0, metavar="DAYS", help="Drafts that nobody has touched for so long go, too."),
    ] = 30.0,
    path: given.Folder = None,
    config: ConfigFile = None,
) -> None:
    """Delete what no version uses: old drafts, and what killed commands left."""
    from flows.dataset_forget import collect_garbage
    from flows.dataset_place import existing_datasets

    collect_garbage(existing_datasets(path, config), drafts_older_than)


def forget(
    reason: Annotated[str, typer.Option(help="Kept for good, such as the number of the request.")],
    images: Annotated[
        list[str] | None,
        typer.Argument(metavar="IMAGE", help="Digest, its beginning, or an image file.", show_default=False),
    ] = None,
    where: given.Where = None,
    of: Annotated[str | None, typer.Option("--of", help="The version that --where is asked of.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say who saw them.")] = False,
    path: given.Folder = None,
    config: ConfigFile = None,
) -> None:
    """Keep images out of all future versions, and say which versions and released models saw them."""
    from flows.dataset_forget import forget_images
    from flows.dataset_place import open_resources

    forget_images(open_resources(config), images or [], where or [], of, path, reason=reason, dry_run=dry_run)
