import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrain.boxes import Annotations, Detections
from retrain.errors import BadInput, PostConditionFailed
from retrain.evaluation import metrics
from retrain.evaluation.coco import NUMBERS, coco_numbers
from retrain.evaluation.matching import IOU_THRESHOLDS
from retrain.evaluation.predictions import Predictions
from retrain.evaluation.truth import LabelledImage, Truth
from tests.unit.evaluation.worlds import by_pycocotools, copies, evaluation, labelled, random_world

ONE_BOX = Annotations.of([[0, 0, 10, 10]], [0])


def stats(one):
    return np.array([one.summary.coco[name] for name in NUMBERS])


def ap(one, weights=None):
    weights = np.ones(len(one.truth.images), dtype=np.int64) if weights is None else np.asarray(weights)
    return one.average_precision().resampled(weights[None, :], IOU_THRESHOLDS)[0]


def assert_as_pycocotools(one):
    expected, per_class = by_pycocotools(one)
    assert stats(one) == pytest.approx(expected, abs=1e-9, nan_ok=True)
    # Both of our ways: hotcoco's numbers, and what everything else is derived from.
    assert coco_numbers(one.truth, one.predictions).per_class == pytest.approx(
        per_class, abs=1e-9, nan_ok=True
    )
    assert ap(one) == pytest.approx(per_class, abs=1e-9, nan_ok=True)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 1_000_000),
    images=st.integers(1, 8),
    classes=st.integers(1, 4),
    detections=st.sampled_from([1, 2, 10, 30]),
    grid=st.sampled_from([None, 4, 16]),
    tied_scores=st.booleans(),
    crowds=st.sampled_from([0.0, 0.3, 1.0]),
    spread=st.sampled_from([9, 40, 200]),
)
def test_all_numbers_equal_those_of_pycocotools(seed, classes, **world):
    found, truth = random_world(seed, classes=classes, **world)
    # Two classes are in no image: COCO leaves them out of the mean.
    assert_as_pycocotools(evaluation(found, truth, classes + 2))


def test_the_same_when_images_hold_more_than_100_detections_of_a_class():
    found, truth = random_world(0, images=4, classes=1, detections=400)
    assert max(len(item) for item in found) > 200
    assert_as_pycocotools(evaluation(found, truth, 1))


@pytest.mark.parametrize("side", [32.0, 96.0, np.nextafter(32, 0), np.nextafter(96, 0)])
def test_the_same_at_the_edges_of_the_area_ranges(side):
    objects = Annotations.of([[0, 0, side, side], [200, 200, 200 + side, 210]], [0, 0])
    found = [Detections.of(objects.boxes, objects.classes, [0.9, 0.8])]
    assert_as_pycocotools(evaluation(found, labelled(objects)))


def test_areas_of_objects_may_be_other_than_those_of_their_boxes():
    image = LabelledImage("a", "g", ONE_BOX, areas=[96.0**2])
    one = evaluation([Detections.of(ONE_BOX.boxes, [0], [0.9])], [image], 1)
    assert_as_pycocotools(one)
    assert np.isnan(one.summary.coco["map_small"])
    assert one.summary.coco["map_large"] == pytest.approx(1.0)


def test_objects_without_any_detection_score_zero_as_in_pycocotools():
    _, truth = random_world(1)
    one = evaluation([Detections.empty()] * len(truth), truth)

    assert_as_pycocotools(one)
    assert one.summary.map50 == one.summary.map50_95 == one.summary.recall == 0
    assert np.isnan(one.summary.precision)


def test_images_without_objects_have_no_score_rather_than_a_good_one():
    found, _ = random_world(2)

    summary = evaluation(found, labelled(*[Annotations.empty()] * len(found))).summary

    assert np.isnan(summary.map50)
    assert np.isnan(summary.recall)
    assert summary.precision == 0.0
    assert summary.to_json()["map50"] is None


def test_detections_on_empty_images_lower_the_score():
    hit, false_alarm = (Detections.of(ONE_BOX.boxes, [0], [score]) for score in (0.5, 0.9))

    assert evaluation([hit], labelled(ONE_BOX), 1).summary.map50 == pytest.approx(1.0)
    both = evaluation([hit, false_alarm], labelled(ONE_BOX, Annotations.empty()), 1)
    assert both.summary.map50 == pytest.approx(0.5)


