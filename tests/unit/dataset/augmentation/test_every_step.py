"""What holds for each step, and that each of its parameters matters."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrain.boxes import Annotations
from retrain.dataset.augmentation.pipeline import STEPS, describe
from retrain.dataset.augmentation.scene import MAX_SIDE
from retrain.dataset.augmenter import DatasetAugmenter
from retrain.errors import BadInput

EVERY = sorted(STEPS)
SIZES = [(1, 1), (1, 400), (3000, 2), (MAX_SIDE, 1)]

FAR = {"shift": [0.6, 0.6]}
OTHER_VALUES = {
    # Two values of each parameter, and what must be set besides for the difference to show.
    ("flip", "directions"): (["horizontal"], ["vertical"], {}),
    ("quarter_turn", "turns"): ([1], [3], {}),
    ("affine", "rotate_deg"): ([5, 5], [6, 6], {}),
    ("affine", "scale"): ([0.9, 0.9], [0.8, 0.8], {}),
    ("affine", "shear_deg"): ([0, 0], [5, 5], {}),
    ("affine", "shift"): ([0, 0], [0.1, 0.1], {}),
    ("affine", "fill"): (114, 115, FAR),
    ("affine", "min_visible"): (0, 1, FAR),
    ("perspective", "corner_shift"): ([0, 0], [0.1, 0.1], {}),
    ("perspective", "fill"): (114, 115, {"corner_shift": [0.2, 0.3]}),
    ("crop", "area"): ([0.5, 0.5], [0.3, 0.3], {}),
    ("crop", "aspect"): ([0.8, 0.8], [1.2, 1.2], {"area": [0.5, 0.5]}),
    ("crop", "min_visible"): (0, 1, {"area": [0.2, 0.2]}),
    ("hsv", "hue_deg"): ([0, 0], [10, 10], {}),
    ("hsv", "saturation"): ([1, 1], [0.9, 0.9], {}),
    ("hsv", "value"): ([1, 1], [0.9, 0.9], {}),
    ("brightness_contrast", "brightness"): ([0, 0], [0.1, 0.1], {}),
    ("brightness_contrast", "contrast"): ([1, 1], [1.1, 1.1], {}),
    ("gamma", "gamma"): ([1, 1], [1.1, 1.1], {}),
    ("white_balance", "gain"): ([1, 1], [1.1, 1.1], {}),
    ("greyscale", "strength"): ([0.5, 0.5], [1, 1], {}),
    ("equalise", "clip_limit"): ([1, 1], [4, 4], {"tiles": 2}),
    ("equalise", "tiles"): (2, 4, {"clip_limit": [4, 4]}),
    ("blur", "sigma_px"): ([1, 1], [2, 2], {}),
    ("sharpen", "amount"): ([0.5, 0.5], [1, 1], {}),
    ("sharpen", "sigma_px"): ([1, 1], [2, 2], {}),
    ("fog", "density"): ([0.2, 0.2], [0.4, 0.4], {}),
    ("fog", "level"): ([200, 200], [220, 220], {}),
    ("fog", "patchiness"): (0.1, 0.7, {}),
    ("rain", "density"): ([1, 1], [3, 3], {}),
    ("rain", "length"): ([0.1, 0.1], [0.2, 0.2], {}),
    ("rain", "angle_deg"): ([0, 0], [20, 20], {}),
    ("rain", "opacity"): ([0.2, 0.2], [0.4, 0.4], {}),
    ("snow", "density"): ([1, 1], [3, 3], {}),
    ("snow", "radius"): ([0.01, 0.01], [0.03, 0.03], {}),
    ("snow", "opacity"): ([0.5, 0.5], [0.7, 0.7], {}),
    ("low_light", "exposure"): ([0.2, 0.2], [0.3, 0.3], {}),
    ("low_light", "photons"): ([100, 100], [1000, 1000], {}),
    ("sensor_noise", "read_levels"): ([1, 1], [3, 3], {}),
    ("sensor_noise", "shot_levels"): ([1, 1], [3, 3], {}),
    ("motion_blur", "length_px"): ([3, 3], [7, 7], {}),
    ("motion_blur", "angle_deg"): ([0, 0], [40, 40], {}),
    ("jpeg", "quality"): ([30, 30], [60, 60], {}),
    ("mosaic", "centre"): ([0.5, 0.5], [0.4, 0.4], {}),
    ("mosaic", "zoom"): ([1, 1], [1.5, 1.5], {}),
    ("mosaic", "min_visible"): (0, 1, {"zoom": [2, 2]}),
    ("mixup", "alpha"): (1, 32, {}),
    ("mixup", "min_share"): (0, 0.5, {"alpha": 0.2}),
    ("mixup", "min_visible"): (0, 1, {}),
    ("copy_paste", "objects"): ([1, 1], [5, 5], {"max_coverage": 1}),
    ("copy_paste", "scale"): ([1, 1], [0.5, 0.5], {"max_coverage": 1}),
    ("copy_paste", "max_coverage"): (0.0, 1.0, {"objects": [5, 5]}),
    ("copy_paste", "feather_px"): (0, 3, {"max_coverage": 1}),
    ("copy_paste", "min_visible"): (0, 1, {"max_coverage": 1, "objects": [5, 5]}),
}


@pytest.fixture
def partners(texture):
    return [texture(80, 60, 5), texture(40, 90, 6)]


def outcomes(settings, labelled, partners):
    augmenter = DatasetAugmenter([settings], seed=3)
    for epoch in range(8):
        image, annotations = augmenter.augment(*labelled, "image", epoch, partners)
        yield image.tobytes(), annotations.boxes.tobytes(), annotations.classes.tobytes()


def test_the_table_of_parameters_is_complete():
    described = {(step["step"], parameter["name"]) for step in describe() for parameter in step["parameters"]}

    assert set(OTHER_VALUES) == {(step, name) for step, name in described if name != "probability"}


@pytest.mark.parametrize(("step", "name"), OTHER_VALUES)
def test_every_parameter_changes_something(step, name, texture, partners):
    first, second, besides = OTHER_VALUES[step, name]
    labelled = texture(96, 72)

    before = list(outcomes({"step": step, **besides, name: first}, labelled, partners))
    after = list(outcomes({"step": step, **besides, name: second}, labelled, partners))

    assert before != after


@pytest.mark.parametrize("step", EVERY)
def test_every_step_changes_something_and_only_when_it_is_drawn(step, texture, partners):
    image, annotations = texture(96, 72)

    never = DatasetAugmenter([{"step": step, "probability": 0}]).augment(image, annotations, "a", 0, partners)
    always = set(outcomes({"step": step}, (image, annotations), partners))

    assert never[0] is image
    assert np.array_equal(never[1].boxes, annotations.boxes)
    assert len(always - {(image.tobytes(), annotations.boxes.tobytes(), annotations.classes.tobytes())}) >= 1


@pytest.mark.parametrize("step", EVERY)
@settings(max_examples=25, deadline=None)
@given(data=st.data(), epoch=st.integers(0, 2**40))
def test_every_step_gives_a_valid_labelled_image(step, data, epoch, scenes):
    image, annotations = data.draw(scenes(side=1))
    partners = data.draw(st.lists(scenes(side=1), min_size=1, max_size=2))
    before = image.copy(), annotations.boxes.copy(), [partner[0].copy() for partner in partners]

    out, changed = DatasetAugmenter([{"step": step}]).augment(image, annotations, "a", epoch, partners)

    height, width = out.shape[:2]
    assert (out.dtype, out.ndim, out.shape[2]) == (np.uint8, 3, 3)
    assert out.flags["C_CONTIGUOUS"]
    assert sorted((height, width)) == sorted(image.shape[:2])
    assert len(changed.boxes) == len(changed.classes)
    assert (changed.boxes >= 0).all()
    assert (changed.boxes <= [width, height, width, height]).all()
    assert (changed.boxes[:, 2:] - changed.boxes[:, :2] >= 1 - 1e-6).all()
    assert np.array_equal(image, before[0])
    assert np.array_equal(annotations.boxes, before[1])
    assert all(np.array_equal(now[0], then) for now, then in zip(partners, before[2], strict=True))


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("step", EVERY)
def test_every_step_takes_images_of_any_shape(step, size, texture, partners):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    whole = Annotations.of([[0, 0, size[1], size[0]]], [0])
    tiny = np.zeros((1, 1, 3), np.uint8), Annotations.of([[0, 0, 1, 1]], [1])

    for epoch in range(2):
        out, _ = DatasetAugmenter([{"step": step}]).augment(image, whole, "a", epoch, [*partners, tiny])

        assert sorted(out.shape) == sorted(image.shape)


@pytest.mark.parametrize("step", [name for name in EVERY if not STEPS[name].needs_partners])
def test_images_without_objects_stay_without(step, texture):
    image, _ = texture(40, 30)

    _, annotations = DatasetAugmenter([{"step": step}]).augment(image, Annotations.empty(), "a", 0)

    assert annotations.boxes.shape == (0, 4)
    assert annotations.classes.dtype == np.int64


@pytest.mark.parametrize("step", [name for name in EVERY if STEPS[name].needs_partners])
def test_steps_that_mix_say_so_when_there_is_nothing_to_mix(step, texture):
    augmenter = DatasetAugmenter([{"step": step, "probability": 0}])

    with pytest.raises(BadInput, match=f"'{step}' mixes in other images, but `partners` is empty"):
        augmenter.augment(*texture(10, 10), "a", 0)
