"""`retrain ledger`: what was in production when, and why."""

import time
from typing import Annotated

import typer

from flows.config_option import ConfigFile
from retrain.errors import BadInput, NotFound, PostConditionFailed

ledger_app = typer.Typer(help="What was in production when, and why.", no_args_is_help=True)


@ledger_app.command("list")
def ledger_list(config: ConfigFile = None) -> None:
    """Every entry, oldest first, after checking the hash chain."""
    from flows.dataset_place import open_resources

    resources = open_resources(config)
    check = resources.ledger.verify()
    for entry in resources.ledger.entries(resources.model):
        typer.echo(f"{entry.seq:>4}  {_utc(entry.at)}  {entry.kind:<22} {entry.hash[:12]}  {entry.payload}")
    if not check.intact:
        raise PostConditionFailed(f"The ledger was changed at entry {check.damaged}: {check.reason}")


@ledger_app.command("at")
def ledger_at(
    moment: Annotated[
        str, typer.Argument(help="ISO time, e.g. 2026-11-23T12:00:00; UTC unless it says otherwise.")
    ],
    config: ConfigFile = None,
) -> None:
    """What was the champion at a moment, and why."""
    from datetime import UTC, datetime

    from flows.dataset_place import open_resources

    try:
        parsed = datetime.fromisoformat(moment)
    except ValueError as error:
        raise BadInput(f"{moment!r} is not an ISO time such as 2026-11-23T12:00:00.") from error
    resources = open_resources(config)
    at = parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
    entry = resources.ledger.champion_at(resources.model, at.timestamp())
    if entry is None:
        raise NotFound(f"{resources.model} had no champion at {_utc(at.timestamp())} UTC.")
    typer.echo(f"{_utc(entry.at)}  {entry.kind}  {entry.payload}")


def _utc(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(moment))
