import contextlib
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from retrain.boxes import Annotations, Detections
from retrain.errors import BadInput
from retrain.evaluation.matching import ImageMatch, match
from retrain.evaluation.metrics import pr_curve, summarise


def random_world(seed, images=12, classes=3, detections=10, grid=None, tied_scores=False):
    """Objects, and detections scattered around them; on a grid, so that IoUs tie and hit thresholds exactly."""
    rng = np.random.default_rng(seed)
    found, truth = [], []
    for _ in range(images):
        m, k = rng.integers(0, 6), rng.integers(0, detections)
        corner = rng.uniform(0, 100, (m, 2))
        boxes = np.hstack([corner, corner + rng.uniform(8, 40, (m, 2))])
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
        truth.append(Annotations.of(boxes, labels))
    return found, truth


def pycocotools_map(found, truth, classes):
    def xywh(box):
        return [float(box[0]), float(box[1]), float(box[2] - box[0]), float(box[3] - box[1])]

    images = [{"id": index} for index in range(len(truth))]
    categories = [{"id": index} for index in range(classes)]
    objects = [
        {"image_id": image, "category_id": int(label), "bbox": xywh(box), "area": xywh(box)[2] * xywh(box)[3]}
        for image, item in enumerate(truth)
        for box, label in zip(item.boxes, item.classes, strict=True)
    ]
    # Object id 0 means "unmatched" inside pycocotools.
    objects = [{**item, "id": number, "iscrowd": 0} for number, item in enumerate(objects, start=1)]
    proposals = [
        {"image_id": image, "category_id": int(label), "bbox": xywh(box), "score": float(score)}
        for image, item in enumerate(found)
        for box, label, score in zip(item.boxes, item.classes, item.scores, strict=True)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {"images": images, "categories": categories, "annotations": objects}
        coco.createIndex()
        results = coco.loadRes(proposals) if proposals else COCO()
        if not proposals:
            results.dataset = {"images": images, "categories": categories, "annotations": []}
            results.createIndex()
        run = COCOeval(coco, results, "bbox")
        run.evaluate()
        run.accumulate()
    precision = run.eval["precision"][:, :, :, 0, 2]
    return tuple(
        values[values > -1].mean() if (values > -1).any() else np.nan for values in (precision[0], precision)
    )


def numbers(summary):
    return np.array(
        [summary.map50, summary.map50_95, summary.precision, summary.recall, *summary.per_class_ap50]
    )


def matched(found, truth):
    return [match(*pair) for pair in zip(found, truth, strict=True)]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("tied_scores", [False, True])
@pytest.mark.parametrize("grid", [None, 4])
def test_map_equals_pycocotools(seed, grid, tied_scores):
    found, truth = random_world(seed, grid=grid, tied_scores=tied_scores)

    # Two classes are in no image: COCO leaves them out of the mean.
    summary = summarise(matched(found, truth), n_classes=5)

    expected = pycocotools_map(found, truth, classes=5)
    assert (summary.map50, summary.map50_95) == pytest.approx(expected, abs=1e-9)


def test_map_equals_pycocotools_when_images_hold_more_than_100_detections_of_a_class():
    found, truth = random_world(0, images=4, classes=1, detections=400)
    assert max(len(item) for item in found) > 200

    summary = summarise(matched(found, truth), n_classes=1)

    assert (summary.map50, summary.map50_95) == pytest.approx(pycocotools_map(found, truth, 1), abs=1e-9)


def test_objects_without_any_detection_score_zero_as_in_pycocotools():
    _, truth = random_world(1)
    found = [Detections.empty()] * len(truth)

    summary = summarise(matched(found, truth), n_classes=3)

    assert summary.map50 == summary.map50_95 == pycocotools_map(found, truth, 3)[0] == 0
    assert summary.recall == 0.0
    assert np.isnan(summary.precision)


def test_images_without_objects_have_no_score_rather_than_a_good_one():
    found, _ = random_world(2)

    summary = summarise(matched(found, [Annotations.empty()] * len(found)), n_classes=3)

    assert np.isnan(summary.map50)
    assert np.isnan(summary.recall)
    assert summary.precision == 0.0
    assert summary.to_json()["map50"] is None


def test_detections_on_empty_images_lower_the_score():
    truth = Annotations.of([[0, 0, 10, 10]], [0])
    hit = match(Detections.of([[0, 0, 10, 10]], [0], [0.5]), truth)
    false_alarm = match(Detections.of([[0, 0, 10, 10]], [0], [0.9]), Annotations.empty())

    assert summarise([hit], 1).map50 == 1.0
    assert summarise([hit, false_alarm], 1).map50 == pytest.approx(0.5)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), weights=st.lists(st.integers(0, 4), min_size=8, max_size=8))
