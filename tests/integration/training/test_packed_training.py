"""Training that reads packs: to the bit what the folders give; balanced and augmented epochs survive a kill."""

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


PIPELINE = [
    {"step": "flip", "probability": 0.5},
    {"step": "affine", "probability": 0.7},
    {"step": "mixup", "probability": 0.3},
]


@pytest.fixture(scope="module", params=[{"sampling": "balanced"}, {"augmentation_pipeline": PIPELINE}])
def changed(
    request: pytest.FixtureRequest,
    packed_rectangles: dict[str, Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[dict[str, Any], TrainingResult]:
    """A configuration whose epochs see other images than plain ones, and what it learnt."""
    config = {**packed_rectangles, **request.param}
    return config, TrainingOrchestrator(tmp_path_factory.mktemp("changed"), export=()).train(config)


def test_training_from_packs_learns_what_training_from_folders_learns(
    named_rectangles: dict[str, Any], packed_rectangles: dict[str, Any], tmp_path: Path
) -> None:
    from_folders = TrainingOrchestrator(tmp_path / "folders", export=()).train(named_rectangles)

    from_packs = TrainingOrchestrator(tmp_path / "packs", export=()).train(packed_rectangles)

    assert learned(from_packs) == learned(from_folders)
    assert from_packs.job_id == from_folders.job_id


def test_a_balanced_or_augmented_training_that_was_killed_ends_with_the_same_bits(
    changed: tuple[dict[str, Any], TrainingResult], packed_rectangles: dict[str, Any], tmp_path: Path
) -> None:
    config, uninterrupted = changed
    environment = {**os.environ, "RETRAIN_HOME": str(tmp_path / "home"), "PYTHONPATH": str(Path.cwd())}
    command = [sys.executable, "-c", CHILD, str(tmp_path / "jobs"), plain(config)]
    killed = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL, killed.stderr

    resumed = TrainingOrchestrator(tmp_path / "jobs", export=()).train(config)

    assert resumed.resumed_from_epoch == 2
    assert learned(resumed) == learned(uninterrupted)
    assert set(config) - set(packed_rectangles) <= set(resumed.resolved)
    assert resumed.job_id != TrainingOrchestrator(tmp_path / "jobs").job_id(packed_rectangles)


def test_balanced_and_augmented_epochs_differ_from_plain_ones(
    changed: tuple[dict[str, Any], TrainingResult], packed_rectangles: dict[str, Any], tmp_path: Path
) -> None:
    plain_epoch = (
        TrainingOrchestrator(tmp_path, export=()).train({**packed_rectangles, "epochs": 1}).epochs[0]
    )

    assert plain_epoch.losses != changed[1].epochs[0].losses
