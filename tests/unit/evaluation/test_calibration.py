import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrain.boxes import Annotations, Detections
from retrain.errors import BadInput
from retrain.evaluation.calibration import calibration
from retrain.evaluation.coco import _evaluator
from tests.unit.evaluation.worlds import evaluation, labelled, random_world, shuffled


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1_000_000),
    images=st.integers(1, 12),
    detections=st.sampled_from([2, 10, 30]),
    tied_scores=st.booleans(),
    crowds=st.sampled_from([0.0, 0.3]),
    bins=st.sampled_from([1, 4, 10]),
)
def test_errors_and_bins_equal_those_of_hotcoco(seed, bins, **world):
    one = evaluation(*random_world(seed, **world))
    run = _evaluator(one.truth, one.predictions)
    run.evaluate()
    expected = run.calibration(n_bins=bins, iou_threshold=0.5)

    report = calibration(one, bins=bins)

    assert report.overall.count == expected["num_detections"]
    if not report.overall.count:
        return
    assert report.overall.ece == pytest.approx(expected["ece"])
    assert report.overall.mce == pytest.approx(expected["mce"])
    for ours, theirs in zip(report.overall.bins, expected["bins"], strict=True):
        assert ours.count == theirs["count"]
        if ours.count:
            assert ours.confidence == pytest.approx(theirs["avg_confidence"])
            assert ours.precision == pytest.approx(theirs["avg_accuracy"])
    for name, error in expected["per_category"].items():
        assert report.classes[name].ece == pytest.approx(error)


def test_nine_right_of_ten_at_confidence_one_half_are_underconfident():
    boxes = [[30 * n, 0, 30 * n + 20, 20] for n in range(10)]
    one = evaluation(
        [Detections.of(boxes, [0] * 10, [0.5] * 10)], labelled(Annotations.of(boxes[:9], [0] * 9)), 1
    )

    overall = calibration(one).overall

    assert (overall.ece, overall.mce, overall.bias) == pytest.approx((0.4, 0.4, -0.4))
    assert [each.count for each in overall.bins] == [0] * 5 + [10] + [0] * 4


def test_weak_detections_can_be_left_out():
    one = evaluation(*random_world(3))

    assert calibration(one, at_least=0.5).overall.count == (one.predictions.scores >= 0.5).sum()
    assert calibration(one, at_least=1.1).overall.count == 0


def test_nothing_to_calibrate_is_null_in_json_and_no_bin_is_refused():
    found, images = random_world(4)
    report = calibration(evaluation([Detections.empty()] * len(found), images))

    document = json.loads(json.dumps(report.to_json(), allow_nan=False))

    assert document["overall"]["ece"] is None
    assert document["overall"]["bins"][0]["precision"] is None
    with pytest.raises(BadInput, match="bins must be at least 1, got 0"):
        calibration(evaluation(found, images), bins=0)


def test_the_order_of_things_changes_nothing():
    found, images = random_world(5, crowds=0.3, grid=8, tied_scores=True)

    one, again = (calibration(evaluation(*each)) for each in ((found, images), shuffled(found, images, 2)))

    assert one.to_json() == again.to_json()
    assert np.isfinite(one.overall.ece)
