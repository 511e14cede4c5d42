import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrain.boxes import iou_matrix
from retrain.data_collection.frame import Seen
from retrain.data_collection.strategies.matching import matched

places, sizes = st.integers(0, 12), st.integers(0, 6)
boxes = st.tuples(places, places, sizes, sizes).map(lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]])
objects = st.lists(st.tuples(boxes, st.integers(0, 1), st.floats(0, 1)), max_size=6)
ious = st.sampled_from([0.1, 0.3, 0.5, 0.9])


def seen(found):
    return Seen(*map(list, zip(*found, strict=True))) if found else Seen([], [], [])


@given(first=objects, second=objects, iou=ious)
def test_only_boxes_of_one_class_that_overlap_enough_are_paired_and_each_once(first, second, iou):
    pairs = matched(seen(first), seen(second), iou, floor=0.25)

    assert len(set(pairs.values())) == len(pairs)
    for i, j in pairs.items():
        overlap = iou_matrix(np.array([first[i][0]], float), np.array([second[j][0]], float))[0, 0]
        assert first[i][1] == second[j][1]
        assert overlap >= iou - 1e-12


@given(first=objects, second=objects, iou=ious)
def test_no_two_boxes_that_could_be_paired_are_both_left_over(first, second, iou):
    pairs = matched(seen(first), seen(second), iou, floor=0.25)

    for i in set(range(len(first))) - set(pairs):
        for j in set(range(len(second))) - set(pairs.values()):
            overlap = iou_matrix(np.array([first[i][0]], float), np.array([second[j][0]], float))[0, 0]
            assert first[i][1] != second[j][1] or overlap < iou + 1e-12


def test_the_better_overlap_wins_wherever_it_stands():
    near, exact = [1, 0, 11, 10], [0, 0, 10, 10]
    target = seen([(exact, 0, 0.9)])

    assert matched(seen([(near, 0, 0.9), (exact, 0, 0.8)]), target, 0.5, 0.25) == {1: 0}
    assert matched(seen([(exact, 0, 0.8), (near, 0, 0.9)]), target, 0.5, 0.25) == {0: 0}


def test_a_faint_double_does_not_take_a_sure_boxs_partner_though_it_overlaps_more():
    sure = seen([([0, 0, 10, 10], 0, 0.9)])
    other = seen([([2, 0, 12, 10], 0, 0.8), ([0, 0, 10, 10], 0, 0.05)])

    assert matched(sure, other, 0.5, 0.25) == {0: 0}


@pytest.mark.parametrize("box", [[5, 0, 5, 10], [0, 5, 10, 5], [5, 5, 5, 5]])
def test_a_box_without_area_matches_nothing(box):
    flat = seen([(box, 0, 0.9)])
    crossing = seen([([0, 5, 10, 5], 0, 0.9), (box, 0, 0.9), ([0, 0, 10, 10], 0, 0.9)])

    assert matched(flat, crossing, 0.1, 0.25) == {}
