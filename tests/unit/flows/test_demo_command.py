"""What `retrain demo` may delete, and what the services it starts inherit."""

import os
import subprocess
import sys
from types import SimpleNamespace
from unittest import mock

import pytest

from flows import demo_command
from retrain.environment import switches
from retrain.errors import Conflict


@pytest.fixture
def outer(tmp_path):
    """The home around the demo's, with its switches set, as importing `flows` does."""
    variables = {**switches(tmp_path), "RETRAIN_HOME": str(tmp_path)}
    with mock.patch.dict(os.environ, variables):
        os.environ.pop("PREFECT_LOGGING_LEVEL", None)
        yield tmp_path


@pytest.fixture
def seen(monkeypatch, tmp_path):
    """The environment at each start of services, and what else the demo would run, replaced."""
    environments = []

    class Stack:
        prefect_url = mlflow_url = "http://127.0.0.1"

        def __init__(self, home, config):
            pass

        def up(self, names=None, say=print):
            environments.append(dict(os.environ))

        def down(self, say=print):
            pass

        def environment(self):
            return {}

    (tmp_path / "r.json").touch()
    result = SimpleNamespace(report_json=str(tmp_path / "r.json"), report_html="r.html", failures=())
    monkeypatch.setattr("deployments.stack.Stack", Stack)
    monkeypatch.setitem(sys.modules, "flows.demo", SimpleNamespace(demo_flow=lambda *_: result))
    monkeypatch.setattr("retrain.monitoring.report.LoopReport.from_json", lambda _: None)
    monkeypatch.setattr("retrain.monitoring.terminal.terminal_summary", lambda _: "")
    return environments


def test_services_of_the_demo_live_in_its_home_and_log_what_prefect_logs(outer, seen):
    demo_command.run_demo(keep=True, seed=3)

    assert len(seen) == 2, "at the start, and once more to keep all of them"
    for environment in seen:
        assert environment["RETRAIN_HOME"] == str(outer / "demo")
        assert switches(outer / "demo").items() <= environment.items()
        assert "PREFECT_LOGGING_LEVEL" not in environment


def test_prefect_imported_by_the_demo_logs_errors_only():
    code = """
import logging, os
from flows.demo_command import _quiet_prefect
with _quiet_prefect():
    from prefect import flow
from prefect.logging import get_logger
enabled = [get_logger(name).isEnabledFor(level) for name in ("flow_runs", "task_runs") for level in (30, 40)]
print(enabled, os.environ.get("PREFECT_LOGGING_LEVEL"))
"""
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_LOGGING_LEVEL"}

    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, timeout=60
    )

    assert done.stdout.strip() == "[False, True, False, True] None"


def test_a_level_that_the_user_chose_stays(monkeypatch):
    monkeypatch.setenv("PREFECT_LOGGING_LEVEL", "DEBUG")

    with demo_command._quiet_prefect():
        assert os.environ["PREFECT_LOGGING_LEVEL"] == "DEBUG"
    assert os.environ["PREFECT_LOGGING_LEVEL"] == "DEBUG"


def test_a_folder_that_no_demo_made_is_left_alone(outer, seen):
    (outer / "demo").mkdir()
    (outer / "demo" / "thesis.txt").write_text("years of work")

    with pytest.raises(Conflict, match=f"{outer / 'demo'} holds files that no demo made.*RETRAIN_HOME"):
        demo_command.run_demo(keep=False, seed=0)

    assert (outer / "demo" / "thesis.txt").read_text() == "years of work"
    assert seen == []


def test_a_demo_starts_from_nothing_where_a_demo_was(outer, seen):
    demo_command.run_demo(keep=False, seed=0)
    (outer / "demo" / "blobs").mkdir()
    (outer / "demo" / "blobs" / "old").write_text("of the last demo")
    os.environ["RETRAIN_HOME"] = str(outer)

    demo_command.run_demo(keep=False, seed=0)

    assert not (outer / "demo" / "blobs").exists()
    assert {entry.name for entry in (outer / "demo").iterdir()} == {
        ".retrain-demo",
        "demo.lock",
        "config.yaml",
    }


@pytest.mark.parametrize(
    ("below", "name", "shown"),
    [(True, "home", "home/demo"), (False, "home", "{0}/home/demo"), (True, "my home", "'my home/demo'")],
)
def test_it_ends_with_how_to_look_on_in_its_home(tmp_path, seen, monkeypatch, capsys, below, name, shown):
    monkeypatch.setenv("RETRAIN_HOME", str(tmp_path / name))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path if below else tmp_path / "elsewhere")
    monkeypatch.setenv("COLUMNS", "40")

    with mock.patch.dict(os.environ):
        demo_command.run_demo(keep=False, seed=0)

    said = f"look on: RETRAIN_HOME={shown.format(tmp_path)} retrain cycle list"
    assert capsys.readouterr().out.splitlines()[-1] == said
