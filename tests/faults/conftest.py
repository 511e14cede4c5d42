"""A tiny world with a first champion, and one after a cycle, on a real Prefect server; each test gets a copy."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

import tasks.thresholds
from deployments.stack import Stack, free_port
from retrain.config import RetrainConfig
from retrain.data_collection.triggers.crossings import record_crossing
from retrain.detector import Detector
from retrain.serving.router import Router
from tasks.resources import Resources
from tests.faults.driver import FEWEST
from tests.small_world import WAITING, make_world, small_config


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


@contextmanager
def living_in(home):
    """The world there, in the environment of this process and of those it starts."""
    before = os.environ["RETRAIN_HOME"]
    os.environ["RETRAIN_HOME"] = str(home)
    fewest, tasks.thresholds.FEWEST = tasks.thresholds.FEWEST, FEWEST
    config = RetrainConfig.model_validate_json((home / "config.yaml").read_text(encoding="utf-8"))
    try:
        yield Resources(config, home)
    finally:
        os.environ["RETRAIN_HOME"], tasks.thresholds.FEWEST = before, fewest


@pytest.fixture(scope="session")
def first_home(prefect_server, tmp_path_factory):
    """Dataset v1.0.0, a champion trained on it, and forty waiting samples."""
    home = tmp_path_factory.mktemp("first") / "home"
    home.mkdir()
    config = RetrainConfig.model_validate(small_config())
    (home / "config.yaml").write_text(config.model_dump_json(), encoding="utf-8")
    with living_in(home) as world:
        make_world(world)
    return home


@pytest.fixture(scope="session")
def driver(prefect_server, tmp_path_factory):
    parent = Driver(tmp_path_factory.mktemp("driver"))
    yield parent
    parent.close()


@pytest.fixture(scope="session")
def finished_home(first_home, driver, tmp_path_factory):
    """The first world after a cycle whose gate the driver forced open."""
    home = shutil.copytree(first_home, tmp_path_factory.mktemp("finished") / "home")
    with (
        living_in(home) as world,
        Router("squares", world.routes, world.releases, Detector.load, replica="r1", poll_s=0.2),
    ):
        ended = driver.run(record_crossing(world.state, "squares", WAITING, time.time()).id)
    assert ended.returncode == 0, ended.output
    return home


@pytest.fixture
def world(first_home, tmp_path):
    with living_in(shutil.copytree(first_home, tmp_path / "home")) as world:
        yield world


@pytest.fixture
def finished_world(finished_home, tmp_path):
    with living_in(shutil.copytree(finished_home, tmp_path / "home")) as world:
        yield world
