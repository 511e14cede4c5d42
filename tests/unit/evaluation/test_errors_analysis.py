import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrain.boxes import Annotations, Detections, iou_matrix
from retrain.errors import BadInput
from retrain.evaluation.errors_analysis import ErrorAnalyzer, per_image_counts
from retrain.evaluation.truth import LabelledImage
from tests.unit.evaluation.worlds import evaluation, labelled, random_world, shuffled

A, B, C, D = [0, 0, 20, 20], [40, 0, 60, 20], [0, 40, 20, 60], [80, 80, 99, 99]


def plain_map50(one, hits, counts, classes):
    """Mean over classes of the mean precision at objects, 0 at those not found; without interpolation."""
    values = []
    for index in classes:
        rows = np.flatnonzero((one.predictions.label == index) & counts)
        rows = rows[np.lexsort((rows, -one.predictions.scores[rows]))]
        right = hits[rows]
        precision = np.cumsum(right) / np.arange(1, len(rows) + 1)
        values.append(precision[right].sum() / ((one.truth.label == index) & ~one.truth.crowd).sum())
    return float(np.mean(values))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1_000_000), tied=st.booleans(), crowds=st.sampled_from([0.0, 0.3]))
def test_costs_are_what_would_be_gained_without_the_error(seed, tied, crowds):
    one = evaluation(*random_world(seed, images=5, tied_scores=tied, crowds=crowds), confidence=0.3)
    classes = sorted(set(one.truth.label[~one.truth.crowd].tolist()))
    if not classes:
        return
    counts, hits = one.matches.counted & ~one.matches.ignored[:, 0], one.matches.hits[:, 0]
    before = plain_map50(one, hits, counts, classes)

    analysis = ErrorAnalyzer(one)
    wrong = analysis.false_positives()
    served = counts & (one.predictions.scores >= 0.3)
    assert len(wrong) == (served & ~hits).sum()
    gains = []
    for row in np.flatnonzero(served & ~hits):
        without = counts.copy()
        without[row] = False
        gains.append(plain_map50(one, hits, without, classes) - before)
    assert [each.cost for each in wrong] == pytest.approx(sorted(gains, reverse=True), abs=1e-12)

    missed = analysis.false_negatives()
    gains = [
        gain_if_found_first(one, row, classes) - before
        for row in np.flatnonzero(~one.matches.found(len(one.truth), keep=served) & ~one.truth.crowd)
    ]
    assert [each.cost for each in missed] == pytest.approx(sorted(gains, reverse=True), abs=1e-12)


def gain_if_found_first(one, row, classes):
    """With the detection that found it, or one more, before all others."""
    hits, counts = one.matches.hits[:, 0].copy(), one.matches.counted & ~one.matches.ignored[:, 0]
    made = one.predictions
    finder = np.flatnonzero(hits & (one.matches.object_of[:, 0] == row))
    counts[finder] = False
    first = replace(
        made,
        image=np.append(made.image, 0),
        label=np.append(made.label, one.truth.label[row]),
        boxes=np.vstack([made.boxes, one.truth.boxes[row]]),
        scores=np.append(made.scores, 2.0),
    )
    changed = replace(one, predictions=first)
    return plain_map50(changed, np.append(hits, True), np.append(counts, True), classes)


def test_rows_say_what_is_wrong_where_and_with_what():
    truth = Annotations.of([A, B, C, D], [0, 0, 1, 1])
    loose, weak = [40, 0, 60, 9], 0.1
    found = Detections.of([A, A, loose, C], [0, 0, 0, 1], [0.9, 0.8, 0.7, weak])

    analysis = ErrorAnalyzer(evaluation([found], labelled(truth), 2))
    wrong = {each.type: each for each in analysis.false_positives()}
    missed = {each.type: each for each in analysis.false_negatives()}

    assert set(wrong) == {"duplicate", "localisation"}
    assert (wrong["localisation"].box, wrong["localisation"].other_box) == (tuple(loose), tuple(B))
    assert (wrong["localisation"].image_id, wrong["localisation"].score) == ("0000", 0.7)
    assert set(missed) == {"localisation", "low score", "missed"}
    assert (missed["low score"].score, missed["low score"].box) == (weak, tuple(C))
    assert missed["localisation"].other_box == tuple(loose)
    assert np.isnan(missed["missed"].score)
    assert missed["missed"].other_class is None
    assert missed["missed"].class_name == "class 1"


def test_the_costliest_come_first_and_of_equal_ones_the_largest_object():
    truth = Annotations.of([A, [40, 0, 80, 40]], [0, 0])

    missed = ErrorAnalyzer(evaluation([Detections.empty()], labelled(truth), 1)).false_negatives()

    assert [each.box for each in missed] == [(40, 0, 80, 40), tuple(A)]
    assert [each.cost for each in missed] == [0.5, 0.5]
    found, images = random_world(3, images=20)
    wrong = ErrorAnalyzer(evaluation(found, images)).false_positives(limit=7)
    assert len(wrong) == 7
    assert all(one.cost >= two.cost for one, two in pairwise(wrong))


