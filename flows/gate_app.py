"""`retrain gate`: what decides whether a challenger becomes champion."""

from pathlib import Path
from typing import Annotated

import typer

from flows.config_option import ConfigFile

gate_app = typer.Typer(help="What decides whether a challenger becomes champion.", no_args_is_help=True)


@gate_app.command("replay")
def gate_replay(
    policy: Annotated[Path, typer.Option(help="Policy file; see docs/gate.md.")],
    cycle: Annotated[
        list[str] | None, typer.Option(help="Only this cycle; may be given again. Default: all of the model.")
    ] = None,
    config: ConfigFile = None,
) -> None:
    """Decide past cycles again under another policy, from the evaluations they stored. Nothing is changed by it."""
    from flows.dataset_place import open_resources, output
    from flows.gate_view import show_replayed
    from retrain.evaluation.policy import GatePolicy
    from tasks.gate_replay import replay_gate

    asked = GatePolicy.read(policy)
    show_replayed(replay_gate(open_resources(config), asked, cycle or ()), output())
