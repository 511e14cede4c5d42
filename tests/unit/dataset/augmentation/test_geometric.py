import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrain.boxes import Annotations
from retrain.dataset.augmentation.geometric import moved_boxes
from retrain.dataset.augmentation.pipeline import STEPS, read_pipeline
from retrain.dataset.augmentation.scene import Draws, Scene
from retrain.dataset.augmentation.step import MovingStep

# Other work on the machine must not fail a test.
UNHURRIED = settings(deadline=None)

seeds = st.integers(0, 2**32)


def still(**changes):
    """An affine step that does only what `changes` says, on black."""
    none = {"rotate_deg": [0, 0], "scale": [1, 1], "shift": [0, 0], "fill": 0, "min_visible": 0}
    return {"step": "affine", **none, **changes}


def pixel_box(image, channel):
    rows, columns = np.nonzero(image[..., channel] >= 128)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def centroid(plane):
    """Of the light, in edge coordinates."""
    weights = plane.astype(np.float64)
    rows, columns = np.mgrid[: plane.shape[0], : plane.shape[1]] + 0.5
    return np.array([(columns * weights).sum(), (rows * weights).sum()]) / weights.sum()


@UNHURRIED
@given(data=st.data(), seed=seeds, directions=st.sampled_from([["horizontal"], ["vertical"]]))
def test_after_a_flip_boxes_are_exactly_where_the_pixels_are(data, seed, directions, scenes, apply, channel):
    image, annotations = data.draw(scenes(side=1))

    flipped = apply({"step": "flip", "directions": directions}, image, annotations, seed)

    assert flipped.classes.tolist() == annotations.classes.tolist()
    for box, class_index in zip(flipped.boxes, flipped.classes, strict=True):
        assert box.tolist() == pixel_box(flipped.image, channel(class_index))


def test_a_flip_maps_fractions_of_a_pixel_exactly(apply):
    image, annotations = np.zeros((30, 40, 3), np.uint8), Annotations.of([[3.25, 4.5, 10.75, 8.0]], [0])

    assert apply({"step": "flip"}, image, annotations).boxes.tolist() == [[29.25, 4.5, 36.75, 8.0]]


@UNHURRIED
@given(data=st.data(), seed=seeds, turns=st.sampled_from([1, 2, 3]))
def test_after_quarter_turns_boxes_are_exactly_where_the_pixels_are(
    data, seed, turns, scenes, apply, channel
):
    image, annotations = data.draw(scenes(side=1))

    turned = apply({"step": "quarter_turn", "turns": [turns]}, image, annotations, seed)

    assert turned.image.shape[:2] == (image.shape[:2] if turns == 2 else image.shape[1::-1])
    for box, class_index in zip(turned.boxes, turned.classes, strict=True):
        assert box.tolist() == pixel_box(turned.image, channel(class_index))


@UNHURRIED
@given(data=st.data(), seed=seeds, scale=st.floats(0.5, 2), shift=st.floats(-0.5, 0.5))
def test_boxes_follow_pixels_when_scaled_and_shifted(
    data, seed, scale, shift, scenes, apply, boxes_follow_pixels
):
    image, annotations = data.draw(scenes())

    moved = apply(still(scale=[scale, scale], shift=[shift, 0.5]), image, annotations, seed)

    boxes_follow_pixels(moved)


@UNHURRIED
@given(data=st.data(), seed=seeds, area=st.floats(0.05, 1), aspect=st.floats(0.5, 2))
def test_boxes_follow_pixels_when_cropped(data, seed, area, aspect, scenes, apply, boxes_follow_pixels):
    image, annotations = data.draw(scenes())
    step = {"step": "crop", "area": [area, 1], "aspect": [aspect, aspect], "min_visible": 0}

    cropped = apply(step, image, annotations, seed)

    # The part is stretched, and with it the pixel by which interpolation softens an edge.
    boxes_follow_pixels(cropped, slack=0.5 + 1 / np.sqrt(area))


@UNHURRIED
@given(data=st.data(), seed=seeds, degrees=st.floats(-180, 180), shear=st.floats(-30, 30))
def test_boxes_contain_their_pixels_when_turned_and_sheared(
    data, seed, degrees, shear, scenes, apply, channel
):
    image, annotations = data.draw(scenes())
    step = still(rotate_deg=[degrees, degrees], shear_deg=[shear, shear], scale=[0.7, 1.2])

    turned = apply(step, image, annotations, seed)

    for box, whole, class_index in zip(turned.boxes, turned.visible == 1, turned.classes, strict=True):
        plane = turned.image[..., channel(class_index)]
        if (plane >= 128).any():
            seen = np.array(pixel_box(turned.image, channel(class_index)))
            assert (box[:2] <= seen[:2] + 1).all()
            assert (box[2:] >= seen[2:] - 1).all()
        if whole and min(box[2:] - box[:2]) >= 8:
            # No wider than its light, up to the tips of the corners, whose pixels are mostly black.
            rows, columns = np.nonzero(plane >= 16)
            assert box == pytest.approx(
                [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], abs=2.5
            )


