import numpy as np
import pytest

from retrain.boxes import Annotations, Detections
from retrain.evaluation.run import EvaluationItem, evaluate

TRUTH = Annotations.of([[0, 0, 20, 20], [40, 0, 60, 20], [0, 40, 20, 60], [40, 40, 60, 60]], [0, 1, 2, 0])


@pytest.fixture
def evaluation_of():
    """Evaluate a made-up detector that misses each object with probability 1 - quality."""

    def build(quality, seed=0, recordings=12, per_recording=5, truth=TRUTH):
        rng = np.random.default_rng(seed)

        def predict(images, **_):
            answers = []
            for _ in images:
                seen = np.flatnonzero(rng.random(len(truth)) < quality)
                boxes = truth.boxes[seen] + rng.normal(0, 0.5, (len(seen), 4))
                answers.append(Detections.of(boxes, truth.classes[seen], rng.uniform(0.3, 1, len(seen))))
            return answers

        items = [
            EvaluationItem(
                f"{index:03}", f"cam-{index // per_recording}", lambda: np.zeros((8, 8, 3), np.uint8), truth
            )
            for index in range(recordings * per_recording)
        ]
        return evaluate(predict, items, ["a", "b", "c"])

    return build
