import json
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from retrain.detector import Detector, StoredModel
from retrain.errors import BadInput, ConfigError, Conflict, PostConditionFailed
from retrain.storage.local_blobs import LocalBlobs
from retrain.training.checkpoints import CheckpointManager, Position
from retrain.training.draws import EpochBatches
from retrain.training.orchestrator import TrainingOrchestrator
from retrain.training.result import EpochReport, TrainingResult
from retrain.training.validation import Scores
from retrain.training.weights import write_model_folder

CHILD = """
import json, os, signal, sys, threading
from retrain.training.orchestrator import TrainingOrchestrator
work, config = sys.argv[1], json.loads(sys.argv[2])
def die_in_epoch_3(report):
    if report.epoch == 2:
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGKILL)).start()
TrainingOrchestrator(work).train(config, die_in_epoch_3)
"""

CHILD_KILLED_WITHIN = """
import json, os, signal, sys
from retrain.training.checkpoints import CheckpointManager, Position
from retrain.training.orchestrator import TrainingOrchestrator
work, config = sys.argv[1], json.loads(sys.argv[2])
save = CheckpointManager.save
def save_and_die(self, position, state):
    save(self, position, state)
    if position == Position(1, images=12):
        os.kill(os.getpid(), signal.SIGKILL)
CheckpointManager.save = save_and_die
TrainingOrchestrator(work, checkpoint_minutes=0).train(config)
"""


class StopError(Exception):
    pass


def stop_after(epoch: int) -> Any:
    def on_epoch(report: EpochReport) -> None:
        if report.epoch == epoch:
            raise StopError

    return on_epoch


