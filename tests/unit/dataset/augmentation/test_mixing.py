import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrain.boxes import Annotations, iou_matrix
from retrain.dataset.augmentation.mixing import coverage
from retrain.dataset.augmentation.scene import Scene

# Other work on the machine must not fail a test.
UNHURRIED = settings(deadline=None)

seeds = st.integers(0, 2**32)


@UNHURRIED
@given(data=st.data(), seed=seeds, centre=st.floats(0, 1), zoom=st.floats(1, 1.2))
def test_boxes_follow_pixels_in_a_mosaic(data, seed, centre, zoom, scenes, apply, boxes_follow_pixels):
    image, annotations = data.draw(scenes(smallest=60))
    partners = data.draw(st.lists(scenes(smallest=60), min_size=1, max_size=3))
    step = {"step": "mosaic", "centre": [min(centre, 0.5), 0.7], "zoom": [1, zoom], "min_visible": 0}

    mixed = apply(step, image, annotations, seed, partners)

    assert mixed.image.shape == image.shape
    boxes_follow_pixels(mixed)


def test_a_mosaic_shows_four_images_that_meet_in_its_centre(apply):
    def even(level):
        return np.full((40, 60, 3), level, np.uint8), Annotations.empty()

    image, partners = even(10), [even(level) for level in (60, 110, 160)]

    mixed = apply({"step": "mosaic", "centre": [0.25, 0.25]}, *image, seed=1, partners=partners).image

    quarters = [mixed[:10, :15], mixed[:10, 15:], mixed[10:, :15], mixed[10:, 15:]]
    assert all(np.ptp(quarter) == 0 for quarter in quarters)
    assert 10 in {int(quarter[0, 0, 0]) for quarter in quarters}


def test_objects_cut_by_the_edge_of_a_quarter_are_dropped_below_the_limit(apply):
    whole = np.zeros((40, 40, 3), np.uint8), Annotations.of([[0, 0, 40, 40]], [0])
    step = {"step": "mosaic", "centre": [0.5, 0.5], "zoom": [2, 2]}

    # Twice as large as its quarter: a fourth of the object is seen.
    assert len(apply({**step, "min_visible": 0.3}, *whole, partners=[whole]).boxes) == 0
    assert len(apply({**step, "min_visible": 0.2}, *whole, partners=[whole]).boxes) == 4


@UNHURRIED
@given(data=st.data(), seed=seeds)
def test_boxes_follow_pixels_in_a_mixup(data, seed, scenes, apply, boxes_follow_pixels):
    image, annotations = data.draw(scenes(smallest=60))
    partner = data.draw(scenes(smallest=60))

    mixed = apply({"step": "mixup", "alpha": 1000, "min_visible": 0}, image, annotations, seed, [partner])

    # Each has half of the light.
    boxes_follow_pixels(mixed, level=64)


def test_a_mixup_is_a_weighted_mean_with_the_objects_of_both(painted, apply):
    image, annotations = painted(40, 40, [(2, 2, 20, 20)])
    other = np.full((40, 40, 3), 200, np.uint8), Annotations.of([[10, 12, 30, 38]], [9])

    mixed = apply({"step": "mixup", "alpha": 1000}, image, annotations, partners=[other])

    assert mixed.classes.tolist() == [*annotations.classes.tolist(), 9]
    assert mixed.boxes.tolist() == [[2, 2, 20, 20], [10, 12, 30, 38]]
    assert mixed.image[30, 30].astype(int) == pytest.approx([100] * 3, abs=10)


def test_a_mixup_leaves_out_the_objects_of_an_image_that_is_hardly_there(painted, apply):
    image, annotations = painted(40, 40, [(2, 2, 20, 20)])
    other = np.full((40, 40, 3), 255, np.uint8), Annotations.of([[10, 12, 30, 38]], [9])
    shares = set()

    for seed in range(40):
        mixed = apply({"step": "mixup", "alpha": 0.5, "min_share": 0.3}, image, annotations, seed, [other])
        share_of_other = float(mixed.image[30, 30, 0]) / 255
        expected = [4] * (share_of_other <= 0.7) + [9] * (share_of_other >= 0.3)
        if min(abs(share_of_other - 0.3), abs(share_of_other - 0.7)) > 0.01:
            assert mixed.classes.tolist() == expected
            shares.add(tuple(expected))

    assert shares == {(4,), (4, 9), (9,)}


def test_an_image_mixed_with_itself_does_not_have_its_objects_twice(texture, apply):
    image, annotations = texture(50, 40)

    mixed = apply({"step": "mixup"}, image, annotations, partners=[(image.copy(), annotations)])

    assert len(mixed.boxes) == len(annotations)
    assert np.array_equal(mixed.image, image)


