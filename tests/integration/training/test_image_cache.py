"""Whether images are kept in memory changes how long training takes, never what comes of it."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrain.training.data import DetectionData
from retrain.training.job import TrainingJob
from retrain.training.orchestrator import TrainingOrchestrator
from retrain.training.request import TrainingRequest
from retrain.training.result import TrainingResult


@pytest.fixture(scope="module")
def trained(rectangles: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    work = tmp_path_factory.mktemp("cached")
    return TrainingOrchestrator(work, export=()).train({**rectangles, "cache": "ram"})


@pytest.mark.parametrize(("cache", "free"), [("none", 10**12), ("auto", 0)])
def test_images_that_are_not_kept_train_to_the_same_weights(
    cache: str,
    free: int,
    rectangles: dict[str, Any],
    trained: TrainingResult,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("retrain.training.data.free_bytes", lambda _: free)

    result = TrainingOrchestrator(tmp_path, export=()).train({**rectangles, "cache": cache})

    assert (trained.resolved["cache"], result.resolved["cache"]) == ("ram", "none")
    assert result.weights_sha256 == trained.weights_sha256
    assert result.job_id == trained.job_id


@pytest.mark.parametrize(("room", "kept"), [(1.0, "none"), (2.0, "ram")])
def test_auto_leaves_half_of_the_free_memory_alone(
    room: float, kept: str, rectangles: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 18 images of 64 x 64 pixels.
    monkeypatch.setattr("retrain.training.data.free_bytes", lambda _: int(room * 18 * 64 * 64 * 3))
    job = TrainingJob.of(TrainingRequest.of(rectangles), tmp_path, 1, mixed_precision=False)

    assert DetectionData(job, "cpu").cache == kept


def test_a_decoded_copy_that_lies_beside_an_image_is_not_the_image(
    rectangles: dict[str, Any], tmp_path: Path
) -> None:
    folder = tmp_path / "train"
    shutil.copytree(rectangles["train_data"][0], folder)
    np.save(folder / "images" / "0000.npy", np.zeros((64, 64, 3), np.uint8))
    request = TrainingRequest.of({**rectangles, "train_data": [folder], "cache": "none"})
    job = TrainingJob.of(request, tmp_path, 1, mixed_precision=False)

    assert DetectionData(job, "cpu").training_images.load_image(0)[0].any()