@pytest.fixture(scope="module")
def uninterrupted(
    rectangles: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[TrainingResult, Path]:
    work = tmp_path_factory.mktemp("uninterrupted")
    return TrainingOrchestrator(work).train(rectangles), work


def plain(config: dict[str, Any]) -> str:
    return json.dumps(
        {**config, "train_data": [str(config["train_data"][0])], "val_data": str(config["val_data"])}
    )


def test_threads_that_draw_random_numbers_meanwhile_change_nothing(
    rectangles: dict[str, Any], uninterrupted: tuple[TrainingResult, Path], tmp_path: Path
) -> None:
    stop = threading.Event()

    def jitter() -> None:
        while not stop.wait(0.001):
            random.random()

    other = threading.Thread(target=jitter)
    other.start()
    try:
        result = TrainingOrchestrator(tmp_path, export=()).train(rectangles)
    finally:
        stop.set()
        other.join()

    assert result.weights_sha256 == uninterrupted[0].weights_sha256


def test_killed_with_a_torn_checkpoint_ends_with_the_same_bits(
    rectangles: dict[str, Any], uninterrupted: tuple[TrainingResult, Path], tmp_path: Path
) -> None:
    environment = {**os.environ, "RETRAIN_HOME": str(tmp_path / "home"), "PYTHONPATH": str(Path.cwd())}
    command = [sys.executable, "-c", CHILD, str(tmp_path / "jobs"), plain(rectangles)]
    killed = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert killed.stdout == killed.stderr == ""
    job = tmp_path / "jobs" / TrainingOrchestrator(tmp_path / "jobs").job_id(rectangles)
    newest = job / "checkpoints" / "epoch-00002.ckpt"
    os.truncate(newest, newest.stat().st_size // 2)

    seen: list[int] = []
    resumed = TrainingOrchestrator(tmp_path / "jobs", export=()).train(
        rectangles, lambda report: seen.append(report.epoch)
    )

    assert resumed.resumed_from_epoch == 1
    assert seen == [1, 2, 3]
    assert resumed.weights_sha256 == uninterrupted[0].weights_sha256
    assert resumed.job_id == uninterrupted[0].job_id
    for ours, theirs in zip(resumed.epochs, uninterrupted[0].epochs, strict=True):
        assert (ours.map50, ours.map50_95, ours.losses, ours.lr) == (
            theirs.map50,
            theirs.map50_95,
            theirs.losses,
            theirs.lr,
        )


@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_stopped_after_any_epoch_ends_with_the_same_bits(
    epoch: int, rectangles: dict[str, Any], uninterrupted: tuple[TrainingResult, Path], tmp_path: Path
) -> None:
    with pytest.raises(StopError):
        TrainingOrchestrator(tmp_path).train(rectangles, stop_after(epoch))

    resumed = TrainingOrchestrator(tmp_path, export=()).train(rectangles)

    assert resumed.resumed_from_epoch == epoch
    assert resumed.weights_sha256 == uninterrupted[0].weights_sha256


@pytest.mark.parametrize("workers", [0, 2])
def test_killed_within_an_epoch_goes_on_there_and_ends_with_the_same_bits(
    workers: int, rectangles: dict[str, Any], uninterrupted: tuple[TrainingResult, Path], tmp_path: Path
) -> None:
    environment = {**os.environ, "RETRAIN_HOME": str(tmp_path / "home"), "PYTHONPATH": str(Path.cwd())}
    config = {**rectangles, "workers": workers}
    command = [sys.executable, "-c", CHILD_KILLED_WITHIN, str(tmp_path / "jobs"), plain(config)]
    killed = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    (checkpoints,) = (tmp_path / "jobs").glob("*/checkpoints")
    assert CheckpointManager(checkpoints).positions()[-1] == Position(1, images=12)
    loaded = list[int]()

    with pytest.MonkeyPatch.context() as patch:
        part = EpochBatches._part
        patch.setattr(
            EpochBatches, "_part", lambda self, order, batch: loaded.append(batch) or part(self, order, batch)
        )
        resumed = TrainingOrchestrator(tmp_path / "jobs", export=()).train(config)

    # Batches that were trained on are not even read.
    assert loaded[:2] == [3, 4]
    assert resumed.resumed_from_epoch == 1
    assert resumed.weights_sha256 == uninterrupted[0].weights_sha256
    assert [report.losses for report in resumed.epochs] == [
        report.losses for report in uninterrupted[0].epochs
    ]


def test_finished_job_is_not_trained_again(
    rectangles: dict[str, Any], uninterrupted: tuple[TrainingResult, Path]
) -> None:
    first, work = uninterrupted
    written = first.model_folder.stat().st_mtime_ns

    again = TrainingOrchestrator(work).train(rectangles, stop_after(1))

    assert again.reused
    assert not first.reused
    assert (again.weights_sha256, again.epochs, again.best) == (
        first.weights_sha256,
        first.epochs,
        first.best,
    )
    assert again.files == first.files
    assert first.model_folder.stat().st_mtime_ns == written


def test_damaged_model_of_a_finished_job_is_made_again(rectangles: dict[str, Any], tmp_path: Path) -> None:
    config = {**rectangles, "epochs": 1}
    first = TrainingOrchestrator(tmp_path, export=()).train(config)
    weights = first.model_folder / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")

    again = TrainingOrchestrator(tmp_path, export=()).train(config)

    assert not again.reused
    assert again.weights_sha256 == first.weights_sha256
    StoredModel.read(again.model_folder)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("model.pt", Path.unlink),
        ("model.onnx", lambda path: path.write_bytes(path.read_bytes()[:-9])),
        ("files.json", Path.unlink),
    ],
)
def test_damaged_or_missing_exports_of_a_finished_job_are_made_again_without_training(
    name: str, damage: Any, rectangles: dict[str, Any], uninterrupted: tuple[TrainingResult, Path]
) -> None:
    first, work = uninterrupted
    good = (first.model_folder / name).read_bytes()
    damage(first.model_folder / name)

    again = TrainingOrchestrator(work).train(rectangles, stop_after(1))

    assert again.reused
    assert again.files == first.files
    assert (first.model_folder / name).read_bytes() == good


