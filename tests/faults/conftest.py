"""A tiny world with a first champion, on a real Prefect server; each test gets a copy of its own."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from deployments.stack import Stack, free_port
from retrain.config import RetrainConfig
from tasks.resources import Resources
from tests.small_world import make_world, small_config


@dataclass(frozen=True)
class Ended:
    """How a cycle's process ended, and what it printed."""

    returncode: int
    output: str


class Driver:
    """The parent process of `driver.py`."""

    def __init__(self, folder):
        self._folder = folder
        self._process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("driver.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._outputs = {}

    def start(self, trigger, point="none", **environment):
        output = str(self._folder / f"{len(self._outputs)}.log")
        environment = {"RETRAIN_HOME": os.environ["RETRAIN_HOME"], **environment}
        command = {"start": trigger, "point": point, "environment": environment, "output": output}
        pid = self._ask(command)["pid"]
        self._outputs[pid] = output
        return pid

    def wait(self, pid):
        code = self._ask({"wait": pid})["code"]
        return Ended(code, Path(self._outputs[pid]).read_text(encoding="utf-8"))

    def run(self, trigger, point="none", **environment):
        return self.wait(self.start(trigger, point, **environment))

    def close(self):
        self._process.stdin.close()
        self._process.wait(timeout=30)

    def _ask(self, command):
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


@pytest.fixture(scope="session")
def prefect_server():
    """A Prefect server without a worker: these tests start their own processes."""
    with tempfile.TemporaryDirectory(prefix="retrain-faults-") as folder:
        ports = {"prefect_port": free_port(), "mlflow_port": free_port()}
        stack = Stack(Path(folder), RetrainConfig.model_validate({"orchestration": ports}))
        before = dict(os.environ)
        try:
            stack.up(("prefect",), say=lambda _: None)
            os.environ.update(stack.environment() | {"RETRAIN_HOME": before["RETRAIN_HOME"]})
            # Prefect read its settings when it was imported.
            with temporary_settings(updates={PREFECT_API_URL: stack.api_url}):
                yield stack.api_url
        finally:
            os.environ.clear()
            os.environ.update(before)
            stack.down(say=lambda _: None)


@pytest.fixture(scope="session")
def first_world(prefect_server, tmp_path_factory):
    """Dataset v1.0.0, a champion trained on it, and forty waiting samples."""
    home = tmp_path_factory.mktemp("world") / "home"
    home.mkdir()
    config = RetrainConfig.model_validate(small_config())
    (home / "config.yaml").write_text(config.model_dump_json(), encoding="utf-8")
    before = os.environ.get("RETRAIN_HOME")
    os.environ["RETRAIN_HOME"] = str(home)
    try:
        resources = Resources(config, home)
        make_world(resources)
    finally:
        os.environ["RETRAIN_HOME"] = str(before)
    return home


@pytest.fixture(scope="session")
def driver(prefect_server, tmp_path_factory):
    parent = Driver(tmp_path_factory.mktemp("driver"))
    yield parent
    parent.close()


@pytest.fixture
def world(first_world, tmp_path):
    """A copy of the first world, in the environment of this process and of those it starts."""
    home = tmp_path / "home"
    shutil.copytree(first_world, home)
    before = os.environ["RETRAIN_HOME"]
    os.environ["RETRAIN_HOME"] = str(home)
    config = RetrainConfig.model_validate_json((home / "config.yaml").read_text(encoding="utf-8"))
    yield Resources(config, home)
    os.environ["RETRAIN_HOME"] = before
