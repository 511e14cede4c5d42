"""The twelve COCO numbers, by hotcoco: the only module that knows it.

hotcoco is a port of pycocotools that takes a hundredth of its time; the tests hold it against pycocotools.
"""

from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from typing import Any

import hotcoco
import numpy as np

from retrain.boxes import FloatArray
from retrain.evaluation.predictions import Predictions
from retrain.evaluation.truth import Truth

NUMBERS = (
    "map50_95", "map50", "map75", "map_small", "map_medium", "map_large",
    "ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large",
)  # fmt: skip
"""Names of pycocotools' `stats`, in its order."""


@dataclass(frozen=True)
class CocoNumbers:
    """Attributes:
    stats: the twelve by name, in [0, 1]; NaN where there is no object to find.
    per_class: average precision of each class by IoU threshold, shape (classes, 10); NaN without objects.
    """

    stats: dict[str, float]
    per_class: FloatArray


def coco_numbers(truth: Truth, predictions: Predictions) -> CocoNumbers:
    """Of one model, as pycocotools would give them for the same files."""
    run = _evaluator(truth, predictions)
    run.evaluate()
    run.accumulate()
    with redirect_stdout(StringIO()):
        run.summarize()
    stats = np.asarray(run.stats, dtype=np.float64)
    # Axes: threshold, recall level, class, area (the first is all), number of detections (the last is the most).
    precision = np.asarray(run.eval["precision"], dtype=np.float64)[:, :, :, 0, -1]
    known = (precision > -1).all(axis=1)
    per_class = np.where(known, precision.mean(axis=1), np.nan).T
    return CocoNumbers(
        dict(zip(NUMBERS, np.where(stats > -1, stats, np.nan).tolist(), strict=True)), per_class
    )


def _evaluator(truth: Truth, predictions: Predictions) -> Any:
    images = [{"id": row, "width": 0, "height": 0} for row in range(len(truth.images))]
    # Of an empty name hotcoco complains to stderr.
    categories = [{"id": index, "name": name or str(index)} for index, name in enumerate(truth.classes)]
    true = hotcoco.COCO.from_arrays(
        images,
        categories,
        truth.image,
        truth.label,
        _corner_and_size(truth),
        area=truth.area,
        iscrowd=truth.crowd,
    )
    rows = np.column_stack(
        [predictions.image, _corner_and_size(predictions), predictions.scores, predictions.label]
    )
    return hotcoco.COCOeval(true, true.load_res(rows), "bbox")


def _corner_and_size(side: Truth | Predictions) -> FloatArray:
    return np.hstack([side.boxes[:, :2], side.sizes])