def test_formats_that_are_not_asked_for_are_not_written_and_come_when_they_are(
    rectangles: dict[str, Any], tmp_path: Path
) -> None:
    config = {**rectangles, "epochs": 1}
    plain_one = TrainingOrchestrator(tmp_path, export=()).train(config)
    assert set(plain_one.files) == {"model.json", "weights.safetensors"}
    assert {path.name for path in plain_one.model_folder.iterdir()} == {*plain_one.files, "files.json"}

    with_pt = TrainingOrchestrator(tmp_path, export=["pt"]).train(config)

    assert with_pt.reused
    assert set(with_pt.files) == {"model.json", "weights.safetensors", "model.pt"}
    assert not (with_pt.model_folder / "model.onnx").exists()
    for wrong in ("pt", ["pdf"]):
        with pytest.raises(ConfigError, match="export must be"):
            TrainingOrchestrator(tmp_path, export=wrong)


@pytest.mark.parametrize(("metric", "sign"), [("map50_95", 1), ("loss", -1)])
def test_the_best_models_are_kept_whatever_interrupts(
    metric: str, sign: int, rectangles: dict[str, Any], tmp_path: Path
) -> None:
    config = {**rectangles, "epochs": 4, "stop_metric": metric}
    with pytest.raises(StopError):
        TrainingOrchestrator(tmp_path, keep_best=2, export=()).train(config, stop_after(2))

    result = TrainingOrchestrator(tmp_path, keep_best=2, export=()).train(config)

    values = [
        (sum(report.losses.values()) if metric == "loss" else report.map50_95, report.epoch)
        for report in result.epochs
    ]
    ranked = sorted(((sign * value, epoch) for value, epoch in values), reverse=True)[:2]
    assert [(sign * one.score, one.epoch) for one in result.kept] == ranked
    folder = tmp_path / result.job_id / "best"
    assert {path.name for path in folder.glob("*.safetensors")} == {one.path.name for one in result.kept}
    assert result.kept[0].epoch == result.best.epoch
    best, stored = load_file(result.kept[0].path), StoredModel.read(result.model_folder).weights
    assert all(torch.equal(tensor, stored[name]) for name, tensor in best.items())
    assert not torch.equal(load_file(result.kept[1].path)["model.0.conv.weight"], best["model.0.conv.weight"])
    assert TrainingOrchestrator(tmp_path, keep_best=2, export=()).train(config).kept == result.kept
    assert TrainingOrchestrator(tmp_path, export=()).train(config).kept == []


def test_a_job_that_kept_fewer_models_says_so(
    rectangles: dict[str, Any], uninterrupted: tuple[TrainingResult, Path], caplog: pytest.LogCaptureFixture
) -> None:
    again = TrainingOrchestrator(uninterrupted[1], keep_best=2).train(rectangles)
    assert again.reused
    assert again.kept == uninterrupted[0].kept == []
    assert "0 of the 2 best models are kept" in caplog.text


def test_another_machine_goes_on_from_the_mirror_and_ends_with_the_same_bits(
    rectangles: dict[str, Any],
    uninterrupted: tuple[TrainingResult, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # As many threads as there are cores, of which the other machine has more.
    config = {name: value for name, value in rectangles.items() if name != "threads"}
    mirror = tmp_path / "mirror"
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(1))
    with pytest.raises(StopError):
        TrainingOrchestrator(tmp_path / "lost", checkpoint_mirror=str(mirror)).train(config, stop_after(2))
    shutil.rmtree(tmp_path / "lost")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(2))

    other = TrainingOrchestrator(tmp_path / "other", checkpoint_mirror=str(mirror), export=())
    assert set(LocalBlobs(mirror).keys()) == {
        f"checkpoints/{other.job_id(config)}/epoch-0000{epoch}.ckpt" for epoch in (1, 2)
    }
    result = other.train(config)

    assert result.resumed_from_epoch == 2
    assert result.resolved["threads"] == uninterrupted[0].resolved["threads"] == 1
    assert result.weights_sha256 == uninterrupted[0].weights_sha256
    assert list(LocalBlobs(mirror).keys()) == []


