import json
import random
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from retrain.errors import BadInput, PostConditionFailed, StorageFull
from retrain.training.data import DetectionData
from retrain.training.job import TrainingJob
from retrain.training.orchestrator import TrainingOrchestrator
from retrain.training.overfit_check import check_overfit
from retrain.training.preflight_report import Check, PreflightReport
from retrain.training.probe import Batch, Probe
from retrain.training.reproducible import reproducible
from retrain.training.request import TrainingRequest

FOREVER = 3600.0


def probe_of(config: dict[str, Any], work: Path) -> Probe:
    job = TrainingJob.of(TrainingRequest.of(config), work, 1, mixed_precision=False)
    return Probe(job, DetectionData(job, "cpu", cache=False), "cpu", job.request.batch_size)


def overfit(config: dict[str, Any], work: Path) -> Check:
    with reproducible(config.get("seed", 0), threads=1):
        return check_overfit(probe_of(config, work), FOREVER)


def named(report: PreflightReport) -> dict[str, Check]:
    return {check.name: check for check in report.checks}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_right_setup_learns_a_batch_by_heart(seed: int, rectangles: dict[str, Any], tmp_path: Path) -> None:
    check = overfit({**rectangles, "seed": seed}, tmp_path)
    assert check.ok, check
    assert not check.warning


