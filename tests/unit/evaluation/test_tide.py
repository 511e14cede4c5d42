import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from retrain.boxes import Annotations, Detections
from retrain.evaluation.tide import ERROR_TYPES, Tide
from retrain.evaluation.truth import LabelledImage
from tests.unit.evaluation.tide_oracle import by_tidecv, plain_tidecv
from tests.unit.evaluation.worlds import evaluation, labelled, random_world, shuffled

TOLERANCE = 1e-6
A, B, C = [0, 0, 20, 20], [40, 0, 60, 20], [80, 40, 100, 60]


def kinds(one):
    tide = Tide(one)
    return {int(row): ERROR_TYPES[tide.kind[row]] for row in np.flatnonzero(tide.kind >= 0)}


@settings(max_examples=120, deadline=None)
@given(
    seed=st.integers(0, 1_000_000),
    images=st.integers(1, 10),
    classes=st.integers(1, 4),
    detections=st.sampled_from([1, 2, 10, 30]),
    crowds=st.sampled_from([0.0, 0.3]),
    grid=st.sampled_from([None, 4, 16]),
    spread=st.sampled_from([9, 40, 200]),
)
def test_types_and_gains_equal_those_of_tidecv(seed, classes, **world):
    one = evaluation(*random_world(seed, classes=classes, **world), classes + 1)
    assume((~one.truth.crowd).any())
    expected = by_tidecv(one)
    errors = Tide(one).errors

    assert kinds(one) == expected["kinds"]
    assert errors.counts == expected["counts"]
    # With 10, 20, ... objects tidecv's recall levels, as floats, differ from pycocotools'.
    assume(not any(number and number % 10 == 0 for number in expected["asked"]))
    assert errors.delta_ap == pytest.approx(expected["delta_ap"], abs=TOLERANCE, nan_ok=True)
    assert errors.false_positives == pytest.approx(expected["false_positives"], abs=TOLERANCE, nan_ok=True)
    assert errors.false_negatives == pytest.approx(expected["false_negatives"], abs=TOLERANCE, nan_ok=True)
    assert errors.map50 == pytest.approx(expected["map50"], abs=TOLERANCE, nan_ok=True)
    assert errors.map50 == pytest.approx(one.summary.map50, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1_000_000), detections=st.sampled_from([10, 30]), grid=st.sampled_from([None, 8]))
def test_types_equal_those_of_tidecv_also_with_equal_scores(seed, **world):
    one = evaluation(*random_world(seed, tied_scores=True, images=6, **world))
    expected = by_tidecv(one)

    assert kinds(one) == expected["kinds"]
    assert Tide(one).errors.counts == expected["counts"]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_where_tidecv_has_no_ways_of_its_own_it_is_asked_as_it_is(seed):
    one = evaluation(*random_world(seed, images=60, detections=20))

    errors = Tide(one).errors

    gains, special = plain_tidecv(one)
    assert errors.delta_ap == pytest.approx(gains, abs=1e-3)
    assert [errors.false_positives, errors.false_negatives] == pytest.approx(special, abs=1e-3)
    assert min(errors.counts.values()) > 0


def test_each_type_of_error_has_an_example_and_its_gain():
    truth = Annotations.of([A, B, C], [0, 0, 1])
    found = Detections.of(
        [A, A, [40, 0, 60, 8], C, [60, 60, 99, 99], [80, 48, 100, 68]],
        [0, 0, 0, 0, 1, 0],
        [0.9, 0.8, 0.7, 0.6, 0.5, 0.4],
    )

    tide = Tide(evaluation([found], labelled(truth), 2))

    named = [ERROR_TYPES[code] if code >= 0 else "right" for code in tide.kind]
    assert named == ["right", "duplicate", "localisation", "classification", "background", "both"]
    assert tide.target.tolist() == [-1, 0, 1, 2, -1, -1]
    # Of class 0, one of two is found first; of class 1 nothing is, and a wrong detection scores less than C's.
    base = 51 / 101 / 2
    assert tide.errors.map50 == pytest.approx(base)
    assert tide.errors.delta_ap["localisation"] == pytest.approx((51 + 50 * 2 / 3) / 101 / 2 - base)
    assert tide.errors.delta_ap["classification"] == pytest.approx((51 / 101 + 1) / 2 - base)
    assert tide.errors.delta_ap["missed"] == 0
    assert tide.errors.false_negatives == pytest.approx(0.5 - base)
    assert tide.errors.counts == {name: int(name != "missed") for name in ERROR_TYPES}


def test_only_the_best_of_two_loose_boxes_is_put_right():
    loose, looser = [0, 0, 20, 9], [0, 0, 20, 8]
    one = evaluation(
        [Detections.of([looser, loose], [0, 0], [0.9, 0.8])], labelled(Annotations.of([A], [0])), 1
    )

    errors = Tide(one).errors

    assert errors.counts["localisation"] == 2
    assert errors.delta_ap["localisation"] == 1.0
    assert errors.counts["missed"] == 0


def test_an_object_that_nothing_is_near_is_missed_and_no_longer_asked_for():
    truth = Annotations.of([A, B], [0, 0])

    errors = Tide(evaluation([Detections.of([A], [0], [0.9])], labelled(truth), 1)).errors

    assert errors.counts["missed"] == 1
    assert errors.map50 + errors.delta_ap["missed"] == 1.0


def test_a_model_that_finds_nothing_and_images_without_objects():
    found, images = random_world(2)
    blind = Tide(evaluation([Detections.empty()] * len(found), images)).errors
    empty = Tide(evaluation(found, labelled(*[Annotations.empty()] * len(found)))).errors

    assert blind.counts["missed"] == sum(len(image.objects) for image in images)
    assert np.isnan(blind.delta_ap["missed"])
    assert blind.delta_ap["background"] == 0
    assert empty.counts["background"] == sum(len(each) for each in found)
    assert empty.to_json()["map50"] is None


def test_what_is_found_in_a_crowd_is_no_error():
    crowd = LabelledImage("a", "g", Annotations.of([[0, 0, 90, 90]], [0]), [True])

    tide = Tide(evaluation([Detections.of([A], [0], [0.9])], [crowd], 1))

    assert sum(tide.errors.counts.values()) == 0
    assert tide.kind.tolist() == [-1]


def test_the_order_of_things_changes_nothing():
    found, images = random_world(5, crowds=0.3, grid=8, tied_scores=True)

    one, again = (Tide(evaluation(*each)) for each in ((found, images), shuffled(found, images, 2)))

    assert one.errors == again.errors
    assert one.kind.tolist() == again.kind.tolist()