def test_of_two_that_are_near_a_missed_object_the_surer_is_told():
    loose, looser = [0, 0, 20, 9], [0, 0, 20, 8]
    found = Detections.of([loose, looser], [0, 0], [0.4, 0.9])

    missed = ErrorAnalyzer(evaluation([found], labelled(Annotations.of([A], [0])), 1)).false_negatives()

    assert [(each.type, each.score, each.other_box) for each in missed] == [
        ("localisation", 0.9, tuple(looser))
    ]


def test_how_boxes_are_off_is_told_in_sizes_of_the_object():
    truth = Annotations.of([[100, 100, 200, 150]], [0])
    found = Detections.of([[110, 95, 190, 155]], [0], [0.9])

    off = ErrorAnalyzer(evaluation([found], labelled(truth), 1)).localisation("class 0")

    assert (off.width_ratio[0], off.height_ratio[0]) == pytest.approx((0.8, 1.2))
    assert (off.offset_x[0], off.offset_y[0]) == (0.0, 0.0)
    assert off.iou[0] == pytest.approx(4000 / (5000 + 4800 - 4000))
    assert off.to_json()["iou_histogram"] == [0, 0, 0, 1, 0, 0, 0, 0, 0, 0]
    right_and_down = Detections.of([[110, 110, 210, 160]], [0], [0.9])
    off = ErrorAnalyzer(evaluation([right_and_down], labelled(truth), 1)).localisation()
    assert (off.offset_x[0], off.offset_y[0]) == pytest.approx((0.1, 0.2))
    with pytest.raises(BadInput, match="No class 'cat'; there are class 0"):
        ErrorAnalyzer(evaluation([found], labelled(truth), 1)).localisation("cat")


def test_overlaps_are_those_of_the_pairs_that_were_matched():
    one = evaluation(*random_world(8, images=40, spread=20))

    off = ErrorAnalyzer(one).localisation()

    rows = np.flatnonzero((one.predictions.scores >= one.confidence) & one.matches.hits[:, 0])
    objects = one.matches.object_of[rows, 0]
    expected = np.diag(iou_matrix(one.predictions.boxes[rows], one.truth.boxes[objects]))
    assert len(off.iou) >= 30
    assert off.iou == pytest.approx(expected)


def test_the_worst_images_are_those_of_lowest_f1_then_of_most_errors():
    crowd = LabelledImage("0003", "g", Annotations.of([[0, 0, 90, 90]], [0]), [True])
    images = [*labelled(Annotations.of([A], [0]), Annotations.of([A, B], [0, 0]), Annotations.empty()), crowd]
    hit = Detections.of([A], [0], [0.9])
    found = [hit, hit, Detections.of([A, B, C], [0, 0, 0], [0.9, 0.8, 0.1]), hit]

    one = evaluation(found, images, 1)
    worst = ErrorAnalyzer(one).worst_images()

    assert per_image_counts(one).tolist() == [[1, 0, 0], [1, 0, 1], [0, 2, 0], [0, 0, 0]]
    assert [(each.image_id, each.f1) for each in worst] == [("0002", 0.0), ("0001", pytest.approx(2 / 3))]
    assert (worst[0].false_positives, worst[1].false_negatives) == (2, 1)
    assert len(ErrorAnalyzer(one).worst_images(1)) == 1
    two = labelled(Annotations.of([A], [0]), Annotations.of([A, B], [0, 0]))
    blind = ErrorAnalyzer(evaluation([Detections.empty()] * 2, two, 1)).worst_images()
    assert [each.image_id for each in blind] == ["0001", "0000"]


@pytest.mark.parametrize("what", ["objects", "detections", "nothing"])
def test_without_objects_or_detections_json_is_valid(what):
    found, images = random_world(1)
    if what in ("objects", "nothing"):
        images = labelled(*[Annotations.empty()] * len(found))
    if what in ("detections", "nothing"):
        found = [Detections.empty()] * len(found)

    document = json.loads(json.dumps(ErrorAnalyzer(evaluation(found, images)).to_json(), allow_nan=False))

    assert document["localisation"]["quantiles"]["iou"]["0.5"] is None
    assert (document["false_positives"] == []) == (what != "objects")
    assert (document["false_negatives"] == []) == (what != "detections")


def test_the_order_of_things_changes_nothing():
    found, images = random_world(5, crowds=0.3, grid=8, tied_scores=True)

    one, again = (ErrorAnalyzer(evaluation(*each)) for each in ((found, images), shuffled(found, images, 2)))

    assert one.to_json() == again.to_json()