def test_a_finished_job_clears_what_a_kill_left_in_the_mirror(
    rectangles: dict[str, Any], uninterrupted: tuple[TrainingResult, Path], tmp_path: Path
) -> None:
    left = LocalBlobs(tmp_path / "mirror")
    left.put(f"checkpoints/{uninterrupted[0].job_id}/epoch-00003.ckpt", b"left")

    again = TrainingOrchestrator(uninterrupted[1], checkpoint_mirror=str(left.root)).train(rectangles)

    assert again.reused
    assert list(left.keys()) == []


def test_reports_name_the_losses_of_the_model_and_falling_learning_rate(
    uninterrupted: tuple[TrainingResult, Path],
) -> None:
    reports = uninterrupted[0].epochs
    assert [report.epoch for report in reports] == [1, 2, 3]
    assert set(reports[0].losses) == {"box_loss", "cls_loss", "dfl_loss"}
    assert reports[1].lr > reports[2].lr
    assert [report.eta_s > 0 for report in reports] == [True, True, False]
    assert all(report.seconds > 0 and report.images_per_s > 0 for report in reports)
    assert uninterrupted[0].resolved["augment"]["hsv_v"] == 0.4
    assert uninterrupted[0].resolved["accumulate"] == 2


def test_writes_only_below_the_work_folder_and_nothing_beside_the_data(
    rectangles: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    folders = [rectangles["train_data"][0], rectangles["val_data"]]
    before = [sorted(folder.rglob("*")) for folder in folders]
    for folder in folders:
        folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        result = TrainingOrchestrator(tmp_path / "jobs").train({**rectangles, "epochs": 1})
    finally:
        for folder in folders:
            folder.chmod(stat.S_IRWXU)

    assert [sorted(folder.rglob("*")) for folder in folders] == before
    assert list(here.iterdir()) == []
    kept = {
        str(path.relative_to(tmp_path / "jobs" / result.job_id))
        for path in result.model_folder.parent.rglob("*")
    }
    assert kept == {
        "checkpoints",
        "job.json",
        "model",
        "model/files.json",
        "model/model.json",
        "model/model.onnx",
        "model/model.pt",
        "model/weights.safetensors",
        "request.json",
        "resolved.json",
        "result.json",
    }


def test_learns_and_the_detector_gives_what_the_trained_weights_give(
    rectangles: dict[str, Any], well_trained: TrainingResult
) -> None:
    losses = [sum(report.losses.values()) for report in well_trained.epochs]
    assert np.mean(losses[-3:]) < 0.7 * np.mean(losses[2:5])
    assert well_trained.best.map50 > 0.1, well_trained.best
    detector = Detector.load(well_trained.model_folder)
    stored = StoredModel.read(well_trained.model_folder)
    assert (detector.classes, detector.imgsz) == (("red", "blue"), 64)
    image = np.asarray(Image.open(rectangles["val_data"] / "images" / "0000.png"))
    raw = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        plain_scores = stored.build().eval()(raw)[0][0, 4:]
    best = detector.predict([image])[0]
    assert best.scores[0] == pytest.approx(float(plain_scores.max()), rel=1e-3)


def test_fine_tuning_starts_from_the_given_weights(
    rectangles: dict[str, Any], uninterrupted: tuple[TrainingResult, Path], tmp_path: Path
) -> None:
    start = uninterrupted[0].model_folder
    tiny = {**rectangles, "epochs": 1, "learning_rate": 1e-9, "initial_weights": start, "freeze": 10}
    tuned = StoredModel.read(TrainingOrchestrator(tmp_path, export=()).train(tiny).model_folder).weights
    before = StoredModel.read(start).weights
    # Batch statistics move even at no learning rate, except in frozen layers.
    assert all(
        torch.allclose(tuned[name], before[name], atol=1e-6) for name in before if name.endswith("weight")
    )
    assert torch.equal(tuned["model.0.bn.running_mean"], before["model.0.bn.running_mean"])
    assert not torch.equal(tuned["model.15.cv1.bn.running_mean"], before["model.15.cv1.bn.running_mean"])
    with pytest.raises(ConfigError, match="another architecture"):
        TrainingOrchestrator(tmp_path).train({**tiny, "model": "yolo11n"})


def test_early_stopping_ends_the_job_and_keeps_the_best_epoch(
    rectangles: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter(Scores(value, value, 0.0, 0.0) for value in (0.1, 0.5, 0.4, 0.3, 0.9))
    monkeypatch.setattr("retrain.training.validation.Validation.finish", lambda _: next(scores))
    monkeypatch.setattr("retrain.training.validation.Validation.score", lambda *_: Scores(0.5, 0.5, 0.0, 0.0))
    result = TrainingOrchestrator(tmp_path, export=()).train({**rectangles, "epochs": 6, "patience": 2})
    assert len(result.epochs) == 4
    assert result.stopped_early
    assert result.best.epoch == 2


def test_a_model_that_scores_otherwise_after_loading_is_refused(
    rectangles: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retrain.training.validation.Validation.score", lambda *_: Scores(0.5, 0.5, 0.0, 0.0))
    with pytest.raises(PostConditionFailed, match="scores map50_95"):
        TrainingOrchestrator(tmp_path).train({**rectangles, "epochs": 1})


def test_diverged_training_is_an_error_and_leaves_no_checkpoint(
    rectangles: dict[str, Any], uninterrupted: tuple[TrainingResult, Path], tmp_path: Path
) -> None:
    start = StoredModel.read(uninterrupted[0].model_folder)
    start.weights["model.0.conv.weight"][0] = float("nan")
    write_model_folder(tmp_path / "start", start)
    with pytest.raises(PostConditionFailed, match=r"diverged in epoch 1, batch 1: .*\.png"):
        TrainingOrchestrator(tmp_path).train({**rectangles, "initial_weights": tmp_path / "start"})
    assert not list(tmp_path.rglob("*.ckpt"))


def test_a_second_trainer_of_the_same_job_is_refused(rectangles: dict[str, Any], tmp_path: Path) -> None:
    refused: list[BaseException] = []

    def also_train() -> None:
        try:
            TrainingOrchestrator(tmp_path).train(rectangles)
        except Conflict as error:
            refused.append(error)

    def on_epoch(_: EpochReport) -> None:
        other = threading.Thread(target=also_train)
        other.start()
        other.join()
        raise StopError

    with pytest.raises(StopError):
        TrainingOrchestrator(tmp_path).train(rectangles, on_epoch)
    assert len(refused) == 1
    assert "another process" in str(refused[0])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"batch_size": 64}, ConfigError, "only 18 training images"),
        ({"model": "yolov8n-seg"}, ConfigError, "does not detect boxes"),
        ({"model": "nosuchmodel"}, ConfigError, "nosuchmodel"),
        ({"classes": ["red"]}, BadInput, "class 1; known are 0 to 0"),
    ],
)
def test_what_cannot_be_trained_as_asked_is_an_error(
    change: dict[str, Any], error: type[Exception], message: str, rectangles: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        TrainingOrchestrator(tmp_path).train({**rectangles, **change})


def test_mixed_precision_and_two_headed_models_train_and_resume(
    rectangles: dict[str, Any], tmp_path: Path
) -> None:
    config = {**rectangles, "model": "yolov10n", "epochs": 2}
    whole = TrainingOrchestrator(tmp_path / "whole", mixed_precision=True).train(config)
    with pytest.raises(StopError):
        TrainingOrchestrator(tmp_path / "parts", mixed_precision=True).train(config, stop_after(1))
    resumed = TrainingOrchestrator(tmp_path / "parts", mixed_precision=True, export=()).train(config)
    assert resumed.resumed_from_epoch == 1
    assert resumed.weights_sha256 == whole.weights_sha256
    assert resumed.resolved["mixed_precision"] is True
