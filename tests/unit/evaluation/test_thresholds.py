import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrain.boxes import Annotations, Detections, iou_matrix
from retrain.errors import BadInput
from retrain.evaluation.thresholds import fit_thresholds
from tests.unit.evaluation.worlds import evaluation, labelled, random_world, shuffled

A, B, C = [0, 0, 20, 20], [40, 0, 60, 20], [80, 80, 99, 99]


def lrp_at(one, confidence, index):
    """By its definition, from detections with at least this confidence matched anew."""
    made = one.predictions
    found = [
        Detections.of(made.boxes[keep], made.label[keep], made.scores[keep])
        for image in range(len(one.truth.images))
        for keep in [(made.image == image) & (made.scores >= confidence)]
    ]
    images = [
        Annotations.of(one.truth.boxes[own], one.truth.label[own])
        for image in range(len(one.truth.images))
        for own in [one.truth.image == image]
    ]
    again = evaluation(found, labelled(*images))
    own = np.flatnonzero(again.predictions.label == index)
    hit = own[again.matches.hits[own, 0]]
    objects = int((again.truth.label == index).sum())
    badness = sum(
        1
        - iou_matrix(again.predictions.boxes[[row]], again.truth.boxes[[again.matches.object_of[row, 0]]])[
            0, 0
        ]
        for row in hit
    )
    wrong, missed = len(own) - len(hit), objects - len(hit)
    return (badness / 0.5 + wrong + missed) / (len(hit) + wrong + missed)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1_000_000), tied=st.booleans())
def test_no_other_confidence_is_better(seed, tied):
    one = evaluation(*random_world(seed, images=5, tied_scores=tied))

    fitted = fit_thresholds(one, "val")

    for index, name in enumerate(one.truth.classes):
        best = fitted.classes[name]
        scores = np.unique(one.predictions.scores[one.predictions.label == index])
        if not best.n_objects or not len(scores):
            assert np.isnan(best.lrp_confidence)
            continue
        each = [lrp_at(one, score, index) for score in scores]
        assert best.lrp == pytest.approx(min(each))
        assert lrp_at(one, best.lrp_confidence, index) == pytest.approx(best.lrp)
        assert (best.f1, best.f1_confidence) == (
            one.summary.classes[name].best_f1,
            one.summary.classes[name].best_confidence,
        )


def test_a_loose_box_is_worth_serving_for_f1_but_hardly_for_lrp():
    half = [0, 0, 20, 11]
    truth = Annotations.of([A, B], [0, 0])
    found = Detections.of([B, half, C], [0, 0, 0], [0.9, 0.5, 0.4])

    best = fit_thresholds(evaluation([found], labelled(truth), 1), "val").classes["class 0"]

    # At 0.5 both are found, one with IoU 0.55: (0 + 0.45 / 0.5) / 2.
    assert (best.f1, best.f1_confidence) == (1.0, 0.5)
    assert (best.lrp, best.lrp_confidence) == (pytest.approx(0.45), 0.5)
    assert best.lrp_localisation == pytest.approx(0.225)
    assert (best.lrp_false_positives, best.lrp_false_negatives) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("split", "why"), [("test", "scores would then be too good"), ("train", "surer"), ("x", "kept for")]
)
def test_only_the_val_split_may_be_fitted_on(split, why):
    with pytest.raises(BadInput, match=f"fitted on the val split, got '{split}': .*{why}"):
        fit_thresholds(evaluation(*random_world(0)), split)


def test_a_class_without_objects_is_served_with_the_confidence_of_all():
    one = evaluation(*random_world(0), 5)
    fitted = fit_thresholds(one, "val")

    confidences = fitted.confidences("lrp")

    assert confidences["class 4"] == fitted.overall.lrp_confidence
    assert confidences["class 0"] == fitted.classes["class 0"].lrp_confidence
    assert list(fitted.confidences()) == list(one.truth.classes)
    assert fitted.truth_digest == one.truth.digest
    with pytest.raises(BadInput, match="rule must be 'f1' or 'lrp', got 'best'"):
        fitted.confidences("best")


def test_nothing_found_gives_no_threshold():
    found, images = random_world(1)
    fitted = fit_thresholds(evaluation([Detections.empty()] * len(found), images), "val")

    assert fitted.overall.lrp == 1.0
    assert json.loads(json.dumps(fitted.to_json(), allow_nan=False))["overall"]["f1_confidence"] is None
    with pytest.raises(BadInput, match="No threshold can be fitted"):
        fitted.confidences()


def test_a_class_of_few_objects_is_served_as_all_together_are_and_all_of_few_as_is_said():
    few, many = Annotations.of([C], [1]), Annotations.of([A, B], [0, 0])
    images = labelled(many, many, few)
    sure = Detections.of([A, B], [0, 0], [0.9, 0.8])
    fitted = fit_thresholds(evaluation([sure, sure, Detections.of([C], [1], [0.3])], images, 2), "val")

    assert fitted.confidences() == {"class 0": 0.8, "class 1": 0.3}
    assert fitted.confidences(fewest=2) == {"class 0": 0.8, "class 1": 0.3}
    assert fitted.overall.f1_confidence == 0.3
    assert fitted.confidences(fewest=5, otherwise=0.7) == {"class 0": 0.3, "class 1": 0.3}
    assert fitted.confidences(fewest=6, otherwise=0.7) == {"class 0": 0.7, "class 1": 0.7}
    with pytest.raises(BadInput, match="No threshold can be fitted"):
        fitted.confidences(fewest=6)


def test_the_order_of_things_changes_nothing():
    found, images = random_world(5, crowds=0.3, grid=8, tied_scores=True)

    one, again = (
        fit_thresholds(evaluation(*each), "val") for each in ((found, images), shuffled(found, images, 2))
    )

    assert one.to_json() == again.to_json()
