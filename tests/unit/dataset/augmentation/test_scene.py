import numpy as np
import pytest

from retrain.boxes import Annotations
from retrain.dataset.augmentation.scene import MAX_SIDE, Scene
from retrain.errors import BadInput

NOTHING = Annotations.empty()


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 3), np.uint16),
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
    ],
    ids=lambda image: f"{image.dtype} {image.shape}",
)
def test_only_8_bit_rgb_is_taken(image):
    with pytest.raises(BadInput, match="Image 'x' must be uint8 of shape"):
        Scene.of(image, NOTHING, "x")


@pytest.mark.parametrize("shape", [(0, 4, 3), (4, 0, 3), (1, MAX_SIDE + 1, 3)])
def test_empty_images_and_sides_that_opencv_cannot_warp_are_refused(shape):
    with pytest.raises(BadInput, match=f"sides of 1 to {MAX_SIDE} pixels, got {shape[1]} x {shape[0]}"):
        Scene.of(np.zeros(shape, np.uint8), NOTHING, "x")


@pytest.mark.parametrize("box", [[-1, 0, 3, 3], [0, 0, 9, 3], [0, 0, 3, 7], [2, 2, 2, 4]])
def test_boxes_without_area_or_outside_are_refused(box):
    with pytest.raises(BadInput, match=r"'x' must have an area and lie inside its 8 x 6 pixels, got \["):
        Scene.of(np.zeros((6, 8, 3), np.uint8), Annotations.of([[0, 0, 8, 6], box], [0, 0]), "x")


def test_a_window_cuts_and_shifts_boxes():
    scene = Scene.of(
        np.zeros((20, 20, 3), np.uint8), Annotations.of([[2, 2, 10, 10], [15, 15, 18, 18]], [3, 4]), "x"
    )

    part = scene.window(left=6, top=4, width=8, height=8, min_visible=0.0)

    assert part.image.shape == (8, 8, 3)
    assert part.boxes.tolist() == [[0, 0, 4, 6]]
    assert part.visible.tolist() == [24 / 64]


def test_resizing_scales_boxes_without_an_offset(painted, boxes_follow_pixels):
    scene = Scene.of(*painted(20, 20, [(4, 4, 10, 12)]), "x")

    larger = scene.resized(60, 40)

    assert larger.boxes.tolist() == [[12, 8, 30, 24]]
    boxes_follow_pixels(larger, slack=0.5)
