import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrain.boxes import Detections
from retrain.data_collection.frame import (
    Frame,
    Seen,
    checked_confidence,
    frame_confidence,
    mirrored_back,
    scores_confidence,
)
from retrain.errors import BadInput

scores = st.floats(0, 1)
spans = st.tuples(st.integers(0, 640), st.integers(0, 640)).map(sorted)
boxes = st.tuples(spans, spans).map(lambda spans: [spans[0][0], spans[1][0], spans[0][1], spans[1][1]])


@pytest.mark.parametrize(
    ("values", "minimum", "mean"),
    [([0.9, 0.5, 0.1], 0.5, 0.7), ([0.25], 0.25, 0.25), ([0.24], None, None), ([], None, None)],
)
def test_a_frames_confidence_is_that_of_the_boxes_it_shows(values, minimum, mean):
    assert scores_confidence(values) == minimum
    assert scores_confidence(values, "mean") == (mean if mean is None else pytest.approx(mean))


@given(values=st.lists(scores, max_size=8), floor=scores)
def test_the_minimum_never_exceeds_the_mean_nor_falls_under_the_floor(values, floor):
    lowest = scores_confidence(values, "minimum", floor)
    mean = scores_confidence(values, "mean", floor)

    assert (lowest is None) == (mean is None) == all(value < floor for value in values)
    if lowest is not None:
        assert floor <= lowest <= mean + 1e-12


@given(values=st.lists(scores, max_size=8), rule=st.sampled_from(["minimum", "mean"]))
def test_detections_have_the_confidence_of_their_scores(values, rule):
    detections = Detections.of([[0, 0, 1, 1]] * len(values), [0] * len(values), values)

    assert frame_confidence(detections, rule) == scores_confidence(sorted(values, reverse=True), rule)


@pytest.mark.parametrize("confidence", [-0.01, 1.2, float("nan"), float("inf")])
def test_a_confidence_outside_0_to_1_is_refused(confidence):
    with pytest.raises(BadInput, match=r"Confidence must be in \[0, 1\] or None .*, got"):
        checked_confidence(confidence)


def test_a_valid_confidence_becomes_a_float_and_none_stays():
    assert type(checked_confidence(1)) is float
    assert checked_confidence(None) is None


def test_a_box_at_the_left_of_the_mirror_image_is_at_the_right_of_the_picture():
    assert mirrored_back([[10, 20, 110, 220]], width=640) == [[530, 20, 630, 220]]


@given(found=st.lists(boxes, max_size=5))
def test_mirroring_twice_changes_nothing(found):
    assert mirrored_back(mirrored_back(found, 640), 640) == found


def test_a_frame_gives_its_own_prediction_in_plain_numbers():
    seen = Seen.of(Detections.of([[1, 2, 3, 4], [0, 0, 5, 5]], [7, 8], [0.3, 0.9]))

    frame = Frame(0.3, *seen)

    assert frame.prediction == seen == ([[0, 0, 5, 5], [1, 2, 3, 4]], [8, 7], [0.9, 0.3])
    assert type(frame.scores[0]) is float
