"""Made-up evaluations, and what pycocotools says of them."""

import contextlib
import io
from dataclasses import replace

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from retrain.boxes import Annotations, Detections
from retrain.evaluation.evaluation import Evaluation
from retrain.evaluation.predictions import Predictions
from retrain.evaluation.protocol import EvaluationProtocol
from retrain.evaluation.truth import LabelledImage, Truth


def random_world(
    seed, images=12, classes=3, detections=10, grid=None, tied_scores=False, crowds=0.0, spread=40
):
    """Objects, and detections scattered around them; on a grid, so that IoUs tie and hit thresholds exactly."""
    rng = np.random.default_rng(seed)
    found, truth = [], []
    for index in range(images):
        m, k = rng.integers(0, 6), rng.integers(0, detections)
        corner = rng.uniform(0, 100, (m, 2))
        boxes = np.hstack([corner, corner + rng.uniform(8, spread, (m, 2))])
        labels = rng.integers(0, classes, m)
        if m and k:
            pick = rng.integers(0, m, k)
            proposed = boxes[pick] + rng.normal(0, 3, (k, 4))
            names = np.where(rng.random(k) < 0.8, labels[pick], rng.integers(0, classes, k))
        else:
            corner = rng.uniform(0, 100, (k, 2))
            proposed, names = np.hstack([corner, corner + 10]), rng.integers(0, classes, k)
        if grid:
            boxes, proposed = np.round(boxes / grid) * grid, np.round(proposed / grid) * grid
        proposed[:, 2:] = np.maximum(proposed[:, 2:], proposed[:, :2])
        scores = rng.random(k)
        found.append(Detections.of(proposed, names, np.round(scores, 1) if tied_scores else scores))
        truth.append(
            LabelledImage(
                f"{index:04}", f"cam-{index // 3}", Annotations.of(boxes, labels), rng.random(m) < crowds
            )
        )
    return found, truth


def evaluation(found, images, classes=3, confidence=0.25):
    """Of detections per labelled image."""
    truth = Truth.of(images, [f"class {index}" for index in range(classes)])
    by_id = {image.image_id: each for image, each in zip(images, found, strict=True)}
    return Evaluation(truth, Predictions.of(truth, by_id), EvaluationProtocol(), confidence)


def copies(one, weights):
    """Each image as often as its weight, in its recording: no new information."""
    images, found = [], {}
    for row, (image_id, times) in enumerate(zip(one.truth.images, weights, strict=True)):
        own, made = one.truth.image == row, one.predictions.image == row
        objects = Annotations.of(one.truth.boxes[own], one.truth.label[own])
        detections = Detections.of(
            one.predictions.boxes[made], one.predictions.label[made], one.predictions.scores[made]
        )
        for copy in range(times):
            name = f"{image_id}-{copy}"
            images.append(LabelledImage(name, one.truth.groups[row], objects, one.truth.crowd[own]))
            found[name] = detections
    truth = Truth.of(images, one.truth.classes)
    return Evaluation(truth, Predictions.of(truth, found), one.protocol, one.confidence)


def shuffled(found, images, seed):
    """The same, with images, objects and detections in another order."""
    rng = np.random.default_rng(seed)
    pairs = []
    for image, detections in zip(images, found, strict=True):
        objects, rows = rng.permutation(len(image.objects)), rng.permutation(len(detections))
        crowd = None if image.crowd is None else np.asarray(image.crowd)[objects]
        new = replace(
            image,
            objects=Annotations(image.objects.boxes[objects], image.objects.classes[objects]),
            crowd=crowd,
        )
        pairs.append(
            (Detections(detections.boxes[rows], detections.classes[rows], detections.scores[rows]), new)
        )
    order = rng.permutation(len(pairs))
    return [pairs[row][0] for row in order], [pairs[row][1] for row in order]


def labelled(*objects):
    """An image for each, each in a recording of its own."""
    return [LabelledImage(f"{index:04}", f"cam-{index}", each) for index, each in enumerate(objects)]


def by_pycocotools(one):
    """Its twelve numbers, and average precision by class and threshold; NaN where it says -1."""

    def xywh(side, row):
        return [*side.boxes[row, :2].tolist(), *side.sizes[row].tolist()]

    truth, predictions = one.truth, one.predictions
    images = [{"id": index} for index in range(len(truth.images))]
    categories = [{"id": index} for index in range(len(truth.classes))]
    objects = [
        {
            "id": row + 1,  # 0 means "unmatched" inside pycocotools
            "image_id": int(truth.image[row]),
            "category_id": int(truth.label[row]),
            "bbox": xywh(truth, row),
            "area": float(truth.area[row]),
            "iscrowd": int(truth.crowd[row]),
        }
        for row in range(len(truth))
    ]
    proposals = [
        {
            "image_id": int(predictions.image[row]),
            "category_id": int(predictions.label[row]),
            "bbox": xywh(predictions, row),
            "score": float(predictions.scores[row]),
        }
        for row in range(len(predictions))
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {"images": images, "categories": categories, "annotations": objects}
        coco.createIndex()
        if proposals:
            results = coco.loadRes(proposals)
        else:
            results = COCO()
            results.dataset = {"images": images, "categories": categories, "annotations": []}
            results.createIndex()
        run = COCOeval(coco, results, "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    precision = run.eval["precision"][:, :, :, 0, 2]
    per_class = np.where((precision > -1).all(axis=1), precision.mean(axis=1), np.nan).T
    return np.where(run.stats > -1, run.stats, np.nan), per_class
