"""The console script as a person meets it: exit codes, one-line errors, and what it needs around it."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from unittest import mock

import pytest
from sqlalchemy import insert

from flows.cli import main
from retrain.config import RetrainConfig
from retrain.cycle import open_cycle, read_cycle
from retrain.data_collection.triggers.crossings import record_crossing, select_samples
from retrain.serving.route import RouteStore
from retrain.storage.leases import LeaseManager
from retrain.storage.schema import aliases
from retrain.storage.state import open_state
from tasks.proofs import Proof
from tasks.resources import Resources
from tests.unit.data_collection.conftest import png_bytes
from tests.unit.data_collection.stored_rows import store_many

CHECKOUT = Path(__file__).resolve().parents[2]
COMMANDS = (
    "",
    "demo",
    "up",
    "down",
    "status",
    "config",
    "watch",
    "reconcile",
    "cycle",
    "cycle first",
    "cycle run",
    "cycle list",
    "cycle show",
    "cycle verify",
    "cycle abandon",
    "data",
    "data restore",
    "collect",
    "collect run",
    "collect drain",
    "collect status",
    "collect forget",
    "collect retain",
    "dataset",
    "dataset create",
    "dataset add",
    "dataset commit",
    "dataset import",
    "dataset merge",
    "dataset subset",
    "dataset revert",
    "dataset log",
    "dataset lineage",
    "dataset show",
    "dataset stats",
    "dataset diff",
    "dataset check",
    "dataset verify",
    "dataset seen",
    "dataset export",
    "dataset checkout",
    "dataset materialise",
    "dataset push",
    "dataset pull",
    "dataset clone",
    "dataset augment-preview",
    "dataset tag",
    "dataset untag",
    "dataset forget",
    "dataset gc",
    "dataset remote",
    "dataset remote add",
    "train",
    "evaluate",
    "compare",
    "jobs",
    "jobs list",
    "jobs show",
    "jobs watch",
    "jobs cancel",
    "jobs resume",
    "triggers",
    "triggers replay",
    "ledger",
    "ledger list",
    "ledger at",
    "gate",
    "gate replay",
)


@pytest.fixture
def home(tmp_path):
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def retrain(capfd):
    """Run a command here, as the console script does; a process for each would take a second."""

    def run(arguments: str, home: Path | str, **environment: str) -> Done:
        variables = mock.patch.dict(os.environ, surroundings(home, environment), clear=True)
        with variables, mock.patch.object(sys, "argv", ["retrain", *arguments.split()]):
            with pytest.raises(SystemExit) as end:
                main()
            code = int(end.value.code or 0)
        return Done(code, *capfd.readouterr())

    return run


def process(arguments: str, home: Path | str, **environment: str | None) -> Done:
    """Run a command as a process of its own, in the root folder."""
    done = subprocess.run(
        [sys.executable, "-c", "from flows.cli import main; main()", *arguments.split()],
        env=surroundings(home, {"PYTHONPATH": str(CHECKOUT), "PYTHONDONTWRITEBYTECODE": "1", **environment}),
        cwd="/",
        capture_output=True,
        text=True,
        timeout=60,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def surroundings(home: Path | str, changed: Mapping[str, str | None]) -> dict[str, str]:
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("RETRAIN_", "PREFECT_"))
    }
    everything = {**kept, "COLUMNS": "200", "RETRAIN_HOME": str(home), **changed}
    return {name: value for name, value in everything.items() if value is not None}


def assert_one_error_line(done, *parts: str) -> None:
    assert done.returncode == 1, (done.stdout, done.stderr)
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    for part in parts:
        assert part in lines[0]


def test_help_of_every_command_works_and_imports_no_heavy_library():
    # One process for all: what any of them imported is seen at the end.
    code = f"""
import json, sys
from flows import cli
def commands(app, prefix=()):
    yield " ".join(prefix)
    for one in app.registered_commands:
        yield " ".join((*prefix, one.name or one.callback.__name__))
    for group in app.registered_groups:
        yield from commands(group.typer_instance, (*prefix, group.name))
codes = {{}}
for command in {COMMANDS!r}:
    sys.argv = ["retrain", *command.split(), "--help"]
    try:
        cli.main()
    except SystemExit as end:
        codes[command] = end.code
heavy = {{"torch", "prefect", "mlflow", "dvc", "ultralytics", "lightning", "sklearn", "numpy", "sqlalchemy"}}
print(json.dumps([codes, sorted(commands(cli.app)), sorted(heavy & set(sys.modules))]), file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, timeout=60, check=True
    )
    codes, known, imported = json.loads(done.stderr.splitlines()[-1])

    assert codes == dict.fromkeys(COMMANDS, 0)
    assert known == sorted(COMMANDS), "this test must list every command"
    assert imported == []
    assert done.stdout.count("Usage: ") == len(COMMANDS)


