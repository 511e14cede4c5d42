"""What the commands do that ask the sample ledger, forget images and tidy up."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import typer
from rich.console import Console
from rich.text import Text

from flows.dataset_ledger import Seen, find_images, seen_by
from flows.dataset_place import output, print_json
from flows.dataset_view import table_of
from retrain.dataset.manager import DatasetManager
from retrain.dataset.report.wording import counted
from tasks.resources import Resources


def show_who_saw(resources: Resources, texts: Sequence[str], folder: Path | None, *, as_json: bool) -> None:
    """Which versions have the images, and which released models saw them."""
    manager = _datasets(resources, folder)
    seen = seen_by(manager, resources.releases, find_images(manager, texts, (), None))
    if as_json:
        print_json(
            {
                "images": seen.splits,
                "models": [asdict(use) for use in seen.models],
                "unreadable": seen.unreadable,
            }
        )
        return
    console = output()
    rows = [
        (image[:16], version, split)
        for image, places in seen.splits.items()
        for version, split in places.items()
    ]
    if rows:
        console.print(table_of(("image", "version", "split"), rows))
    for image in (image for image, places in seen.splits.items() if not places):
        typer.echo(f"no version has {image}")
    _show_models(console, seen)


def forget_images(
    resources: Resources,
    texts: Sequence[str],
    conditions: Sequence[str],
    of: str | None,
    folder: Path | None,
    *,
    reason: str,
    dry_run: bool,
) -> None:
    """Say who saw the images, then keep them out of every future version and out of drafts.

    Raises:
        BadInput: no image is named, or no reason.
    """
    manager, console = _datasets(resources, folder), output()
    images = find_images(manager, texts, conditions, of)
    # Said first: should this be killed half-way, nobody could say it of the drafts afterwards.
    _show_affected(console, seen_by(manager, resources.releases, images))
    if dry_run:
        typer.echo(f"{counted(len(images), 'image')} would be forgotten")
        return
    new = manager.forget(images, reason)
    before = f", {len(images) - len(new)} were before" if len(new) < len(images) else ""
    typer.echo(f"{counted(len(new), 'image')} forgotten{before}; future versions are made without them")
    purged = manager.purge(images)
    for draft, pictures in purged.drafts.items():
        typer.echo(f"{counted(pictures, 'image')} taken out of the draft {draft}")
    if purged.packs:
        typer.echo(f"{counted(purged.packs, 'file')} with packs of no version deleted")
    pages = resources.pages_with(images)
    for page in pages:
        page.unlink()
    if pages:
        typer.echo(f"{counted(len(pages), 'page')} of cycles that show them deleted")


def collect_garbage(manager: DatasetManager, drafts_older_than_days: float) -> None:
    """Delete what no version uses, and say what it was."""
    gone = manager.gc(drafts_older_than_days)
    said = [f"draft {name}" for name in gone.drafts]
    if gone.files:
        said.append(f"{counted(gone.files, 'file')} of {gone.bytes:,} bytes that no version uses")
    if gone.pictures:
        said.append(f"{counted(gone.pictures, 'file')} of perceptual hashes")
    typer.echo(f"deleted: {', '.join(said) or 'nothing'}")


def _show_affected(console: Console, seen: Seen) -> None:
    by_version = seen.by_version()
    if by_version:
        splits = list(dict.fromkeys(split for counts in by_version.values() for split in counts))
        rows = [(name, *(str(counts[split]) for split in splits)) for name, counts in by_version.items()]
        console.print(table_of(("still in version", *splits), rows, numbers=splits))
    else:
        typer.echo("no version has any of them")
    _show_models(console, seen)
    if by_version:
        said = (
            "Versions never change: these copies stay, and models trained on them have learnt from them. To get rid of "
            "both, train a model on a version made from now on."
        )
        console.print(Text(said, style="yellow"))


def _show_models(console: Console, seen: Seen) -> None:
    if seen.models:
        rows = [(use.release[:16], use.version, use.made_by, use.to_text()) for use in seen.models]
        console.print(table_of(("released model", "of version", "made by", "with these images"), rows))
    else:
        typer.echo("no released model saw any of them")
    for release, why in seen.unreadable.items():
        console.print(Text(f"not known of release {release[:16]}: {why}", style="yellow"))


def _datasets(resources: Resources, folder: Path | None) -> DatasetManager:
    return resources.datasets if folder is None else DatasetManager(folder)
