import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrain.boxes import Annotations, Detections
from retrain.errors import BadInput
from retrain.evaluation.coco import _evaluator
from retrain.evaluation.confusion import confusion_matrix
from retrain.evaluation.truth import LabelledImage
from tests.unit.evaluation.worlds import evaluation, labelled, random_world, shuffled

A, B, C, D = [0, 0, 20, 20], [40, 0, 60, 20], [0, 40, 20, 60], [80, 80, 99, 99]


def test_right_confused_missed_and_made_up_each_have_their_cell():
    truth = Annotations.of([A, B, C], [0, 1, 1])
    found = Detections.of([A, B, D, C], [0, 0, 1, 1], [0.9, 0.8, 0.7, 0.1])

    matrix = confusion_matrix(evaluation([found], labelled(truth), 2))

    assert matrix.counts.tolist() == [[1, 0, 0], [1, 0, 1], [0, 1, 0]]
    assert matrix.by_truth.tolist()[:2] == [[1, 0, 0], [0.5, 0, 0.5]]
    assert matrix.by_prediction[:, 0].tolist() == [0.5, 0.5, 0]
    lower = confusion_matrix(evaluation([found], labelled(truth), 2), confidence=0.1)
    assert lower.counts[1].tolist() == [1, 1, 0]


def test_the_surest_detection_takes_the_object_whatever_its_class():
    truth = Annotations.of([A], [0])
    found = Detections.of([A, A], [1, 0], [0.9, 0.8])

    one = evaluation([found], labelled(truth), 2)

    assert confusion_matrix(one).counts.tolist() == [[0, 1, 0], [0, 0, 0], [1, 0, 0]]
    assert one.summary.recall == 1.0


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1_000_000),
    images=st.integers(1, 8),
    classes=st.integers(1, 4),
    detections=st.sampled_from([1, 10, 30]),
    confidence=st.sampled_from([0.0, 0.25, 0.9]),
    iou=st.sampled_from([0.5, 0.75, 0.95]),
)
def test_counts_equal_those_of_hotcoco(seed, classes, confidence, iou, **world):
    one = evaluation(*random_world(seed, classes=classes, **world), classes)

    expected = _evaluator(one.truth, one.predictions).confusion_matrix(
        iou_thr=iou, max_det=10_000, min_score=confidence
    )

    assert (
        confusion_matrix(one, confidence=confidence, iou=iou).counts.tolist() == expected["matrix"].tolist()
    )


def test_counts_equal_those_of_ultralytics_which_has_truth_in_columns():
    import torch
    from ultralytics.utils.metrics import ConfusionMatrix

    one = evaluation(*random_world(4, images=60, detections=20))
    theirs = ConfusionMatrix(dict(enumerate(one.truth.classes)))
    for image in range(60):
        own, true = one.predictions.image == image, one.truth.image == image
        theirs.process_batch(
            {
                "cls": torch.tensor(one.predictions.label[own]),
                "conf": torch.tensor(one.predictions.scores[own]),
                "bboxes": torch.tensor(one.predictions.boxes[own]),
            },
            {"cls": torch.tensor(one.truth.label[true]), "bboxes": torch.tensor(one.truth.boxes[true])},
            conf=0.25,
            iou_thres=0.5,
        )

    assert confusion_matrix(one).counts.T.tolist() == theirs.matrix.tolist()
    assert theirs.matrix.sum() > 300


def test_crowds_and_what_is_found_in_them_are_left_out():
    crowd = LabelledImage("a", "g", Annotations.of([[0, 0, 90, 90], A], [0, 1]), [True, False])
    found = Detections.of([A, [30, 30, 50, 50], [30, 30, 50, 50]], [1, 0, 1], [0.9, 0.8, 0.7])

    counts = confusion_matrix(evaluation([found], [crowd], 2)).counts

    # The second lies in a crowd of its class; the third does not.
    assert counts.tolist() == [[0, 0, 0], [0, 1, 0], [0, 1, 0]]


def test_an_image_may_hold_more_than_100_detections_of_all_classes():
    corner = np.stack(np.meshgrid(np.arange(15), np.arange(10)), -1).reshape(-1, 2) * 30.0
    boxes, label = np.hstack([corner, corner + 20]), np.arange(150) % 3
    found = [Detections.of(boxes, label, np.linspace(0.3, 1, 150))]

    assert np.diag(confusion_matrix(evaluation(found, labelled(Annotations.of(boxes, label)))).counts).tolist() == [
        50, 50, 50, 0,
    ]  # fmt: skip


def test_order_changes_nothing_and_shares_of_nothing_are_null():
    found, images = random_world(7, crowds=0.3, grid=8, tied_scores=True)

    one, again = (
        confusion_matrix(evaluation(*each, 4)) for each in ((found, images), shuffled(found, images, 1))
    )

    assert one.to_json() == again.to_json()
    document = json.loads(json.dumps(one.to_json(), allow_nan=False))
    assert document["by_truth"][3] == [None] * 5
    assert document["classes"] == [f"class {index}" for index in range(4)]


def test_an_overlap_that_nothing_was_matched_at_is_refused():
    with pytest.raises(BadInput, match=r"iou must be one of \[0.5, .*, got 0.45"):
        confusion_matrix(evaluation(*random_world(0)), iou=0.45)