def test_help_works_as_a_process_from_anywhere(home):
    done = process("--help", home)

    assert done.returncode == 0
    assert all(command in done.stdout for command in ("demo", "status", "ledger"))


@pytest.mark.parametrize(
    ("arguments", "text", "parts"),
    [
        ("config", "training:\n  epoch: 5\n", ("config.yaml:2", "training.epochs")),
        ("status", "training: 5\n", ("training",)),
        ("config", "- a\n", ("must hold sections",)),
        ("config", "a: [\n", ("is not YAML",)),
        ("cycle list", "storage: {state_url: 'mysql://h/d'}\n", ("mysql",)),
    ],
)
def test_a_mistake_in_the_configuration_is_one_line(home, arguments, text, parts, retrain):
    (home / "config.yaml").write_text(text, encoding="utf-8")

    assert_one_error_line(retrain(arguments, home), *parts)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ("config --config /nowhere/c.yaml", ("/nowhere/c.yaml", "--config")),
        ("cycle show cycle-none", ("'cycle-none'", "retrain cycle list")),
        ("cycle abandon cycle-none", ("'cycle-none'",)),
        ("cycle verify cycle-none", ("'cycle-none'",)),
        ("ledger at yesterday", ("'yesterday'", "2026-11-23T12:00:00")),
        ("ledger at 2020-01-01", ("detector had no champion at 2020-01-01",)),
        ("data restore --folder /nowhere", ("params.yaml", "/nowhere")),
        ("gate replay --policy /nowhere/p.yaml", ("No policy at /nowhere/p.yaml",)),
    ],
)
def test_what_does_not_exist_or_cannot_be_read_is_one_line(home, arguments, parts, retrain):
    assert_one_error_line(retrain(arguments, home), *parts)


def test_a_policy_is_checked_before_any_cycle_is_decided_again(home, retrain):
    policy = home / "policy.yaml"
    policy.write_text("must_improve: [{metric: map50}]\n", encoding="utf-8")
    done = retrain(f"gate replay --policy {policy}", home)
    assert (done.returncode, done.stderr) == (0, "")
    assert "No cycle stored evaluations" in done.stdout
    policy.write_text("must_improve: [{metrics: map50}]\n", encoding="utf-8")
    assert_one_error_line(
        retrain(f"gate replay --policy {policy}", home), "must_improve.0.metrics", "did you mean 'metric'"
    )


def test_a_configuration_file_named_by_the_environment_but_missing_is_one_line(home, retrain):
    assert_one_error_line(retrain("status", home, RETRAIN_CONFIG="/nowhere/c.yaml"), "/nowhere/c.yaml")


def test_a_taken_port_is_one_line_that_names_the_setting(home, retrain):
    with socket.socket() as occupant:
        occupant.bind(("127.0.0.1", 0))
        occupant.listen()
        port = occupant.getsockname()[1]

        done = retrain("up", home, RETRAIN_ORCHESTRATION__PREFECT_PORT=str(port))

    assert done.returncode == 1
    assert done.stderr == (
        f"error: Port {port} is taken. Stop what uses it, or set orchestration.prefect_port "
        "(or RETRAIN_ORCHESTRATION__PREFECT_PORT) to a free port.\n"
    )


@pytest.mark.parametrize(
    "arguments",
    ["up", "down", "watch", "reconcile", "cycle run", "cycle list", "ledger list", "demo"],
)
def test_a_home_that_cannot_be_written_is_one_line_that_says_what_to_set(arguments, retrain):
    assert_one_error_line(retrain(arguments, "/proc/nope"), "/proc/nope", "Set RETRAIN_HOME")


def test_a_home_that_is_a_file_is_one_line(tmp_path, retrain):
    (tmp_path / "file").write_text("")

    assert_one_error_line(
        retrain("up", tmp_path / "file"), "Cannot write to the home folder", "Set RETRAIN_HOME"
    )
    assert_one_error_line(retrain("status", tmp_path / "file"), "Cannot use", str(tmp_path / "file"))


def test_an_argument_that_does_not_exist_is_a_usage_error(home, retrain):
    done = retrain("status --what", home)

    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_config_shows_every_value_and_its_source(home, retrain):
    (home / "config.yaml").write_text("training:\n  patience: 3\n", encoding="utf-8")

    done = retrain("config", home, RETRAIN_TRAINING__EPOCHS="5")

    rows = {line.split()[0]: line.rstrip().split(maxsplit=2)[1:] for line in done.stdout.splitlines()}
    assert done.returncode == 0
    assert rows["training.epochs"] == ["5", "environment RETRAIN_TRAINING__EPOCHS"]
    assert rows["training.patience"] == ["3", f"{home}/config.yaml:2"]
    assert rows["training.batch_size"] == ["16", "default"]