@pytest.mark.parametrize("seed", [0, 1])
def test_labels_that_do_not_belong_to_their_images_are_found(
    seed: int, rectangles: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, rng = Probe.step, torch.Generator().manual_seed(seed)

    def with_exchanged_labels(self: Probe, model: Any, optimizer: Any, batch: Batch) -> None:
        exchanged = torch.randperm(len(batch["img"]), generator=rng).float()[batch["batch_idx"].long()]
        order = exchanged.argsort(stable=True)
        labels = {key: batch[key][order] for key in ("cls", "bboxes")}
        step(self, model, optimizer, {**batch, **labels, "batch_idx": exchanged[order]})

    monkeypatch.setattr(Probe, "step", with_exchanged_labels)
    check = overfit({**rectangles, "seed": seed}, tmp_path)
    assert not check.ok, check
    assert "labels belong to the images" in check.said


def test_gradients_that_are_zero_are_found(
    rectangles: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = Probe.loss
    monkeypatch.setattr(Probe, "loss", lambda *given: loss(*given) * 0.0)
    monkeypatch.setattr("retrain.training.overfit_check._ratio", lambda *_: 0.1)
    check = overfit(rectangles, tmp_path)
    assert not check.ok
    assert "0 of" in check.said


def test_a_check_that_may_not_take_long_warns_instead(rectangles: dict[str, Any], tmp_path: Path) -> None:
    with reproducible(0, threads=1):
        check = check_overfit(probe_of(rectangles, tmp_path), limit_s=0.0)
    assert check.ok
    assert check.warning
    assert check.figures["steps"] == 1


def test_preflight_passes_and_changes_nothing(rectangles: dict[str, Any], tmp_path: Path) -> None:
    orchestrator = TrainingOrchestrator(tmp_path / "jobs")
    states = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())

    report = orchestrator.preflight(rectangles)

    assert report.ok, report
    report.raise_if_failed()
    assert list(named(report)) == ["labels", "separation", "overfit", "memory", "time", "disk"]
    assert states == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    assert not (tmp_path / "jobs").exists()
    assert PreflightReport.from_json(json.loads(json.dumps(report.to_json()))) == report
    figures = named(report)["memory"].figures
    assert figures["image cache bytes"] == 26 * 64 * 64 * 3
    # Weights, two moments, averaged weights and gradients of three million parameters, at the least.
    assert 5 * 3_000_000 * 4 < figures["step bytes"] < 2**31
    assert named(report)["disk"].figures["checkpoint bytes"] > 6 * 3_000_000 * 4


def test_preflight_of_a_training_is_kept_and_leaves_the_weights_as_they_would_be(
    rectangles: dict[str, Any], tmp_path: Path
) -> None:
    config = {**rectangles, "epochs": 1}
    without = TrainingOrchestrator(tmp_path / "without", export=()).train(config)
    checked = TrainingOrchestrator(tmp_path / "with", export=()).train(config, preflight=True)
    assert checked.weights_sha256 == without.weights_sha256
    stored = json.loads((checked.model_folder.parent / "preflight.json").read_bytes())
    assert stored["ok"] is True
    assert stored["job_id"] == checked.job_id


def test_every_failed_check_is_named_and_nothing_is_trained(
    rectangles: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = shutil.copytree(rectangles["train_data"][0], tmp_path / "train")
    validation = shutil.copytree(rectangles["val_data"], tmp_path / "val")
    shutil.copy(training / "images" / "0003.png", validation / "images" / "9.png")
    monkeypatch.setattr(
        "retrain.training.resource_checks.shutil.disk_usage", lambda _: SimpleNamespace(free=10)
    )
    monkeypatch.setattr("retrain.training.preflight.check_overfit", lambda *_: Check("overfit", True, "", {}))
    config = {**rectangles, "train_data": [training], "val_data": validation}

    with pytest.raises(PostConditionFailed, match=r"separation: 1 validation .*9\.png.* disk: .*Free some"):
        TrainingOrchestrator(tmp_path / "jobs").train(config, preflight=True)

    assert not list((tmp_path / "jobs").rglob("*.ckpt"))
    report = TrainingOrchestrator(tmp_path / "jobs").preflight(config, limit_hours=1e-9)
    assert [check.name for check in report.checks if not check.ok] == ["separation", "time", "disk"]
    assert "above the limit" in named(report)["time"].said


def test_memory_that_is_short_is_found_without_taking_it(
    rectangles: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retrain.training.preflight.check_overfit", lambda *_: Check("overfit", True, "", {}))
    monkeypatch.setattr("retrain.training.preflight.free_bytes", lambda _: 2**20)
    steps = []
    step = Probe.step
    monkeypatch.setattr(
        Probe, "step", lambda self, *given: steps.append(len(given[2]["img"])) or step(self, *given)
    )
    report = TrainingOrchestrator(tmp_path).preflight({**rectangles, "batch_size": 16})
    memory = named(report)["memory"]
    assert not memory.ok
    assert "lower batch_size" in memory.said
    assert steps == [2]
    assert named(report)["time"].warning


def test_data_that_cannot_be_read_fails_the_checks_that_need_it(
    rectangles: dict[str, Any], tmp_path: Path
) -> None:
    report = TrainingOrchestrator(tmp_path).preflight({**rectangles, "classes": ["red"]})
    failed = {check.name for check in report.checks if not check.ok}
    assert failed == {"labels", "overfit", "memory", "time", "disk"}
    assert "class 1; known are 0 to 0" in named(report)["labels"].said


def test_layers_that_are_frozen_are_told_apart_from_layers_that_do_not_learn(
    rectangles: dict[str, Any], tmp_path: Path
) -> None:
    tuned = TrainingOrchestrator(tmp_path, export=()).train({**rectangles, "epochs": 1}).model_folder
    check = overfit({**rectangles, "initial_weights": tuned, "freeze": 5}, tmp_path / "probe")
    assert check.ok, check
    assert check.figures["weight tensors to train"] < 180


@pytest.mark.parametrize(
    ("failed", "error"),
    [
        (["disk"], StorageFull),
        (["labels", "separation"], BadInput),
        (["labels", "memory"], PostConditionFailed),
    ],
)
def test_the_error_is_that_of_what_failed(failed: list[str], error: type[Exception]) -> None:
    checks = tuple(
        Check(name, name not in failed, f"about {name}.", {})
        for name in ("labels", "separation", "memory", "disk")
    )
    with pytest.raises(error, match=" ".join(f"{name}: about {name}." for name in failed)):
        PreflightReport("job", checks, 1.0).raise_if_failed()
