import numpy as np
import pytest

from retrain.boxes import iou_matrix
from retrain.errors import BadInput
from retrain.simulation.backgrounds import CameraStyle, render_background
from retrain.simulation.scenes import CLASSES, DigitPool, render_scene
from retrain.simulation.stable_random import noise_field, stable_rng


@pytest.fixture(scope="module")
def pool():
    return DigitPool("train")


def test_the_pools_share_no_digit_and_hold_every_class():
    train, test = DigitPool("train"), DigitPool("test")

    assert set(train.rows).isdisjoint(test.rows)
    assert {train.field(i).tobytes() for i in range(len(train))}.isdisjoint(
        test.field(i).tobytes() for i in range(len(test))
    )
    for side in (train, test):
        assert len(side) > 300
        assert np.bincount(side.labels, minlength=10).min() >= 30


def test_the_cut_between_pools_is_a_whole_form():
    labels = np.concatenate([DigitPool("train").labels, DigitPool("test").labels])
    dictated = [*range(10), *range(10)]

    assert labels[: len(dictated)].tolist() == dictated
    assert DigitPool("test").labels[: len(dictated)].tolist() == dictated
    assert DigitPool("test").rows[0] - DigitPool("train").rows[-1] > 120


def test_an_unknown_pool_is_refused():
    with pytest.raises(BadInput, match="train or test"):
        DigitPool("val")


def test_the_same_stream_gives_the_same_bytes(pool):
    first, second = (render_scene(stable_rng("same", 3), pool) for _ in range(2))

    assert first.image.tobytes() == second.image.tobytes()
    assert np.array_equal(first.annotations.boxes, second.annotations.boxes)


@pytest.mark.parametrize("size", [160, 224, 320])
def test_boxes_lie_inside_the_picture_and_hardly_overlap(pool, size):
    counts = []
    for index in range(60):
        scene = render_scene(stable_rng("boxes", size, index), pool, size)
        boxes = scene.annotations.boxes
        counts.append(len(boxes))

        assert scene.image.shape == (size, size, 3)
        assert scene.image.dtype == np.uint8
        assert boxes.min() >= 0
        assert boxes.max() <= size
        assert set(scene.annotations.classes) <= set(range(len(CLASSES)))
        overlap = iou_matrix(boxes, boxes)
        assert (overlap - np.eye(len(boxes))).max() < 0.12
        heights = (boxes[:, 3] - boxes[:, 1]) * 160 / size
        assert heights.min() >= 12
        assert heights.max() <= 60

    assert min(counts) >= 2
    assert max(counts) == 7


def test_boxes_are_tight_on_the_ink(pool):
    """On a flat, noiseless white page every pixel that differs is ink, apart from dust."""
    style = CameraStyle(paper=(255, 255, 255), inks=((0, 0, 0),), grain=0, strokes=0)
    white = np.full((160, 160, 3), 255, dtype=np.int32)
    for index in range(40):
        scene = render_scene(stable_rng("tight", index), pool, style=style, background=white)
        inked = scene.image.max(axis=2) < 200
        outside = inked.copy()
        for x1, y1, x2, y2 in scene.annotations.boxes.astype(int):
            outside[y1:y2, x1:x2] = False
            inside = inked[y1:y2, x1:x2]
            for edge in (inside[:2], inside[-2:], inside[:, :2], inside[:, -2:]):
                assert edge.any(), "no ink within two pixels of an edge of the box"

        assert outside.sum() <= 24  # one for each speck of dust


def test_digits_stand_out_from_the_page(pool):
    for index in range(30):
        scene = render_scene(stable_rng("contrast", index), pool)
        grey = scene.image.mean(axis=2)
        for x1, y1, x2, y2 in scene.annotations.boxes.astype(int):
            patch = grey[y1:y2, x1:x2]
            assert np.percentile(patch, 95) - np.percentile(patch, 5) > 40


def test_a_size_or_page_that_does_not_fit_is_refused(pool):
    with pytest.raises(BadInput, match="160 to 320"):
        render_scene(stable_rng(0), pool, 64)
    with pytest.raises(BadInput, match="background"):
        render_scene(
            stable_rng(0), pool, 160, background=render_background(stable_rng(0), CameraStyle(), 200)
        )


def test_streams_differ_by_key_and_noise_has_the_promised_spread():
    assert not np.array_equal(stable_rng(1).randint(0, 99, 20), stable_rng(2).randint(0, 99, 20))
    assert not np.array_equal(stable_rng("a", 1).randint(0, 99, 20), stable_rng("b", 1).randint(0, 99, 20))

    field = noise_field(stable_rng("spread"), 320)

    assert field.shape == (320, 320)
    assert abs(field.mean()) < 2
    assert 28 < field.std() < 36