def test_what_is_piped_is_never_cut(tmp_path, retrain):
    deep = tmp_path / ("long-name-" * 9) / "[new]"
    deep.mkdir(parents=True)
    variable = "RETRAIN_DATA_COLLECTION__NEAR_DUPLICATES__MAX_DIFFERENCE"

    shown = retrain("config", deep, COLUMNS="80", **{variable: "3.5", "RETRAIN_STORAGE__BLOBS_URL": "blobs"})
    states = retrain("status", deep, COLUMNS="80")

    rows = [line.split(maxsplit=2) for line in shown.stdout.splitlines()]
    found = {key: (value, source.rstrip()) for key, value, source in rows}
    assert found["data_collection.near_duplicates.max_difference"] == ("3.5", f"environment {variable}")
    assert found["storage.blobs_url"] == (f'"{deep}/blobs"', "environment RETRAIN_STORAGE__BLOBS_URL")
    logs = [line.split()[-1] for line in states.stdout.splitlines()[1:]]
    assert logs == [f"{deep}/logs/{name}.log" for name in ("prefect", "worker", "mlflow")]


@pytest.mark.parametrize("arguments", ["config", "up"])
def test_rules_that_cannot_be_built_are_reported_before_anything_starts(home, arguments, retrain):
    text = "data_collection: {strategy: rare_class, trigger: {timezone: Mars}}\n"
    (home / "config.yaml").write_text(text, encoding="utf-8")

    done = retrain(arguments, home)

    assert (done.returncode, done.stdout) == (1, "")
    zone, strategy = done.stderr.splitlines()
    assert zone.startswith(
        f"error: {home}/config.yaml:1: data_collection.trigger.timezone: Unknown time zone 'Mars'."
    )
    assert strategy == (
        f"{home}/config.yaml:1: data_collection.strategy: The collection strategy 'rare_class' needs targets."
    )
    assert not (home / "run").exists()


def test_a_command_that_imports_prefect_says_nothing_of_prefects_own_folder(tmp_path):
    assert_one_error_line(process("triggers", "/proc/nope"), "/proc/nope", "Set RETRAIN_HOME")

    done = process("triggers", tmp_path / "new")
    assert (done.returncode, done.stderr) == (0, "")


def test_status_of_a_stack_that_is_down_exits_with_one_and_writes_nothing(tmp_path, retrain):
    done = retrain("status", tmp_path / "new")

    assert done.returncode == 1
    assert [line.split()[:2] for line in done.stdout.splitlines()[1:]] == [
        ["prefect", "down"],
        ["worker", "down"],
        ["mlflow", "down"],
    ]
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("user_home", [None, "/proc/nope"])
def test_it_works_without_a_usable_user_home_and_from_any_folder(home, user_home):
    for arguments, code in (("status", 1), ("cycle list", 0)):
        done = process(arguments, home, HOME=user_home)

        assert done.returncode == code, done.stderr
        assert done.stderr == ""


@pytest.fixture
def state(home):
    store = open_state(f"sqlite:///{home / 'state.db'}")
    yield store
    store.close()


def begun(state, model, trigger):
    """A cycle whose process has died."""
    with LeaseManager(state).acquire(f"cycle-{model}", 30) as lease:
        return open_cycle(state, model, trigger, "c", lease)


def test_a_live_cycle_of_a_model_that_is_not_configured_is_not_abandoned(home, state, retrain):
    with LeaseManager(state).acquire("cycle-plates", 30) as lease:
        cycle = open_cycle(state, "plates", "plates-samples-1", "c", lease)

        done = retrain(f"cycle abandon {cycle.id}", home)

    assert_one_error_line(done, "lease 'cycle-plates' is active")
    assert read_cycle(state, cycle.id).status == "running"


def test_abandoning_takes_back_the_promotion_of_the_cycle_s_own_model_and_frees_its_samples(
    home, state, retrain
):
    store_many(state, 2, model="plates")
    cycle = begun(state, "plates", "plates-samples-1")
    select_samples(state, "plates", cycle.id, limit=10)
    champion, half_promoted = "a" * 64, "b" * 64
    RouteStore(state).initialise("plates", half_promoted, 1.0)
    row = {"model": "plates", "alias": "champion", "digest": champion, "version": "1", "revision": 1}
    with state.write() as connection:
        connection.execute(insert(aliases).values(**row, moved_at=1.0))

    done = retrain(f"cycle abandon {cycle.id}", home)

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"{cycle.id}: abandoned",
        "2 of its samples wait again",
        f"the route is back at {champion}",
    ]
    assert RouteStore(state).get("plates").control == champion


