"""The commands below `retrain dataset`, and its one-shot form; what they do is imported when they run."""

from pathlib import Path
from typing import Annotated

import typer

from flows import dataset_keeping, dataset_making, dataset_moving, dataset_reading
from flows import dataset_options as given
from flows.config_option import ConfigFile
from retrain.errors import BadInput

dataset_app = typer.Typer(help="Dataset versions: make, look at, compare, check, share.")

for _name, _command in (
    ("create", dataset_making.create),
    ("add", dataset_making.add),
    ("commit", dataset_making.commit),
    ("import", dataset_making.import_),
    ("merge", dataset_making.merge),
    ("subset", dataset_making.subset),
    ("revert", dataset_making.revert),
    ("log", dataset_reading.log),
    ("lineage", dataset_reading.lineage),
    ("show", dataset_reading.show),
    ("stats", dataset_reading.stats),
    ("diff", dataset_reading.diff),
    ("check", dataset_reading.check),
    ("verify", dataset_reading.verify),
    ("seen", dataset_reading.seen),
    ("export", dataset_moving.export),
    ("checkout", dataset_moving.checkout),
    ("materialise", dataset_moving.materialise),
    ("push", dataset_moving.push),
    ("pull", dataset_moving.pull),
    ("clone", dataset_moving.clone),
    ("augment-preview", dataset_moving.augment_preview),
    ("tag", dataset_keeping.tag),
    ("untag", dataset_keeping.untag),
    ("forget", dataset_keeping.forget),
    ("gc", dataset_keeping.gc),
):
    dataset_app.command(_name)(_command)
dataset_app.add_typer(dataset_moving.remote_app, name="remote")


@dataset_app.callback(invoke_without_command=True)
def dataset(
    context: typer.Context,
    create_version: Annotated[
        str | None, typer.Option(metavar="NAME", help="Make this version in one go.")
    ] = None,
    add_data: Annotated[
        Path | None,
        typer.Option(metavar="SOURCE", help="Labelled images that it adds, as `import` takes them."),
    ] = None,
    splits: given.Splits = None,
    parent: given.Parent = None,
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
    """Dataset versions: make, look at, compare, check, share.

    `retrain dataset --create-version v1.1.0 --add-data ./annotations --splits 0.7,0.2,0.1` is `retrain dataset import
    v1.1.0 ./annotations --splits 0.7,0.2,0.1`. Other commands have their options behind their names.
    """
    given_here = _given(context)
    if context.invoked_subcommand is not None:
        if given_here:
            raise BadInput(f"Give {given_here[0]} after `{context.invoked_subcommand}`, not before it.")
        return
    if not given_here:
        typer.echo(context.get_help())
        return
    if create_version is None or add_data is None:
        raise BadInput("--create-version NAME and --add-data SOURCE belong together.")
    from flows.dataset_import import SourceOptions

    dataset_making.import_now(
        dataset_making.version_options(create_version, description, parent, splits, classes, gold=gold),
        SourceOptions(
            add_data, source_format, group_by, source_label, on_error, relabel, keep_splits, report, one_based
        ),
        waive,
        path,
        config,
    )


def _given(context: typer.Context) -> list[str]:
    """Options that were typed, as they are spelt."""
    return [
        parameter.opts[0]
        for parameter in context.command.params
        if parameter.name is not None
        and (source := context.get_parameter_source(parameter.name)) is not None
        and source.name == "COMMANDLINE"
    ]
