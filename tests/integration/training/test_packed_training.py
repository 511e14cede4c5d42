"""Training that reads packs: to the bit what the folders give, and balanced epochs that survive a kill."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from retrain.training.orchestrator import TrainingOrchestrator
from retrain.training.result import TrainingResult

CHILD = """
import json, os, signal, sys
from retrain.training.orchestrator import TrainingOrchestrator
def die(report):
    if report.epoch == 2:
        os.kill(os.getpid(), signal.SIGKILL)
TrainingOrchestrator(sys.argv[1]).train(json.loads(sys.argv[2]), die)
"""


def learned(result: TrainingResult) -> list[Any]:
    epochs = [(report.map50, report.map50_95, report.losses, report.lr) for report in result.epochs]
    return [result.weights_sha256, epochs]


def plain(config: dict[str, Any]) -> str:
    data = {"train_data": [str(place) for place in config["train_data"]], "val_data": str(config["val_data"])}
    return json.dumps({**config, **data})


@pytest.fixture(scope="module")
def balanced(
    packed_rectangles: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], TrainingResult]:
    config = {**packed_rectangles, "sampling": "balanced"}
    return config, TrainingOrchestrator(tmp_path_factory.mktemp("balanced")).train(config)


def test_training_from_packs_learns_what_training_from_folders_learns(
    named_rectangles: dict[str, Any], packed_rectangles: dict[str, Any], tmp_path: Path
) -> None:
    from_folders = TrainingOrchestrator(tmp_path / "folders").train(named_rectangles)

    from_packs = TrainingOrchestrator(tmp_path / "packs").train(packed_rectangles)

    assert learned(from_packs) == learned(from_folders)
    assert from_packs.job_id == from_folders.job_id


def test_a_balanced_training_that_was_killed_ends_with_the_same_bits(
    balanced: tuple[dict[str, Any], TrainingResult], packed_rectangles: dict[str, Any], tmp_path: Path
) -> None:
    config, uninterrupted = balanced
    environment = {**os.environ, "RETRAIN_HOME": str(tmp_path / "home"), "PYTHONPATH": str(Path.cwd())}
    command = [sys.executable, "-c", CHILD, str(tmp_path / "jobs"), plain(config)]
    killed = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL, killed.stderr

    resumed = TrainingOrchestrator(tmp_path / "jobs").train(config)

    assert resumed.resumed_from_epoch == 2
    assert learned(resumed) == learned(uninterrupted)
    assert resumed.resolved["sampling"] == "balanced"
    assert resumed.job_id != TrainingOrchestrator(tmp_path / "jobs").job_id(packed_rectangles)


def test_balanced_epochs_differ_from_uniform_ones(
    balanced: tuple[dict[str, Any], TrainingResult], packed_rectangles: dict[str, Any], tmp_path: Path
) -> None:
    uniform = TrainingOrchestrator(tmp_path).train({**packed_rectangles, "epochs": 1})

    assert uniform.epochs[0].losses != balanced[1].epochs[0].losses
