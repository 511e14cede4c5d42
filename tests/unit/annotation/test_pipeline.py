import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrain.annotation.pipeline import AutoLabeler
from retrain.boxes import Detections
from retrain.errors import ConfigError

FRAME = np.zeros((8, 8, 3), np.uint8)


def detections(scores):
    return Detections.of([[0, 0, i + 1, 1] for i in range(len(scores))], [0] * len(scores), scores)


def label(scores, **options):
    [answer] = AutoLabeler(lambda images: [detections(scores) for _ in images], **options).label_batch(
        [FRAME]
    )
    return answer


@pytest.mark.parametrize(
    ("scores", "needs_review", "reason"),
    [
        ([0.9, 0.8], False, "all 2 boxes are sure"),
        ([0.9, 0.79], True, "1 of 2 boxes score below 0.8"),
        ([0.9, 0.24], False, "all 1 boxes are sure"),
        ([0.24], True, "no boxes"),
        ([], True, "no boxes"),
    ],
)
def test_only_frames_whose_every_shown_box_is_sure_pass_unseen(scores, needs_review, reason):
    answer = label(scores)

    assert answer.needs_review is needs_review
    assert reason in answer.reason


@given(scores=st.lists(st.floats(0, 1), max_size=10), threshold=st.floats(0.25, 1))
def test_an_accepted_frame_has_boxes_and_no_unsure_one(scores, threshold):
    answer = label(scores, confidence_threshold=threshold)

    assert len(answer.annotations) == len(answer.proposal) == sum(score >= 0.25 for score in scores)
    assert answer.needs_review == (len(answer.proposal) == 0 or answer.proposal.scores.min() < threshold)


def test_without_review_every_frame_is_accepted_and_the_reason_says_so():
    answer = label([0.9, 0.3], require_review=False)

    assert not answer.needs_review
    assert answer.reason == "accepted unreviewed: 1 of 2 boxes score below 0.8"
    assert len(answer.annotations) == 2


def test_a_batch_keeps_its_order():
    labeler = AutoLabeler(lambda images: [detections([0.9] * int(image.max())) for image in images])

    answers = labeler.label_batch([FRAME + np.uint8(3), FRAME, FRAME + np.uint8(1)])

    assert [len(answer.annotations) for answer in answers] == [3, 0, 1]
    assert labeler.label_batch([]) == []


def test_a_model_that_answers_fewer_frames_than_asked_is_an_error():
    with pytest.raises(ValueError, match="shorter"):
        AutoLabeler(lambda images: [detections([0.9])]).label_batch([FRAME, FRAME])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "either predict or model_path"),
        ({"predict": len, "model_path": "x"}, "either predict or model_path"),
        ({"predict": len, "confidence_threshold": 1.1}, "1.1"),
        ({"predict": len, "confidence_threshold": 0.2}, "floor"),
    ],
)
def test_a_labeler_needs_one_model_and_a_usable_threshold(options, message):
    with pytest.raises(ConfigError, match=message):
        AutoLabeler(**options)


def test_annotations_can_be_stored_as_json():
    assert json.loads(json.dumps(label([0.9]).annotations.to_json())) == {
        "boxes": [[0, 0, 1, 1]],
        "classes": [0],
    }