def test_a_first_cycle_is_abandoned_although_there_is_no_champion_to_go_back_to(home, state, retrain):
    cycle = begun(state, "detector", "detector-first")

    done = retrain(f"cycle abandon {cycle.id}", home)

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{cycle.id}: abandoned", "0 of its samples wait again"]


def test_a_promoted_cycle_without_records_of_its_stages_is_not_verified(home, state, retrain):
    with LeaseManager(state).acquire("cycle-detector", 30) as lease:
        cycle = open_cycle(state, "detector", "detector-samples-1", "c", lease)
        fitted = {"rule": "f1", "images": 0, "otherwise": 0.25, "confidences": {"[/]": 0.5}}
        cycle.stage("thresholds", {}, lambda: fitted)
        cycle.finish("promoted", {})

    done = retrain(f"cycle verify {cycle.id}", home)

    assert done.returncode == 1
    assert "'[/]': 0.5" in done.stdout
    assert "plan, select, annotate, version, layout, train" in done.stderr


def test_a_pipe_gets_ids_and_what_was_found_whole(home, state, retrain, monkeypatch):
    """Whatever the width of the terminal is that the pipe was typed in."""
    cycle = begun(state, "detector", f"detector-{'very-long-' * 4}1")
    model = f"detector-{'very-long-' * 4}2"
    store_many(state, 4, model=model)
    crossing = record_crossing(state, model, 4, 0.0)
    proof = Proof("report", True, f"{home}/{'folder/' * 20}page.html")
    monkeypatch.setattr("tasks.proofs.prove_cycle", lambda *_: [proof])
    (home / "config.yaml").write_text(json.dumps({"model": {"name": model}}))

    shown = [
        retrain(arguments, home, COLUMNS="40").stdout
        for arguments in ("cycle list", f"cycle verify {cycle.id}", "triggers")
    ]

    for whole, output in zip((cycle.id, proof.said, crossing.id), shown, strict=True):
        assert any(whole in line.split() for line in output.splitlines()), output


def test_retention_warns_when_it_keeps_fewer_samples_than_a_cycle_needs(home, retrain):
    settings = {"strategy": "all", "retrain_threshold": 100, "retention": {"max_bytes": 2000}}
    resources = Resources(RetrainConfig.model_validate({"data_collection": settings}), home)
    (home / "config.yaml").write_text(resources.config.model_dump_json(), encoding="utf-8")
    with resources.collection_service(background=False) as service:
        for number in range(3):
            service.collect(image=png_bytes(number), confidence=0.5)
        service.flush()
    resources.state.close()

    done = retrain("collect retain", home)

    assert done.returncode == 0, done.stderr
    assert "too few for the threshold of 100 samples." in done.stdout
    assert "samples deleted" in done.stdout


def test_it_says_its_version(retrain, home):
    shown = retrain("--version", home)

    assert (shown.returncode, shown.stdout) == (0, f"retrain {version('retrain')}\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("train --config {0}/good.yaml --dataset v9", "'v9' not found"),
        ("train --config {0}/good.yaml", "Give --dataset"),
        ("train --config {0}/none.yaml --dataset v1.0.0", "There is no file"),
        ("train --config {0}/typo.yaml --dataset v1.0.0", "did you mean 'epochs'?"),
        ("train --config {0}/list.yaml --dataset v1.0.0", "must hold settings"),
        ("train --config {0}/broken.yaml --dataset v1.0.0", "is not yaml"),
        ("train --config {0}/good.yaml --dataset v1.0.0 --gpus 64", "num_gpus is 64, but torch sees"),
        ("jobs show abc", "There is no training job abc"),
        ("jobs watch abc", "There is no training job abc"),
        ("jobs cancel abc", "There is no training job abc"),
        ("jobs resume abc", "There is no training job abc"),
    ],
)
def test_a_training_or_job_that_cannot_be_is_one_line(arguments, said, home, tmp_path, retrain):
    for name, text in (
        ("good", "epochs: 2\n"),
        ("typo", "epoch: 2\n"),
        ("list", "- epochs\n"),
        ("broken", "epochs: [\n"),
    ):
        (tmp_path / f"{name}.yaml").write_text(text)

    assert_one_error_line(retrain(arguments.format(tmp_path), home), said)
