"""The made-up world of `benchmarks/evaluation.py`, and how each tool is asked to score it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from retrain.boxes import Annotations, Detections, FloatArray, IntArray
from retrain.evaluation.calibration import calibration
from retrain.evaluation.comparator import compare
from retrain.evaluation.confusion import confusion_matrix
from retrain.evaluation.curves import curves
from retrain.evaluation.errors_analysis import ErrorAnalyzer
from retrain.evaluation.evaluation import Evaluation
from retrain.evaluation.predictions import Predictions
from retrain.evaluation.protocol import EvaluationProtocol
from retrain.evaluation.slices import all_slices
from retrain.evaluation.truth import LabelledImage, Truth
from retrain.evaluation.worst_slices import worst_slices

WIDTH, HEIGHT = 640, 480
OBJECTS, FALSE_ALARMS = 7.3, 8.0
PER_CAMERA, CAMERAS = 20, 10
CROPS = 24
RESAMPLES = 1000
EVERYTHING, INTERVAL = "Retrain: everything", "Retrain: interval of a difference"


class World(NamedTuple):
    """Objects and detections; boxes are corner and size, as COCO has them.

    Attributes:
        crowd: of each object.
        scores: of each detection.
    """

    images: int
    classes: int
    true_image: IntArray
    true_class: IntArray
    true_box: FloatArray
    crowd: IntArray
    image: IntArray
    label: IntArray
    box: FloatArray
    scores: FloatArray


def made_up(images: int, classes: int, seed: int = 0) -> World:
    """Skewed classes; most objects are found, a tenth of them as another class, among false alarms."""
    rng = np.random.default_rng(seed)
    share = 1 / np.arange(1, classes + 1)
    share /= share.sum()
    true_image = np.repeat(np.arange(images), rng.poisson(OBJECTS, images))
    n = len(true_image)
    true_class = rng.choice(classes, n, p=share)
    corner = rng.uniform(0, 1, (n, 2)) * (WIDTH, HEIGHT)
    true_box = np.hstack([corner, rng.lognormal(4, 0.8, (n, 2)).clip(4, 400)])
    found = np.flatnonzero(rng.random(n) < 0.8)
    box = true_box[found] + rng.normal(0, 0.08, (len(found), 4)) * true_box[found][:, [2, 3, 2, 3]]
    box[:, 2:] = np.maximum(box[:, 2:], 1)
    named = np.where(rng.random(len(found)) < 0.9, true_class[found], rng.integers(0, classes, len(found)))
    false_image = np.repeat(np.arange(images), rng.poisson(FALSE_ALARMS, images))
    m = len(false_image)
    false_corner = rng.uniform(0, 1, (m, 2)) * (WIDTH, HEIGHT)
    false_box = np.hstack([false_corner, rng.lognormal(4, 0.8, (m, 2)).clip(4, 400)])
    image = np.concatenate([true_image[found], false_image])
    order = np.argsort(image, kind="stable")
    return World(
        images,
        classes,
        true_image,
        true_class,
        true_box,
        (rng.random(n) < 0.01).astype(np.int64),
        image[order],
        np.concatenate([named, rng.choice(classes, m, p=share)])[order],
        np.concatenate([box, false_box])[order],
        np.concatenate([rng.beta(4, 2, len(found)), rng.beta(1.5, 4, m)])[order],
    )


def _coco_dicts(world: World) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    truth = {
        "images": [{"id": i, "width": WIDTH, "height": HEIGHT} for i in range(world.images)],
        "categories": [{"id": i, "name": f"class {i}"} for i in range(world.classes)],
        "annotations": [
            {"id": row + 1, "image_id": i, "category_id": c, "bbox": b, "area": b[2] * b[3], "iscrowd": k}
            for row, (i, c, b, k) in enumerate(zip(*(column.tolist() for column in world[2:6]), strict=True))
        ],
    }
    found = [
        {"image_id": i, "category_id": c, "bbox": b, "score": s}
        for i, c, b, s in zip(*(column.tolist() for column in world[6:10]), strict=True)
    ]
    return truth, found


def pycocotools(world: World) -> Callable[[], list[float]]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    return _like_pycocotools(world, COCO, COCOeval)


def faster_coco_eval(world: World) -> Callable[[], list[float]]:
    from faster_coco_eval import COCO, COCOeval_faster

    return _like_pycocotools(world, COCO, COCOeval_faster)


def _like_pycocotools(world: World, coco: Any, evaluator: Any) -> Callable[[], list[float]]:
    truth, found = _coco_dicts(world)

    def score() -> list[float]:
        true = coco()
        true.dataset = truth
        true.createIndex()
        run = evaluator(true, true.loadRes(found), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
        return [float(value) for value in run.stats[:12]]

    return score


def hotcoco(world: World) -> Callable[[], list[float]]:
    import hotcoco as library

    images = [{"id": i, "width": WIDTH, "height": HEIGHT} for i in range(world.images)]
    categories = [{"id": i, "name": f"class {i}"} for i in range(world.classes)]
    rows = np.column_stack([world.image, world.box, world.scores, world.label])

    def score() -> list[float]:
        true = library.COCO.from_arrays(
            images, categories, world.true_image, world.true_class, world.true_box, iscrowd=world.crowd
        )
        run = library.COCOeval(true, true.load_res(rows), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
        return [float(value) for value in run.stats]

    return score


def torchmetrics(world: World) -> Callable[[], list[float]]:
    import torch
    from torchmetrics.detection import MeanAveragePrecision

    torch.set_num_threads(1)
    true = _per_image(world.true_image, world.images)
    found = _per_image(world.image, world.images)
    target = [
        {
            "boxes": torch.from_numpy(world.true_box[rows]),
            "labels": torch.from_numpy(world.true_class[rows]),
            "iscrowd": torch.from_numpy(world.crowd[rows]),
        }
        for rows in true
    ]
    predicted = [
        {
            "boxes": torch.from_numpy(world.box[rows]),
            "labels": torch.from_numpy(world.label[rows]),
            "scores": torch.from_numpy(world.scores[rows]),
        }
        for rows in found
    ]

    def score() -> list[float]:
        metric = MeanAveragePrecision(box_format="xywh", backend="faster_coco_eval")
        metric.warn_on_many_detections = False
        metric.update(predicted, target)
        values = metric.compute()
        names = ("map", "map_50", "map_75", "map_small", "map_medium", "map_large")
        recalls = ("mar_1", "mar_10", "mar_100", "mar_small", "mar_medium", "mar_large")
        return [float(values[name]) for name in (*names, *recalls)]

    return score


def supervision(world: World) -> Callable[[], list[float]]:
    import supervision as library
    from supervision.metrics import MeanAveragePrecision

    corners, true_corners = _corners(world.box), _corners(world.true_box)
    predicted = [
        library.Detections(corners[rows], class_id=world.label[rows], confidence=world.scores[rows])
        for rows in _per_image(world.image, world.images)
    ]
    target = [
        library.Detections(
            true_corners[rows], class_id=world.true_class[rows], data={"iscrowd": world.crowd[rows]}
        )
        for rows in _per_image(world.true_image, world.images)
    ]

    def score() -> list[float]:
        found = MeanAveragePrecision().update(predicted, target).compute()
        return [float(found.map50_95), float(found.map50), float(found.map75)]

    return score


def everything(world: World) -> Callable[[], list[float]]:
    images, found = _ours(world)

    def score() -> list[float]:
        truth = Truth.of(images, [f"class {index}" for index in range(world.classes)])
        one = Evaluation(truth, Predictions.of(truth, found), EvaluationProtocol(), 0.25)
        scores = list(one.summary.coco.values())
        errors = ErrorAnalyzer(one)
        # Asked for, as a page asks, so that nothing is put off.
        found_too = (
            confusion_matrix(one).counts,
            curves(one).overall,
            calibration(one).overall,
            errors.tide,
            errors.false_positives(CROPS),
            errors.false_negatives(CROPS),
            errors.worst_images(CROPS),
            all_slices(one),
            worst_slices(one, ["camera"]),
        )
        assert all(part is not None for part in found_too)
        return scores

    return score


def bootstrap(world: World) -> Callable[[], list[float]]:
    """The interval of the difference of mAP50-95 to a model whose scores are a little others, over cameras."""
    images, found = _ours(world)
    truth = Truth.of(images, [f"class {index}" for index in range(world.classes)])
    rng = np.random.default_rng(1)
    other = {
        name: Detections.of(one.boxes, one.classes, np.clip(one.scores + rng.normal(0, 0.05, len(one)), 0, 1))
        for name, one in found.items()
    }
    one, another = (
        Evaluation(truth, Predictions.of(truth, each), EvaluationProtocol(), 0.25) for each in (found, other)
    )

    def score() -> list[float]:
        result = compare(one, another, "map50_95", resamples=RESAMPLES)
        return [result.difference, result.low, result.high]

    return score


def _ours(world: World) -> tuple[list[LabelledImage], dict[str, Detections]]:
    corners, true_corners = _corners(world.box), _corners(world.true_box)
    images = [
        LabelledImage(
            f"{index:06}",
            f"camera {index // PER_CAMERA}",
            Annotations.of(true_corners[rows], world.true_class[rows]),
            world.crowd[rows].astype(bool).tolist(),
            attributes={"camera": f"camera {index // PER_CAMERA % CAMERAS}"},
        )
        for index, rows in enumerate(_per_image(world.true_image, world.images))
    ]
    found = {
        f"{index:06}": Detections.of(corners[rows], world.label[rows], world.scores[rows])
        for index, rows in enumerate(_per_image(world.image, world.images))
    }
    return images, found


def _per_image(image: IntArray, count: int) -> list[IntArray]:
    return np.split(np.arange(len(image)), np.searchsorted(image, np.arange(1, count)))


def _corners(boxes: FloatArray) -> FloatArray:
    return np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])


TOOLS: dict[str, Callable[[World], Callable[[], list[float]]]] = {
    "pycocotools": pycocotools,
    "supervision": supervision,
    "torchmetrics": torchmetrics,
    "faster-coco-eval": faster_coco_eval,
    "hotcoco alone": hotcoco,
    EVERYTHING: everything,
    INTERVAL: bootstrap,
}
