"""Scores of cameras and classes while training, and what a challenger lost against the model it started from."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from retrain.detector import StoredModel
from retrain.storage.selections import SelectedImage, read_selection_file, write_selection_file
from retrain.training.checkpoints import CheckpointManager
from retrain.training.data import DetectionData
from retrain.training.job import TrainingJob
from retrain.training.orchestrator import TrainingOrchestrator
from retrain.training.recorder import EpochRecorder
from retrain.training.request import TrainingRequest
from retrain.training.result import EpochReport, SliceScore, TrainingResult
from retrain.training.validation import Scores, Validation
from retrain.training.weights import write_model_folder

CAMERAS = ("gate", "north", None)


class StopError(Exception):
    pass


def stop(_: EpochReport) -> None:
    raise StopError


def selected(source: Path, root: Path, cameras: list[str | None], only: str | None = None) -> Path:
    """The images of a selection with a camera each, or only those of one camera."""
    chosen = read_selection_file(source)
    images: list[SelectedImage] = [
        msgspec.structs.replace(image, slice=camera)
        for image, camera in zip(chosen.images, cameras, strict=True)
        if only in {None, camera}
    ]
    return write_selection_file(root, chosen.packs, images)


@pytest.fixture(scope="module")
def cameras(packed_rectangles: dict[str, Any]) -> list[str | None]:
    images = len(read_selection_file(packed_rectangles["val_data"]).images)
    return [CAMERAS[index % len(CAMERAS)] for index in range(images)]


@pytest.fixture(scope="module")
def champion(well_trained: TrainingResult) -> Path:
    """Trained on the same images, under other names."""
    return well_trained.model_folder


@pytest.fixture(scope="module")
def challenger(
    packed_rectangles: dict[str, Any],
    cameras: list[str | None],
    champion: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Any]:
    """Fine-tuned so fast that it forgets what it knew."""
    validation = selected(packed_rectangles["val_data"], tmp_path_factory.mktemp("cameras"), cameras)
    return {
        **packed_rectangles,
        "val_data": validation,
        "initial_weights": champion,
        "epochs": 2,
        "optimizer": "sgd",
        "learning_rate": 1.0,
        "warmup_epochs": 0.0,
    }


def scored(config: dict[str, Any], model: Path, root: Path) -> Scores:
    """Of a stored model on the validation images, apart from any training."""
    job = TrainingJob.of(TrainingRequest.of(config), root, 1, mixed_precision=False)
    return Validation(DetectionData(job, "cpu"), root).score(StoredModel.read(model).build())


def close(one: SliceScore, other: SliceScore) -> bool:
    return one == pytest.approx(other, abs=1e-6)


def checkpoint(work: Path, config: dict[str, Any]) -> dict[str, Any]:
    saved = CheckpointManager(work / TrainingOrchestrator(work).job_id(config) / "checkpoints").newest_good()
    assert saved is not None
    return saved[1]


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_camera_scores_what_its_images_alone_score(
    batch_size: int,
    challenger: dict[str, Any],
    cameras: list[str | None],
    champion: Path,
    packed_rectangles: dict[str, Any],
    tmp_path: Path,
) -> None:
    """In batches of 2 and of all 8, whose images are of one camera and of all."""
    slices = scored({**challenger, "batch_size": batch_size}, champion, tmp_path).slices

    assert set(slices) == {"camera/gate", "camera/north", "class/blue", "class/red"}
    for camera in ("gate", "north"):
        alone = selected(packed_rectangles["val_data"], tmp_path, cameras, only=camera)
        expected = scored({**challenger, "val_data": alone, "batch_size": 4}, champion, tmp_path)
        score = slices[f"camera/{camera}"]
        assert (score["map50"], score["map50_95"]) == pytest.approx((expected.map50, expected.map50_95))
        assert score["images"] == cameras.count(camera)
    assert slices["camera/gate"] != slices["camera/north"]
    assert max(score["map50"] for score in slices.values()) > 0.1


def test_every_epoch_has_the_scores_of_its_slices_and_what_fell_since_the_start(
    challenger: dict[str, Any], champion: Path, tmp_path: Path
) -> None:
    reference = scored(challenger, champion, tmp_path).slices

    result = TrainingOrchestrator(tmp_path / "jobs", export=()).train(challenger)

    measured = scored(challenger, result.model_folder, tmp_path)
    assert measured.slices.keys() == result.best.slices.keys() == reference.keys()
    assert all(close(measured.slices[name], score) for name, score in result.best.slices.items())
    for report in result.epochs:
        fallen = {
            name: reference[name]["map50"]
            for name, score in report.slices.items()
            if reference[name]["map50"] - score["map50"] > 0.05
        }
        assert fallen
        assert {one.name: one.reference for one in report.regressions} == pytest.approx(fallen)
        assert all(one.current == report.slices[one.name]["map50"] for one in report.regressions)
        assert EpochReport.from_json(report.to_json()) == report
    tolerant = TrainingOrchestrator(tmp_path / "tolerant", slice_drop_limit=1.0, export=()).train(challenger)
    assert [report.regressions for report in tolerant.epochs] == [(), ()]
    assert tolerant.weights_sha256 == result.weights_sha256


def test_a_training_from_scratch_has_no_regressions(rectangles: dict[str, Any], tmp_path: Path) -> None:
    result = TrainingOrchestrator(tmp_path, export=()).train({**rectangles, "epochs": 1})
    # Of folders nobody knows the cameras.
    assert set(result.best.slices) == {"class/blue", "class/red"}
    assert result.best.regressions == ()


def test_a_resume_keeps_the_reference_and_does_not_score_the_start_again(
    challenger: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = TrainingOrchestrator(tmp_path / "whole", export=()).train(challenger)
    with pytest.raises(StopError):
        TrainingOrchestrator(tmp_path / "parts").train(challenger, stop)
    begun: list[int] = []
    start = Validation.start
    monkeypatch.setattr(Validation, "start", lambda self, model: begun.append(1) or start(self, model))

    resumed = TrainingOrchestrator(tmp_path / "parts", export=()).train(challenger)

    # Epoch 2 and the stored model.
    assert len(begun) == 2
    assert resumed.resumed_from_epoch == 1
    for ours, theirs in zip(resumed.epochs, whole.epochs, strict=True):
        assert (ours.slices, ours.regressions) == (theirs.slices, theirs.regressions)
        assert ours.regressions


@pytest.mark.parametrize("workers", [0, 2])
def test_scoring_the_start_changes_no_bit_of_what_is_learnt(
    workers: int, challenger: dict[str, Any], tmp_path: Path
) -> None:
    config = {**challenger, "learning_rate": 0.001, "workers": workers}
    scored_first = TrainingOrchestrator(tmp_path / "scored", export=()).train(config)
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(EpochRecorder, "on_train_start")
        unscored = TrainingOrchestrator(tmp_path / "unscored", export=()).train(config)

    assert unscored.weights_sha256 == scored_first.weights_sha256
    assert [report.slices for report in unscored.epochs] == [report.slices for report in scored_first.epochs]


def test_two_processes_score_the_slices_and_the_start_as_one_does(
    challenger: dict[str, Any], champion: Path, tmp_path: Path
) -> None:
    # Two batches of validation images, one for each process.
    config = {**challenger, "batch_size": 2, "learning_rate": 0.001}
    with pytest.raises(StopError):
        TrainingOrchestrator(tmp_path / "jobs", num_processes=2).train(config, stop)
    state = checkpoint(tmp_path / "jobs", config)

    start = StoredModel.read(champion)
    write_model_folder(
        tmp_path / "trained", StoredModel(start.architecture, start.classes, start.imgsz, state["best"])
    )
    best = max(state["reports"], key=lambda report: (report["map50_95"], report["epoch"]))
    for slices, model in ((state["reference"], champion), (best["slices"], tmp_path / "trained")):
        alone = scored(config, model, tmp_path).slices
        assert len(alone) == 4
        assert slices.keys() == alone.keys()
        assert all(close(slices[name], score) for name, score in alone.items())