@pytest.mark.parametrize("found", [Detections.of([[0, 0, 10, 10]], [0], [0.9]), Detections.empty()])
@pytest.mark.parametrize("true", [Annotations.of([[0, 0, 10, 10]], [0]), Annotations.empty()])
def test_the_library_that_counts_prints_nothing(true, found, capfd):
    truth = Truth.of([LabelledImage("a", "a", true)], ["", "b"])

    coco_numbers(truth, Predictions.of(truth, {"a": found}))

    assert capfd.readouterr() == ("", "")


def test_what_is_found_in_a_crowd_counts_neither_way():
    crowd = LabelledImage(
        "a", "g", Annotations.of([[0, 0, 100, 100], [200, 0, 210, 10]], [0, 0]), [True, False]
    )
    found = Detections.of([[5, 5, 15, 15], [25, 5, 35, 15], [200, 0, 210, 10]], [0, 0, 0], [0.9, 0.8, 0.7])

    summary = evaluation([found], [crowd], 1).summary

    assert (summary.map50, summary.precision, summary.recall) == pytest.approx((1.0, 1.0, 1.0))
    assert (summary.n_objects, summary.n_detections) == (1, 1)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    weights=st.lists(st.integers(0, 4), min_size=8, max_size=8).filter(any),
    crowds=st.sampled_from([0.0, 0.3]),
)
def test_a_weight_is_worth_as_many_copies_of_the_image(seed, weights, crowds):
    one = evaluation(*random_world(seed, images=8, crowds=crowds))

    weighted, unweighted = ap(one, weights), ap(copies(one, weights))

    assert weighted == pytest.approx(unweighted, abs=1e-12, nan_ok=True)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), tied=st.booleans(), grid=st.sampled_from([None, 8]))
def test_the_order_of_images_objects_and_detections_changes_nothing(seed, tied, grid):
    found, images = random_world(seed, tied_scores=tied, grid=grid, crowds=0.2)
    rng = np.random.default_rng(seed)

    def shuffled(image, detections):
        objects, rows = rng.permutation(len(image.objects)), rng.permutation(len(detections))
        new = LabelledImage(
            image.image_id,
            image.group,
            Annotations.of(image.objects.boxes[objects], image.objects.classes[objects]),
            np.asarray(image.crowd)[objects],
        )
        return new, Detections(detections.boxes[rows], detections.classes[rows], detections.scores[rows])

    pairs = [shuffled(*pair) for pair in zip(images, found, strict=True)]
    order = rng.permutation(len(pairs))
    again = evaluation([pairs[row][1] for row in order], [pairs[row][0] for row in order])
    one = evaluation(found, images)

    assert again.summary.to_json() == one.summary.to_json()
    assert again.truth.digest == one.truth.digest
    assert 0 <= np.nan_to_num(one.summary.map50_95) <= np.nan_to_num(one.summary.map50) <= 1


def test_precision_recall_and_f1_are_counted_at_the_served_confidence():
    truth = Annotations.of([[0, 0, 10, 10], [50, 50, 60, 60]], [0, 1])
    found = Detections.of([[0, 0, 10, 10], [50, 50, 60, 60], [80, 80, 90, 90]], [0, 1, 1], [0.9, 0.2, 0.8])

    at_half = evaluation([found], labelled(truth), 2, confidence=0.5).summary

    assert (at_half.precision, at_half.recall, at_half.f1) == (0.5, 0.5, 0.5)
    assert (at_half.n_objects, at_half.n_detections) == (2, 2)
    first, second = at_half.classes["class 0"], at_half.classes["class 1"]
    assert (first.precision, first.recall, first.n_objects, first.n_detections) == (1.0, 1.0, 1, 1)
    assert (second.precision, second.recall) == (0.0, 0.0)
    assert evaluation([found], labelled(truth), 2, confidence=0.1).summary.recall == 1.0
    # A detection exactly at the confidence is served.
    assert evaluation([found], labelled(truth), 2, confidence=0.2).summary.recall == 1.0


