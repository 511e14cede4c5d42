import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from retrain.boxes import Annotations, Detections
from retrain.evaluation.curves import FROC_LEVELS, curves
from retrain.evaluation.truth import LabelledImage
from tests.unit.evaluation.worlds import evaluation, labelled, random_world, shuffled

A, B, C = [0, 0, 20, 20], [40, 0, 60, 20], [80, 80, 99, 99]
worlds = given(
    seed=st.integers(0, 1_000_000),
    images=st.integers(1, 12),
    detections=st.sampled_from([1, 2, 10, 30]),
    tied_scores=st.booleans(),
    crowds=st.sampled_from([0.0, 0.3, 1.0]),
)


@settings(max_examples=40, deadline=None)
@worlds
def test_curves_go_through_the_numbers_of_the_summary(seed, **world):
    one = evaluation(*random_world(seed, **world), 4)
    result, summary = curves(one), one.summary

    pairs = [(result.classes[name], summary.classes[name]) for name in one.truth.classes]
    for curve, scores in [*pairs, (result.overall, summary)]:
        points = np.flatnonzero(curve.operating.confidence >= one.confidence)
        if len(points):
            at = points[-1]
            assert curve.operating.precision[at] == scores.precision
            assert curve.operating.recall[at] == pytest.approx(scores.recall, nan_ok=True)
            assert curve.operating.f1[at] == pytest.approx(scores.f1)
        else:
            assert np.isnan(scores.precision)
        if np.isfinite(scores.best_f1):
            assert curve.operating.f1.max() == scores.best_f1


def test_average_precision_is_the_mean_of_the_interpolated_curve():
    one = evaluation(*random_world(3, images=40))
    curve = curves(one).classes["class 1"].operating

    at = np.searchsorted(curve.recall, np.linspace(0, 1, 101))
    levels = np.concatenate([curve.interpolated, [0.0]])[at]

    assert levels.mean() == pytest.approx(one.summary.classes["class 1"].ap50, abs=1e-12)


@settings(max_examples=40, deadline=None)
@worlds
def test_areas_under_both_curves_equal_those_of_sklearn(seed, **world):
    one = evaluation(*random_world(seed, **world))
    result = curves(one)

    for index, name in enumerate(one.truth.classes):
        counts = one.matches.counted & (one.predictions.label == index) & ~one.matches.ignored[:, 0]
        box = result.classes[name].box_correctness_roc
        assert_area(box, one.matches.hits[counts, 0], one.predictions.scores[counts])

        present, best = [], []
        for image in range(len(one.truth.images)):
            own = (one.truth.image == image) & (one.truth.label == index)
            if own.any() and one.truth.crowd[own].all():
                continue
            made = (one.predictions.image == image) & (one.predictions.label == index)
            present.append(bool(own.any()))
            best.append(one.predictions.scores[made].max(initial=0.0))
        assert_area(result.classes[name].image_presence_roc, np.array(present, dtype=bool), np.array(best))


def assert_area(curve, positive, scores):
    assert (curve.positives, curve.negatives) == (positive.sum(), (~positive).sum())
    if curve.positives and curve.negatives:
        assert curve.auc == pytest.approx(roc_auc_score(positive, scores))
        assert (curve.false_positive_rate[0], curve.true_positive_rate[0]) == (0, 0)
        assert (curve.false_positive_rate[-1], curve.true_positive_rate[-1]) == (1, 1)
        assert np.all(np.diff(curve.confidence) <= 0)
    else:
        assert np.isnan(curve.auc)
        assert len(curve.confidence) == 0


def test_each_roc_says_what_it_is_of():
    curve = curves(evaluation(*random_world(0))).overall.to_json()

    assert curve["image_presence_roc"]["kind"] == "image presence"
    assert curve["box_correctness_roc"]["kind"] == "box correctness"


def test_presence_is_of_images_and_correctness_of_boxes():
    thing, nothing = Annotations.of([A, B], [0, 0]), Annotations.empty()
    crowd = LabelledImage("crowd", "g", Annotations.of([A], [0]), [True])
    found = [
        # Sure that there is a thing, but the sure box is in the wrong place.
        Detections.of([C, A], [0, 0], [0.9, 0.6]),
        Detections.of([C], [0], [0.7]),
        Detections.empty(),
        Detections.of([C], [0], [0.95]),
    ]

    result = curves(evaluation(found, [*labelled(thing, nothing, nothing), crowd], 1)).classes["class 0"]

    presence, correctness = result.image_presence_roc, result.box_correctness_roc
    assert (presence.auc, presence.positives, presence.negatives) == (1.0, 1, 2)
    assert (correctness.auc, correctness.positives, correctness.negatives) == (0.0, 1, 3)


def test_froc_counts_objects_found_over_false_alarms_per_image():
    truth = [Annotations.of([A, B], [0, 0]), Annotations.empty()]
    found = [Detections.of([A, C, B], [0, 0, 0], [0.9, 0.8, 0.7]), Detections.of([C], [0], [0.6])]

    froc = curves(evaluation(found, labelled(*truth), 1)).classes["class 0"].froc

    assert froc.false_positives_per_image.tolist() == [0, 0.5, 0.5, 1.0]
    assert froc.sensitivity.tolist() == [0.5, 0.5, 1.0, 1.0]
    assert froc.at([0.0, 0.49, 0.5, 8]).tolist() == [0.5, 0.5, 1.0, 1.0]
    assert froc.score == pytest.approx(np.mean([0.5, 0.5, 1, 1, 1, 1, 1]))
    assert len(FROC_LEVELS) == 7


@pytest.mark.parametrize("what", ["objects", "detections"])
def test_without_objects_or_detections_curves_are_undefined_rather_than_good(what):
    found, images = random_world(1)
    if what == "objects":
        one = evaluation(found, labelled(*[Annotations.empty()] * len(found)))
    else:
        one = evaluation([Detections.empty()] * len(found), images)

    document = json.loads(json.dumps(curves(one).to_json(), allow_nan=False))["overall"]

    assert document["froc"]["score"] in ((None,) if what == "objects" else (0.0,))
    assert document["box_correctness_roc"]["auc"] is None
    assert set(document["operating"]["recall"]) <= {None}


def test_json_holds_no_more_points_than_asked_for_and_both_ends():
    curve = curves(evaluation(*random_world(2, images=60))).overall

    short = curve.to_json(points=20)["operating"]

    assert len(short["confidence"]) == 20
    assert (short["recall"][0], short["recall"][-1]) == (
        curve.operating.recall[0],
        curve.operating.recall[-1],
    )


def test_the_order_of_things_changes_nothing():
    found, images = random_world(5, crowds=0.3, grid=8, tied_scores=True)

    one, again = (curves(evaluation(*each)) for each in ((found, images), shuffled(found, images, 2)))

    assert one.to_json() == again.to_json()