def test_a_weight_is_worth_as_many_copies_of_the_image(seed, weights):
    matches = matched(*random_world(seed, images=8))
    copies = [item for item, times in zip(matches, weights, strict=True) for _ in range(times)]

    weighted, copied = summarise(matches, 3, weights=np.array(weights)), summarise(copies, 3)

    assert numbers(weighted) == pytest.approx(numbers(copied), abs=1e-12, nan_ok=True)
    assert (weighted.n_images, weighted.n_objects) == (copied.n_images, copied.n_objects)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_scores_lie_in_zero_to_one_and_do_not_depend_on_the_order_of_images(seed):
    matches = matched(*random_world(seed))

    summary, reversed_summary = summarise(matches, 3), summarise(matches[::-1], 3)

    assert 0 <= summary.map50_95 <= summary.map50 <= 1
    assert numbers(reversed_summary) == pytest.approx(numbers(summary), abs=1e-12, nan_ok=True)


def test_precision_recall_and_f1_are_counted_at_the_given_confidence():
    truth = Annotations.of([[0, 0, 10, 10], [50, 50, 60, 60]], [0, 1])
    found = Detections.of([[0, 0, 10, 10], [50, 50, 60, 60], [80, 80, 90, 90]], [0, 1, 1], [0.9, 0.2, 0.8])

    at_half = summarise([match(found, truth)], 2, confidence=0.5)

    assert (at_half.precision, at_half.recall, at_half.f1) == (0.5, 0.5, 0.5)
    assert (at_half.n_objects, at_half.n_detections) == (2, 2)
    assert summarise([match(found, truth)], 2, confidence=0.1).recall == 1.0


def test_pr_curve_ends_at_the_recall_of_all_detections():
    matches = matched(*random_world(5))

    curve = pr_curve(matches, 1)

    objects = sum(int((item.truth_classes == 1).sum()) for item in matches)
    hits = sum(int(item.hits[item.classes == 1, 0].sum()) for item in matches)
    assert curve.recall[-1] == pytest.approx(hits / objects)
    assert np.all(np.diff(curve.recall) >= 0)
    assert np.all(np.diff(curve.scores) <= 0)
    assert len(pr_curve(matches, 4).recall) == 0


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_match_records_survive_json(seed):
    for item in matched(*random_world(seed, images=3)):
        again = ImageMatch.from_json(item.to_json())

        for field in ("classes", "scores", "hits", "truth_classes"):
            assert np.array_equal(getattr(again, field), getattr(item, field))
            assert getattr(again, field).dtype == getattr(item, field).dtype


def test_a_score_that_is_no_number_is_refused():
    poisoned = Detections(np.zeros((1, 4)), np.zeros(1, dtype=np.int64), np.array([np.nan]))

    with pytest.raises(BadInput, match="not finite"):
        match(poisoned, Annotations.empty())


def test_a_class_outside_the_range_is_refused():
    with pytest.raises(BadInput, match="class 7"):
        summarise([match(Detections.empty(), Annotations.of([[0, 0, 1, 1]], [7]))], n_classes=3)


@pytest.mark.parametrize("weights", [[1, -1], [1], [0.5, 0.5]])
def test_weights_must_be_one_whole_number_per_image(weights):
    with pytest.raises(BadInput, match="whole numbers"):
        summarise(matched(*random_world(0, images=2)), 3, weights=np.array(weights))
