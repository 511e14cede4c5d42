import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrain.errors import BadInput
from retrain.training.slices import regressions, slice_scores
from retrain.training.ultralytics_parts import DetectionValidator

CLASSES = ["car", "truck", "person"]


def stats(*images):
    """Per image: predictions as (class, confidence, IoU thresholds reached), and target classes."""
    lists = {"tp": [], "conf": [], "pred_cls": [], "target_cls": [], "target_img": []}
    for predictions, targets in images:
        reached = [[index < reached for index in range(10)] for _, _, reached in predictions]
        lists["tp"].append(np.array(reached, bool).reshape(-1, 10))
        lists["conf"].append(np.array([conf for _, conf, _ in predictions]))
        lists["pred_cls"].append(np.array([float(label) for label, _, _ in predictions]))
        lists["target_cls"].append(np.array(targets, float))
        lists["target_img"].append(np.unique(np.array(targets, float)))
    return lists


def drawn(seed, images, predictions=30, classes=3):
    """Images with about half of the objects found, and false alarms."""
    rng = np.random.default_rng(seed)
    return stats(
        *(
            (
                [(rng.integers(classes), rng.random(), rng.integers(0, 11)) for _ in range(predictions)],
                rng.integers(0, classes, rng.integers(0, 2 * predictions + 1)),
            )
            for _ in range(images)
        )
    )


PERFECT = ([(0, 0.9, 10)], [0])
MISSED = ([], [0])
LOOSE = ([(0, 0.9, 5)], [0])
"""Found, but so loosely that only the lower half of the thresholds counts."""


def test_each_camera_and_each_class_has_its_own_scores():
    scores = slice_scores(
        stats(PERFECT, MISSED, LOOSE, ([(1, 0.8, 10)], [1])), ["north", "gate", "yard", "yard"], CLASSES
    )

    assert list(scores) == ["camera/gate", "camera/north", "camera/yard", "class/car", "class/truck"]
    assert scores["camera/gate"] == {"map50": 0.0, "map50_95": 0.0, "images": 1}
    assert scores["camera/north"] == {
        "map50": pytest.approx(0.995),
        "map50_95": pytest.approx(0.995),
        "images": 1,
    }
    # Two classes: one found at all ten thresholds, one at five.
    assert scores["camera/yard"]["map50"] == pytest.approx(0.995)
    assert scores["camera/yard"]["map50_95"] == pytest.approx(0.75 * 0.995)
    # Two of three cars found: precision is 1 up to a recall of 2/3.
    assert scores["class/car"]["map50"] == pytest.approx(2 / 3, abs=0.01)
    assert scores["class/car"]["images"] == 3
    assert scores["class/truck"]["images"] == 1


def test_a_slice_or_class_without_targets_is_left_out_and_images_in_no_slice_count_for_classes_only():
    false_alarm = ([(2, 0.9, 0)], [])

    scores = slice_scores(stats(PERFECT, false_alarm, PERFECT), ["north", "empty", None], CLASSES)

    assert set(scores) == {"camera/north", "class/car"}
    assert scores["camera/north"]["images"] == 1
    assert scores["class/car"]["images"] == 2
    assert slice_scores(stats(([], [])), ["north"], CLASSES) == {}
    assert slice_scores(stats(), [], CLASSES) == {}


def test_the_kind_of_slice_goes_before_its_name():
    assert "site/north" in slice_scores(stats(PERFECT), ["north"], CLASSES, kind="site")


@pytest.mark.parametrize("seed", range(3))
def test_all_images_as_one_slice_score_what_the_validator_says(seed, tmp_path):
    found = drawn(seed, 40)
    validator = DetectionValidator(save_dir=tmp_path, _callbacks={"unused": []})
    validator.metrics.names = dict(enumerate(CLASSES))
    validator.metrics.stats = {name: list(arrays) for name, arrays in found.items()}
    validator.metrics.process()
    box = validator.metrics.box

    scores = slice_scores(found, ["all"] * 40, CLASSES)

    assert scores["camera/all"] == {"map50": box.map50, "map50_95": box.map, "images": 40}
    for index, name in enumerate(CLASSES):
        assert scores[f"class/{name}"]["map50"] == box.ap50[index]
        assert scores[f"class/{name}"]["map50_95"] == box.ap[index]


@given(seed=st.integers(0, 1000), image=st.integers(0, 7))
def test_finding_more_never_lowers_a_camera_and_leaves_the_others(seed, image):
    found, cameras = drawn(seed, 8, predictions=5), ["north", "gate"] * 4
    before = slice_scores(found, cameras, CLASSES)
    better = {**found, "tp": list(found["tp"])}
    better["tp"][image] = np.ones_like(found["tp"][image])

    after = slice_scores(better, cameras, CLASSES)

    touched, other = (f"camera/{cameras[image]}", f"camera/{cameras[image - 1]}")
    if touched in before:
        assert after[touched]["map50_95"] >= before[touched]["map50_95"] - 1e-9
    assert after.get(other) == before.get(other)


def test_every_image_needs_a_slice():
    with pytest.raises(BadInput, match="got 2 images and 1 slices"):
        slice_scores(stats(PERFECT, MISSED), ["north"], CLASSES)


def test_a_thousand_images_are_scored_quickly():
    found, cameras = drawn(0, 1000, predictions=10), [f"cam_{n % 4}" for n in range(1000)]
    slice_scores(found, cameras, CLASSES)
    times = []
    for _ in range(5):
        began = time.process_time()
        slice_scores(found, cameras, CLASSES)
        times.append(time.process_time() - began)

    assert min(times) < 0.05


def scored(**map50):
    return {name: {"map50": value, "map50_95": 0.0, "images": 1} for name, value in map50.items()}


def test_slices_that_fell_by_more_than_the_limit_come_greatest_drop_first():
    reference = scored(a=0.5, b=0.9, c=0.5, d=0.5, e=0.5, gone=0.9)

    found = regressions(reference, scored(a=0.25, b=0.4, c=0.25, d=0.375, e=0.9, new=0.1), limit=0.125)

    assert [one.name for one in found] == ["b", "a", "c"]
    assert (found[0].reference, found[0].current, found[0].drop) == (0.9, 0.4, 0.5)


@given(
    pairs=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=8),
    limits=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_a_greater_limit_never_reports_more_and_nothing_regresses_against_itself(pairs, limits):
    reference = scored(**{f"s{n}": before for n, (before, _) in enumerate(pairs)})
    current = scored(**{f"s{n}": after for n, (_, after) in enumerate(pairs)})
    low, high = sorted(limits)

    strict = regressions(reference, current, high)

    assert strict == regressions(reference, current, low)[: len(strict)]
    assert regressions(reference, reference, 0.0) == []


@pytest.mark.parametrize("limit", [-0.1, 1.5, float("nan")])
def test_a_limit_that_is_no_drop_is_refused(limit):
    with pytest.raises(BadInput, match=r"must be in \[0, 1\]"):
        regressions({}, {}, limit)