def test_each_class_is_counted_at_its_own_served_confidence():
    truth = Annotations.of([[0, 0, 10, 10], [50, 50, 60, 60]], [0, 1])
    found = Detections.of([[0, 0, 10, 10], [50, 50, 60, 60], [80, 80, 90, 90]], [0, 1, 1], [0.5, 0.2, 0.3])

    one = evaluation([found], labelled(truth), 2, confidence={"class 0": 0.6, "class 1": 0.2})

    first, second = (one.summary.classes[f"class {index}"] for index in (0, 1))
    assert (first.recall, first.n_detections) == (0.0, 0)
    assert (first.confidence, second.confidence) == (0.6, 0.2)
    assert (second.precision, second.recall) == (0.5, 1.0)
    assert (one.summary.precision, one.summary.recall, one.summary.n_detections) == (0.5, 0.5, 2)
    assert one.summary.to_json()["confidence"] == {"class 0": 0.6, "class 1": 0.2}


def test_the_best_f1_is_the_highest_of_all_confidences():
    truth = Annotations.of([[0, 0, 10, 10], [50, 50, 60, 60]], [0, 0])
    boxes = [[0, 0, 10, 10], [80, 80, 90, 90], [50, 50, 60, 60], [20, 80, 30, 90]]
    found = Detections.of(boxes, [0] * 4, [0.9, 0.5, 0.5, 0.2])

    summary = evaluation([found], labelled(truth), 1).summary

    # One of two at 0.9: F1 2/3. At 0.5 both, whatever their order: 4/5.
    assert (summary.best_f1, summary.best_confidence) == (0.8, 0.5)
    assert (summary.classes["class 0"].best_f1, summary.classes["class 0"].best_confidence) == (0.8, 0.5)
    one_class = evaluation([found], labelled(truth), 1, confidence=summary.best_confidence).summary
    assert one_class.f1 == summary.best_f1


def test_pr_curve_ends_at_the_recall_of_all_detections():
    one = evaluation(*random_world(5), classes=5)

    curve = one.calculator.pr_curve(1)

    own = one.predictions.label == 1
    assert curve.recall[-1] == one.matches.hits[own, 0].sum() / (one.truth.label == 1).sum()
    assert np.all(np.diff(curve.recall) >= 0)
    assert np.all(np.diff(curve.scores) <= 0)
    assert len(one.calculator.pr_curve(4).recall) == 0


def test_two_ways_to_the_number_that_disagree_are_an_error(monkeypatch):
    one = evaluation(*random_world(3))

    def wrong(truth, predictions):
        numbers = coco_numbers(truth, predictions)
        numbers.per_class[0, 3] += 1e-5
        return numbers

    monkeypatch.setattr(metrics, "coco_numbers", wrong)
    with pytest.raises(PostConditionFailed, match=r"class 'class 0' at IoU 0.65 .* neither can be relied on"):
        _ = one.summary


@pytest.mark.parametrize("part", ["boxes", "scores"])
def test_what_is_no_number_is_refused(part):
    parts = {"boxes": np.zeros((1, 4)), "classes": np.zeros(1, dtype=np.int64), "scores": np.ones(1)}
    parts[part] = parts[part] * np.nan

    with pytest.raises(BadInput, match="not finite"):
        evaluation([Detections(**parts)], labelled(ONE_BOX))


def test_a_class_outside_the_range_is_refused():
    with pytest.raises(BadInput, match="Image '0000' has an object of class 7, but there are 3 classes"):
        evaluation([Detections.empty()], labelled(Annotations.of([[0, 0, 1, 1]], [7])))
    with pytest.raises(BadInput, match="detection has class 7, but there are 3 classes"):
        evaluation([Detections.of([[0, 0, 1, 1]], [7], [0.5])], labelled(ONE_BOX))
    with pytest.raises(BadInput, match="1 objects, but 2 values of crowd"):
        evaluation([Detections.empty()], [LabelledImage("a", "g", ONE_BOX, [True, False])])


def test_images_that_are_unknown_or_missing_are_refused():
    truth = Truth.of(labelled(ONE_BOX, ONE_BOX), ["a"])
    with pytest.raises(
        BadInput, match="1 images were predicted that are not among the 2 labelled ones, first 'x'"
    ):
        Predictions.of(truth, {"0000": Detections.empty(), "x": Detections.empty()})
    with pytest.raises(BadInput, match="1 labelled images were not predicted, first '0001'"):
        Predictions.of(truth, {"0000": Detections.empty()})