@UNHURRIED
@given(
    data=st.data(),
    seed=seeds,
    limit=st.sampled_from([0.0, 0.1, 0.35, 0.8]),
    scale=st.sampled_from([0.6, 1.0, 1.5]),
)
def test_pastes_never_cover_an_object_beyond_the_limit(data, seed, limit, scale, scenes, apply):
    image, annotations = data.draw(scenes(smallest=20))
    bright = np.full((60, 60, 3), 77, np.uint8), Annotations.of([[5, 5, 25, 30], [30, 30, 42, 42]], [8, 9])
    step = {"step": "copy_paste", "objects": [2, 2], "scale": [scale, scale], "max_coverage": limit}

    pasted = apply({**step, "feather_px": 0, "min_visible": 0}, image, annotations, seed, [bright])

    assert pasted.classes[: len(annotations)].tolist() == annotations.classes.tolist()
    for x1, y1, x2, y2 in annotations.boxes.astype(int):
        assert (pasted.image[y1:y2, x1:x2] == 77).all(axis=2).mean() <= limit + 1e-9


@UNHURRIED
@given(seed=seeds, scale=st.floats(0.5, 2))
def test_pasted_boxes_lie_on_pasted_pixels(seed, scale, apply):
    image = np.zeros((120, 150, 3), np.uint8)
    partner = image.copy()
    partner[20:41, 30:52] = 255
    objects = Annotations.of([[30, 20, 52, 41]], [3])
    step = {"step": "copy_paste", "objects": [1, 1], "scale": [scale, scale], "feather_px": 0}

    pasted = apply(step, image, Annotations.empty(), seed, [(partner, objects)])

    rows, columns = np.nonzero(pasted.image[..., 0])
    assert pasted.classes.tolist() == [3]
    assert pasted.boxes[0] == pytest.approx([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


def test_what_else_shows_in_a_cut_out_is_labelled(apply):
    partner = (
        np.full((60, 60, 3), 200, np.uint8),
        Annotations.of([[10, 10, 50, 50], [20, 20, 30, 35]], [1, 2]),
    )
    step = {"step": "copy_paste", "objects": [1, 1]}

    pasted = [
        apply(step, np.zeros((70, 70, 3), np.uint8), Annotations.empty(), seed, [partner])
        for seed in range(12)
    ]

    # The small one is inside the large one, of which its own cut-out shows too little.
    assert {tuple(scene.classes.tolist()) for scene in pasted} == {(1, 2), (2,)}


def test_objects_that_pastes_hide_are_dropped(apply):
    image = np.zeros((40, 40, 3), np.uint8), Annotations.of([[4, 4, 36, 36], [0, 0, 3, 3]], [0, 1])
    over_everything = np.full((40, 40, 3), 99, np.uint8), Annotations.of([[0, 0, 40, 40]], [7])
    step = {"step": "copy_paste", "objects": [1, 1], "scale": [1, 1], "max_coverage": 1}

    assert apply(step, *image, partners=[over_everything]).classes.tolist() == [7]


def test_soft_edges_lie_inside_the_paste_and_let_the_image_through(apply):
    image = np.zeros((40, 40, 3), np.uint8), Annotations.empty()
    partner = np.full((40, 40, 3), 200, np.uint8), Annotations.of([[10, 10, 30, 30]], [0])
    step = {"step": "copy_paste", "objects": [1, 1], "scale": [1, 1], "feather_px": 4}

    pasted = apply(step, *image, partners=[partner])
    x1, y1 = pasted.boxes[0, :2].astype(int)

    # An eighth, three eighths, … of the way: pixel centres.
    assert pasted.image[y1 + 10, x1 : x1 + 5, 0].tolist() == [25, 75, 125, 175, 200]
    assert np.count_nonzero(pasted.image[..., 0]) == 400


def test_a_partner_without_objects_pastes_nothing(texture, apply):
    image, annotations = texture(40, 40)

    pasted = apply({"step": "copy_paste"}, image, annotations, partners=[(image, Annotations.empty())])

    assert np.array_equal(pasted.image, image)
    assert np.array_equal(pasted.boxes, annotations.boxes)


def test_coverage_is_the_share_of_the_existing_box(painted):
    patch = Scene.of(*painted(10, 10, []), "patch")
    boxes = np.array([[0.0, 0.0, 20.0, 20.0], [8.0, 8.0, 12.0, 12.0], [50.0, 50.0, 60.0, 60.0]])

    assert coverage(boxes, 5, 5, patch).tolist() == [0.25, 1.0, 0.0]
    assert iou_matrix(boxes[:1], np.array([[5.0, 5.0, 15.0, 15.0]]))[0, 0] == 0.25