@UNHURRIED
@given(data=st.data(), seed=seeds)
def test_boxes_contain_their_pixels_in_perspective(data, seed, scenes, apply, channel):
    image, annotations = data.draw(scenes(smallest=8))

    seen = apply({"step": "perspective", "corner_shift": [0, 0.3], "fill": 0}, image, annotations, seed)

    for box, class_index in zip(seen.boxes, seen.classes, strict=True):
        if (seen.image[..., channel(class_index)] >= 128).any():
            pixels = np.array(pixel_box(seen.image, channel(class_index)))
            assert (box[:2] <= pixels[:2] + 1).all()
            assert (box[2:] >= pixels[2:] - 1).all()


@pytest.mark.parametrize("degrees", [0, 17, 90, 180, -45])
@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("width", [100, 101])
def test_boxes_and_pixels_do_not_drift_apart_by_half_a_pixel(degrees, scale, width, painted, apply):
    image, annotations = painted(width, 99, [(40, 42, 58, 54)])

    moved = apply(still(rotate_deg=[degrees, degrees], scale=[scale, scale]), image, annotations)

    middle = (moved.boxes[0, :2] + moved.boxes[0, 2:]) / 2
    assert centroid(moved.image[..., 0]) == pytest.approx(middle, abs=0.05)


def test_positive_degrees_turn_clockwise(painted, apply):
    image, annotations = painted(100, 100, [(45, 5, 55, 15)])

    turned = apply(still(rotate_deg=[90, 90]), image, annotations)

    assert turned.boxes[0] == pytest.approx([85, 45, 95, 55])


def test_an_affine_step_that_does_nothing_keeps_every_bit(texture, apply):
    image, annotations = texture(61, 47)

    unmoved = apply(still(), image, annotations)

    assert np.array_equal(unmoved.image, image)
    assert np.array_equal(unmoved.boxes, annotations.boxes)


@pytest.mark.parametrize(("min_visible", "kept"), [(0.0, 1), (0.45, 1), (0.55, 0)])
def test_an_object_is_dropped_when_too_little_of_it_is_left(min_visible, kept, painted, apply):
    image, annotations = painted(100, 100, [(30, 0, 70, 10)])

    moved = apply(still(shift=[0.5, 0.5], min_visible=min_visible), image, annotations)

    # 20 of 40 columns are left, and all rows.
    assert len(moved.boxes) == kept


def test_what_is_left_of_an_object_is_counted_over_all_steps(painted):
    scene = Scene.of(*painted(100, 100, [(0, 40, 20, 60)]), "test")
    (shift,) = read_pipeline([still(shift=[-0.06, -0.06], min_visible=0.5)])

    once = shift.apply(scene, Draws(np.random.default_rng(0)))
    twice = shift.apply(once, Draws(np.random.default_rng(0)))

    # 14, then 8 of 20 columns: the second step leaves 57 % of what the first left, but 40 % of the object.
    assert (len(once.boxes), len(twice.boxes)) == (1, 0)


@pytest.mark.parametrize("degrees", [90, 180, -90])
def test_rounding_does_not_count_as_leaving_the_picture(degrees, painted, apply):
    image, annotations = painted(7, 7, [(0, 0, 7, 7), (0, 0, 1, 1)])

    turned = apply(still(rotate_deg=[degrees, degrees], min_visible=1), image, annotations)

    assert len(turned.boxes) == 2


def test_objects_of_less_than_a_pixel_are_dropped(painted, apply):
    image, annotations = painted(100, 100, [(40, 40, 44, 60), (10, 10, 30, 30)])

    shrunk = apply(still(scale=[0.2, 0.2]), image, annotations)

    assert shrunk.classes.tolist() == [annotations.classes[1]]


def test_corners_are_mapped_one_by_one():
    lens = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.01, 0.0, 1.0]])

    # x / (1 + x / 100), y / (1 + x / 100) at x 0 and 100.
    assert moved_boxes(np.array([[0.0, 10.0, 100.0, 20.0]]), lens).tolist() == [[0.0, 5.0, 50.0, 20.0]]


@pytest.mark.parametrize("fill", [0, 200])
@pytest.mark.parametrize("step", ["affine", "perspective"])
def test_what_comes_in_from_outside_has_the_given_grey(step, fill, texture, apply):
    settings = {"affine": {"scale": [0.5, 0.5], "shift": [0, 0]}, "perspective": {"corner_shift": [0.2, 0.2]}}

    moved = apply({"step": step, "fill": fill, **settings[step]}, *texture(60, 60))

    assert moved.image[0, 0].tolist() == [fill] * 3


def test_every_step_that_can_move_objects_out_of_sight_lets_one_say_when_they_are_dropped():
    moving = {name for name, step in STEPS.items() if issubclass(step, MovingStep)}

    assert moving == {"affine", "crop", "mosaic", "mixup", "copy_paste"}
