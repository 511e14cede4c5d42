"""Draws the page of two models on the test images of BCCD; what they found is made up, the images are real."""

import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrain.boxes import Detections
from retrain.evaluation.evaluation import Evaluation
from retrain.evaluation.labelled_data import LabelledData, open_data
from retrain.evaluation.predictions import Predictions
from retrain.evaluation.protocol import EvaluationProtocol
from retrain.evaluation.report.page import ReportPage
from retrain.evaluation.result import EvaluationResult, Served
from retrain.evaluation.truth import Truth

BCCD = Path(__file__).parents[2] / "shared" / "data" / "bccd"
SIDE = 640


def drawn() -> dict[str, Any]:
    """How long it took, and how large it is."""
    data = open_data(BCCD, split="test")
    items = data.by_id

    def pixels(image: str) -> NDArray[np.uint8]:
        return items[image].load()

    before, after = _made_up(data, "before", 0.3, 0), _made_up(data, "after", 0.12, 1)
    started = time.process_time()
    page = ReportPage(after, before).html(pixels)
    return {
        "images": len(items),
        "cpu_s": time.process_time() - started,
        "megabytes": len(page) / 1e6,
    }


def _made_up(data: LabelledData, name: str, missed: float, seed: int) -> EvaluationResult:
    """Finds most objects nearly where they are, and some where there are none."""
    rng = np.random.default_rng(seed)
    truth = Truth.of([item.labelled for item in data.items], data.classes)
    found = {}
    for item in data.items:
        seen = rng.random(len(item.truth)) > missed
        boxes = item.truth.boxes[seen] + rng.normal(0, 4, (int(seen.sum()), 4))
        corners = rng.uniform(0, SIDE - 120, (int(rng.poisson(2)), 2))
        wrong = np.hstack([corners, corners + rng.uniform(20, 120, corners.shape)])
        both = np.vstack([boxes, wrong])
        both[:, 2:] = np.maximum(both[:, 2:], both[:, :2])
        labels = np.concatenate([item.truth.classes[seen], rng.integers(0, len(data.classes), len(wrong))])
        scores = np.concatenate([rng.beta(5, 2, int(seen.sum())), rng.beta(2, 4, len(wrong))])
        found[item.image_id] = Detections.of(both, labels.astype(np.int64), scores)
    evaluation = Evaluation(truth, Predictions.of(truth, found), EvaluationProtocol(), 0.25)
    served = Served(0.25, "this benchmark")
    return EvaluationResult(name, "0" * 64, "none", None, data.name, evaluation, ("map50",), served)
