"""The commands below `retrain collect`; what they do is imported when they run."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from flows.config_option import ConfigFile

if TYPE_CHECKING:
    from tasks.resources import Resources


class RunByDefault(TyperGroup):
    """`retrain collect frames/` means `retrain collect run frames/`: what is no command belongs to `run`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Insert the command that is meant."""
        if args and args[0] not in self.commands and args[0] != "--help":
            args = ["status" if "--watch" in args else "run", *args]
        return super().parse_args(ctx, args)


collect_app = typer.Typer(
    cls=RunByDefault,
    help="Collect frames from files, videos and cameras; options of `run` need no `run` before them. A folder called "
    "like a command is meant with ./ before it.",
    no_args_is_help=True,
    subcommand_metavar="[run] SOURCE... | drain | status | forget | retain",
)

Storage = Annotated[
    Path | None,
    typer.Option(help="Folder of spool, images and index; default: the configured store.", file_okay=False),
]


@collect_app.command("run")
def run(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE",
            help="A folder, a file, a glob, a camera's index, a stream's URL, or - for paths on standard input.",
            show_default=False,
        ),
    ],
    storage: Storage = None,
    strategy: Annotated[
        str | None, typer.Option(help="Which frames to take; default: as configured.")
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, help="Confidence below which `uncertainty` takes a frame."),
    ] = None,
    sample_rate: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Share of the frames that `random` takes.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="What predicts: a model folder, a release digest, or champion (the default if needed)."
        ),
    ] = None,
    camera: Annotated[
        str | None, typer.Option(help="Camera of all frames; default: named after the source.")
    ] = None,
    device: Annotated[str, typer.Option(help="Where the model runs: cpu, cuda or cuda:<index>.")] = "cpu",
    again: Annotated[bool, typer.Option("--again", help="Offer frames of earlier runs again.")] = False,
    config: ConfigFile = None,
) -> None:
    """Offer every frame to data collection; stopped anywhere, the same command goes on from there."""
    import os
    import sys

    from rich.console import Console

    from flows.collect_command import CollectOptions, run_collect

    options = CollectOptions(
        tuple(sources), storage, strategy, threshold, sample_rate, model, camera, device, again
    )
    stdin = map(os.fsdecode, sys.stdin.buffer)
    if run_collect(options, _resources(config), Console(), stdin=stdin).stopped:
        raise typer.Exit(130)


@collect_app.command("drain")
def drain(
    storage: Storage = None,
    follow: Annotated[bool, typer.Option("--follow", help="Go on until Ctrl-C.")] = False,
    config: ConfigFile = None,
) -> None:
    """Store what waits in the spool."""
    from rich.console import Console

    from flows.collect_drain import drain_and_follow, drain_once
    from flows.collect_place import existing_place

    place = existing_place(_resources(config), storage)
    (drain_and_follow if follow else drain_once)(place, Console())


@collect_app.command("status")
def status(
    storage: Storage = None,
    watch: Annotated[bool, typer.Option("--watch", help="Show it live until Ctrl-C.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="Serve Prometheus on this port of 127.0.0.1 until Ctrl-C."),
    ] = None,
    config: ConfigFile = None,
) -> None:
    """Show rates, ratios, queue and store of data collection."""
    from rich.console import Console

    from flows.collect_place import existing_place
    from flows.collect_status import monitor_of, show_status

    place = existing_place(_resources(config), storage)
    show_status(monitor_of(place), Console(), watch=watch, as_json=as_json, port=port)


@collect_app.command("forget")
def forget(
    samples: Annotated[
        list[str] | None, typer.Argument(metavar="SAMPLE", help="Ids of samples (digests of their images).")
    ] = None,
    camera: Annotated[list[str] | None, typer.Option(help="Everything of this camera until now.")] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(help="Every picture that this model took until now; it goes from other models, too."),
    ] = None,
    storage: Storage = None,
    reason: Annotated[str, typer.Option(help="Kept beside the ids of what was forgotten.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would go.")] = False,
    unseen: Annotated[
        bool,
        typer.Option("--unseen", help="Forget also what nothing was collected of, such as what never came."),
    ] = False,
    config: ConfigFile = None,
) -> None:
    """Delete samples for good: rows, labels, image bytes, copies; say what dataset versions still hold."""
    import time

    from rich.console import Console

    from flows.collect_place import existing_place
    from flows.forget_command import forget as forget_now

    forget_now(
        existing_place(_resources(config), storage),
        Console(),
        time.time(),
        samples or (),
        camera or (),
        model or (),
        reason=reason,
        dry_run=dry_run,
        unseen=unseen,
    )


@collect_app.command("retain")
def retain(storage: Storage = None, config: ConfigFile = None) -> None:
    """Delete the samples that data_collection.retention no longer keeps."""
    import time

    from rich.console import Console

    from flows.collect_place import existing_place
    from flows.forget_command import apply_retention
    from flows.trigger_command import show_shortages
    from tasks.retention import retention_policy

    resources, console, now = existing_place(_resources(config), storage), Console(), time.time()
    # Before they are deleted, it can still be said which of them no cycle used.
    show_shortages(resources, console, now)
    apply_retention(resources, console, retention_policy(resources.config), now)


def _resources(config: Path | None) -> "Resources":
    from retrain.config import load_config
    from tasks.resources import build_resources

    return build_resources(None if config is None else load_config(config).config)
