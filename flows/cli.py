"""The console script `retrain`. Heavy libraries are imported by the command that needs them, not at start."""

import sys
import time
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, cast

import typer

from flows.collect_app import collect_app
from flows.config_option import ConfigFile
from flows.dataset_app import dataset_app
from flows.evaluate_command import compare, evaluate
from flows.gate_app import gate_app
from flows.jobs_app import Job, jobs_app
from flows.ledger_app import ledger_app
from retrain.errors import PostConditionFailed, RetrainError

if TYPE_CHECKING:
    from deployments.stack import Stack
    from retrain.cycle import CycleRecord
    from tasks.resources import Resources

app = typer.Typer(
    name="retrain",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
cycle_app = typer.Typer(help="Retraining cycles: list, inspect, run or abandon.", no_args_is_help=True)
data_app = typer.Typer(help="The data of the repository's own pipeline (`dvc repro`).", no_args_is_help=True)
triggers_app = typer.Typer(help="What starts a retraining cycle, and when it would.")
app.add_typer(cycle_app, name="cycle")
app.add_typer(data_app, name="data")
app.add_typer(ledger_app, name="ledger")
app.add_typer(triggers_app, name="triggers")
app.add_typer(collect_app, name="collect")
app.add_typer(dataset_app, name="dataset")
app.add_typer(jobs_app, name="jobs")
app.command()(evaluate)
app.command()(compare)
app.add_typer(gate_app, name="gate")


def _show_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"retrain {version('retrain')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """Keeps production object detectors good: collect, label, version, retrain, evaluate, release, prove it."""


@app.command()
def demo(
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the stack running and print its addresses.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Another seed draws other pages, digits and drift.")] = 0,
) -> None:
    """Run the whole loop for real: drift, collect, label, retrain, evaluate, promote. About eight minutes."""
    from flows.demo_command import run_demo

    run_demo(keep=keep, seed=seed)


@app.command()
def up(config: ConfigFile = None) -> None:
    """Start the local stack: Prefect server, worker and MLflow, on this machine only."""
    from retrain.config import load_config
    from tasks.collection_rules import check_rules

    stack = _stack(config, writes=True)
    # Else only the scheduled watch would find out, in its log.
    check_rules(load_config())
    stack.up(say=typer.echo)
    _print_status(stack)


@app.command()
def down(config: ConfigFile = None) -> None:
    """Stop the local stack."""
    _stack(config, writes=True).down(say=typer.echo)


@app.command()
def status(config: ConfigFile = None) -> None:
    """Show which services answer; exit code 1 when one does not."""
    if not _print_status(_stack(config)):
        raise typer.Exit(1)


@app.command("config")
def show_config(config: ConfigFile = None) -> None:
    """Print every setting, its value and where the value came from."""
    from retrain.config import load_config
    from tasks.collection_rules import check_rules

    resolved = load_config(config)
    check_rules(resolved)
    _print_table(("setting", "value", "from"), resolved.rows())


@app.command()
def watch(config: ConfigFile = None) -> None:
    """Check the sample threshold once; announce a crossing."""
    _join_stack(config)
    from flows.watch import watch_flow

    typer.echo(watch_flow() or "no crossing")


@app.command()
def reconcile(config: ConfigFile = None) -> None:
    """Start cycles whose event was lost or whose process died."""
    _join_stack(config)
    from flows.reconcile import reconcile_flow

    typer.echo(", ".join(reconcile_flow()) or "nothing is missing")


@app.command()
def train(
    settings: Annotated[
        Path | None,
        typer.Option(
            "--config",
            help="Training settings such as configs/yolov8n.yaml; default: those of the section `training`.",
        ),
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="Dataset version to train on, such as v1.1.0.")] = None,
    gpus: Annotated[int | None, typer.Option(help="GPUs to share every batch; 0 trains on the CPU.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with this training; an error when there is none.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only check whether it would work; exit code 1 when not.")
    ] = False,
) -> None:
    """Train a model on a dataset version. The same again goes on with what was killed, or shows what is there."""
    _join_stack(None, quiet=True)
    from flows.train_command import check, settings_of
    from flows.train_command import train as run
    from flows.training_view import output

    resources = _resources(None)
    asked = settings_of(settings, dataset, gpus, resources)
    if dry_run:
        check(resources, asked, output())
    else:
        run(resources, asked, output(), resume=resume)


@jobs_app.command("resume")
def jobs_resume(job: Job, config: ConfigFile = None) -> None:
    """Go on with a job that was cancelled, failed or interrupted."""
    _join_stack(config, quiet=True)
    from flows.train_command import resume
    from flows.training_view import output

    resume(_resources(config), job, output())


@cycle_app.command("run")
def cycle_run(
    trigger: Annotated[str | None, typer.Option(help="Crossing to answer; default: a manual start.")] = None,
    config: ConfigFile = None,
) -> None:
    """Run a cycle in this process."""
    _join_stack(config)
    from flows.continuous_retraining import continuous_retraining_flow
    from flows.cycle_view import cycle_line
    from flows.own_server import interruptible
    from retrain.config import load_config
    from tasks.collection_rules import check_rules

    check_rules(load_config())

    with interruptible(
        "`retrain cycle list` names the cycle; `retrain cycle run --trigger` with its id, without `cycle-`, goes on "
        "with it."
    ):
        state = continuous_retraining_flow(trigger, return_state=True)
    if not state.is_completed():
        typer.echo(f"{state.name}: {state.message}")
        raise typer.Exit(1)
    # It is a state only where another process is at work, which is not completed.
    typer.echo(cycle_line(cast("CycleRecord", state.result())))


@cycle_app.command("first")
def cycle_first(
    version: Annotated[str, typer.Argument(help="An existing dataset version, such as v1.0.0.")],
    config: ConfigFile = None,
) -> None:
    """Train, register and route the first model of a detector that has none yet."""
    _join_stack(config)
    from flows.first_champion import first_champion_flow
    from flows.own_server import interruptible

    with interruptible("the same command again goes on from the last finished stage and checkpoint."):
        done = first_champion_flow(version)
    typer.echo(done["release"]["digest"])


@cycle_app.command("list")
def cycle_list(config: ConfigFile = None) -> None:
    """All cycles, newest last."""
    from flows.cycle_view import cycles_table
    from flows.training_view import output
    from retrain.cycle import list_cycles

    output().print(cycles_table(list_cycles(_resources(config).state)))


@cycle_app.command("show")
def cycle_show(cycle_id: str, config: ConfigFile = None) -> None:
    """The stages of a cycle that are proven done, what it trained on again, and its outcome."""
    from flows.cycle_view import show_cycle
    from flows.training_view import output

    show_cycle(_resources(config).state, cycle_id, output())


@cycle_app.command("verify")
def cycle_verify(cycle_id: str, config: ConfigFile = None) -> None:
    """Read the effect of every recorded stage back again; exit code 1 when one no longer holds."""
    from flows.cycle_view import proofs_table
    from flows.training_view import output
    from tasks.proofs import prove_cycle

    proofs = prove_cycle(_resources(config), cycle_id)
    output().print(proofs_table(proofs))
    if broken := [proof.stage for proof in proofs if not proof.holds]:
        raise PostConditionFailed(f"{cycle_id}: {', '.join(broken)} no longer as recorded.")


@cycle_app.command("abandon")
def cycle_abandon(cycle_id: str, config: ConfigFile = None) -> None:
    """Close a cycle that cannot go on. A promotion it left half done is taken back; its dataset version stays.

    Samples of which it made no dataset version wait again for another cycle.
    """
    from retrain.cycle import abandon_cycle, read_cycle
    from tasks.serving import restore_route

    resources = _resources(config)
    # The cycle may be of another model than the configured one.
    model = read_cycle(resources.state, cycle_id).model
    with resources.leases.acquire(f"cycle-{model}", ttl_s=30) as lease:
        closed = abandon_cycle(resources.state, cycle_id, time.time())
        typer.echo(f"{cycle_id}: {closed.status}")
        if closed.status == "abandoned":
            given_back = (closed.outcome or {}).get("samples_waiting_again", 0)
            typer.echo(f"{given_back} of its samples wait again")
        if (champion := restore_route(resources, model, lease, f"{cycle_id}-abandoned")) is not None:
            typer.echo(f"the route is back at {champion}")


@triggers_app.callback(invoke_without_command=True)
def triggers(context: typer.Context, config: ConfigFile = None) -> None:
    """Show what would start a cycle now, what not yet and why, and the last crossings."""
    if context.invoked_subcommand is not None:
        return
    from flows.training_view import output
    from flows.trigger_command import show_triggers

    show_triggers(_resources(config), output(), time.time())


@triggers_app.command("replay")
def triggers_replay(
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A setting of the trigger, e.g. threshold=300.")
    ] = None,
    since: Annotated[str | None, typer.Option(help="ISO time to begin at.")] = None,
    config: ConfigFile = None,
) -> None:
    """Replay the stored history under other settings: when would a cycle have started?"""
    from flows.training_view import output
    from flows.trigger_command import show_replay

    show_replay(_resources(config), output(), settings or [], since, time.time())


@data_app.command("restore")
def data_restore(
    folder: Annotated[Path | None, typer.Option(help="Repository with params.yaml and data.dvc.")] = None,
) -> None:
    """Make the seed data again, byte for byte as data.dvc records it."""
    from flows.pipeline import restore

    typer.echo(restore(folder))


def main() -> None:
    """Run the command; an error of ours is one line and exit code 1."""
    # Prefect says so when it is imported before the home folder is there. Where it cannot be made, ours is an error.
    warnings.filterwarnings("ignore", "Failed to create the Prefect home directory", UserWarning)
    try:
        app()
    except RetrainError as error:
        _fail(str(error))
    except OSError as error:
        # A folder or file that cannot be used is the user's to mend; anything else is a bug and shows its trace.
        if error.filename is None:
            raise
        _fail(f"Cannot use {error.filename}: {error.strerror}.")


def _fail(message: str) -> NoReturn:
    sys.stderr.write(f"error: {message}\n")
    sys.exit(1)


def _stack(config: Path | None, *, writes: bool = False) -> "Stack":
    from deployments.stack import Stack
    from retrain.config import load_config
    from retrain.environment import prepare, writable

    _name_config(config)
    settings = load_config(config).config
    return Stack(writable(prepare()) if writes else prepare(), settings)


def _resources(config: Path | None) -> "Resources":
    from tasks.resources import build_resources

    _name_config(config)
    return build_resources(None)


def _join_stack(config: Path | None, *, quiet: bool = False) -> None:
    """Talk to the running local stack; without one, Prefect runs the flow on a server of its own.

    Args:
        quiet: the log of the flow run is not repeated here.
    """
    import os

    if quiet:
        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    stack = _stack(config, writes=True)
    if any(service.name == "prefect" and service.state == "up" for service in stack.status()):
        os.environ.update(stack.environment())


def _name_config(config: Path | None) -> None:
    """Processes started from here must read the same file."""
    import os

    if config is not None:
        os.environ["RETRAIN_CONFIG"] = str(config.absolute())


def _print_status(stack: "Stack") -> bool:
    rows = stack.status()
    cells = [(row.name, row.state, str(row.pid or "-"), row.url or "-", str(row.log)) for row in rows]
    _print_table(("service", "state", "pid", "address", "log"), cells)
    return all(row.state == "up" for row in rows)


def _print_table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    """A line for each row. Nothing is cut: a terminal folds what is too wide, a pipe has no width."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        # As text, because markup would swallow a folder called [new].
        table.add_row(*map(Text, row))
    Console(width=None if sys.stdout.isatty() else 10_000).print(table)


if __name__ == "__main__":
    main()
