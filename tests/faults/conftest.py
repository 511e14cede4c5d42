"""A tiny world with a first champion, on a real Prefect server; each test gets a copy of its own."""

import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from prefect.settings import PREFECT_API_URL, temporary_settings

from deployments.stack import Stack, free_port
from flows.first_champion import first_champion_flow
from retrain.boxes import Annotations
from retrain.config import RetrainConfig
from retrain.data_collection.collector import DataCollectionService
from tasks.resources import Resources

SIZE = 64


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


def picture(number):
    """A frame with one bright square, and where it is."""
    rng = np.random.default_rng(number)
    pixels = rng.integers(0, 60, (SIZE, SIZE, 3), dtype=np.uint8)
    x, y = rng.integers(4, SIZE - 28, 2)
    pixels[y : y + 24, x : x + 24] = 220
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue(), Annotations.of([[x, y, x + 24, y + 24]], [number % 2])


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
    config = RetrainConfig.model_validate(
        {
            "model": {"name": "squares", "classes": ["even", "odd"]},
            "annotation": {"require_review": False},
            "dataset": {"splits": {"train": 0.4, "val": 0.3, "test": 0.3}},
            "training": {"image_size": SIZE, "batch_size": 8, "epochs": 1, "fine_tune_epochs": 2},
            "data_collection": {"strategy": "all", "retrain_threshold": 40},
            "evaluation": {"resamples": 200},
            "serving": {"poll_s": 0.2, "ack_timeout_s": 30},
        }
    )
    (home / "config.yaml").write_text(config.model_dump_json(), encoding="utf-8")
    before = os.environ.get("RETRAIN_HOME")
    os.environ["RETRAIN_HOME"] = str(home)
    try:
        resources = Resources(config, home)
        make_world(resources)
    finally:
        os.environ["RETRAIN_HOME"] = str(before)
    return home


def make_world(resources):
    frames = [picture(number) for number in range(48)]
    draft = resources.datasets.create_version(
        "v1.0.0", splits=resources.config.dataset.splits.model_dump(), classes=["even", "odd"]
    )
    resources.datasets.add_images(
        draft,
        [data for data, _ in frames],
        [boxes for _, boxes in frames],
        groups=[f"old-{number // 2}" for number in range(48)],
        sources=["seed"] * 48,
        metadata=[{}] * 48,
    )
    resources.datasets.commit_version("v1.0.0")
    first_champion_flow("v1.0.0", resources.config)
    service = DataCollectionService(
        resources.home, "all", blobs=resources.sample_blobs, state=resources.state, model="squares"
    )
    for number in range(100, 140):
        data, boxes = picture(number)
        prediction = {"boxes": boxes.boxes.tolist(), "classes": boxes.classes.tolist(), "scores": [0.5]}
        decision = service.collect(
            image=data,
            prediction=prediction,
            release="0" * 64,
            metadata={"camera_id": "c", "recording": f"new-{number // 2}", "captured_at": time.time()},
        )
        assert decision.taken, decision


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
