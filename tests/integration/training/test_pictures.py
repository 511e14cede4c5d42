"""Pictures of a finished training, looked at by their pixels."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from retrain.boxes import Detections
from retrain.training.data import DetectionData
from retrain.training.job import TrainingJob
from retrain.training.orchestrator import TrainingOrchestrator
from retrain.training.pictures import draw_curves, draw_samples
from retrain.training.request import TrainingRequest
from retrain.training.validation import PrecisionRecall


class Finder:
    """Finds the same box everywhere."""

    classes = ("red", "blue")

    def predict(self, images: list[Any], confidence: float) -> list[Detections]:
        return [Detections(np.array([[8.0, 8.0, 56.0, 56.0]]), np.array([1]), np.array([0.9]))] * len(images)


def is_near(pixel: Any, colour: tuple[int, int, int]) -> bool:
    return bool(np.abs(np.asarray(pixel, int) - colour).max() < 70)


def test_samples_show_true_boxes_green_and_found_ones_orange(
    rectangles: dict[str, Any], tmp_path: Path
) -> None:
    job = TrainingJob.of(TrainingRequest.of(rectangles), tmp_path, 1, mixed_precision=False)
    images = DetectionData(job, "cpu").validation_images
    finder: Any = Finder()

    sheet = np.asarray(Image.open(draw_samples(finder, images, tmp_path)))

    assert sheet.shape == (640, 1280, 3)  # eight images in two rows
    # 64 pixels become 320; the found box's left edge is at 8, away from its corners and text.
    for column in range(4):
        assert is_near(sheet[200, column * 320 + 40], (255, 140, 0))
    assert all(
        any(
            is_near(pixel, (60, 200, 90))
            for pixel in sheet[top : top + 320, left : left + 320].reshape(-1, 3)
        )
        for top in (0, 320)
        for left in range(0, 1280, 320)
    )


def test_a_trained_job_has_its_pictures_if_they_are_asked_for(
    rectangles: dict[str, Any], tmp_path: Path
) -> None:
    asked = TrainingOrchestrator(tmp_path, pictures=True, export=())

    result = asked.train({**rectangles, "epochs": 1})

    folder = result.model_folder.parent / "pictures"
    assert sorted(path.name for path in folder.iterdir()) == [
        "epochs.png",
        "precision_recall.png",
        "samples.jpg",
    ]
    for path in folder.iterdir():
        assert np.asarray(Image.open(path)).std() > 5, path


def test_a_model_that_finds_nothing_has_curves_too(tmp_path: Path) -> None:
    path = draw_curves(PrecisionRecall(np.linspace(0, 1, 1000), {}), ["cat"], tmp_path)

    assert Image.open(path).size[0] > 100
