import io

import numpy as np
import pytest
from PIL import Image

from retrain.boxes import Annotations
from retrain.dataset.augmentation.preview import preview
from retrain.errors import BadInput, ConfigError

PIPELINE = [{"step": "flip", "probability": 0.5}, {"step": "mosaic", "probability": 0.5}, {"step": "hsv"}]


def opened(data):
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"))


def test_a_preview_is_a_grid_of_originals_and_variants(texture):
    images = [texture(64, 48, 1), texture(30, 90, 2)]

    small, large = (
        opened(preview(images[:1], PIPELINE, variants=2)),
        opened(preview(images, PIPELINE, variants=5)),
    )

    assert large.shape[0] > 1.9 * small.shape[0]
    assert (large.shape[1] - 10) / (small.shape[1] - 10) == 6 / 3


def test_the_same_preview_has_the_same_bytes_and_another_seed_others(texture):
    images = [texture(64, 48, 1), texture(30, 90, 2)]

    assert preview(images, PIPELINE, seed=1) == preview(images, PIPELINE, seed=1)
    assert preview(images, PIPELINE, seed=1) != preview(images, PIPELINE, seed=2)


def test_boxes_are_drawn_in_the_colour_of_their_class():
    black = np.zeros((240, 320, 3), np.uint8)
    labelled = black, Annotations.of([[40, 50, 100, 120]], [0])

    picture = opened(preview([labelled], [], variants=1))
    original = picture[10:250, 10:330]

    rows, columns = np.nonzero((original == (0xE6, 0x19, 0x4B)).all(axis=2))
    assert [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] == [40, 50, 100, 120]
    # The empty pipeline's variant is the original.
    assert np.array_equal(picture[10:250, 340:660], original)


def test_captions_name_the_steps(texture):
    images = [texture(64, 48, 1)]

    named, unnamed = preview(images, [{"step": "flip", "probability": 0}]), preview(images, [])
    taken = preview(images, [{"step": "gamma", "gamma": [1, 1]}])

    # Same pixels; only the caption tells them apart.
    assert named == unnamed
    assert taken != unnamed


def test_a_legend_is_added_for_class_names(texture):
    images = [texture(64, 48, 1)]

    with_legend, without = opened(preview(images, [], classes=["cat", "dog"])), opened(preview(images, []))

    assert with_legend.shape[0] > without.shape[0]
    assert (with_legend == (0x3C, 0xB4, 0x4B)).all(axis=2)[without.shape[0] :].any()


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (4000, 3)])
def test_images_of_any_shape_can_be_previewed(size):
    image = np.zeros((*size, 3), np.uint8), Annotations.of([[0, 0, size[1], size[0]]], [0])

    assert opened(preview([image], [{"step": "flip"}])).size > 0


def test_a_preview_of_nothing_is_refused(texture):
    with pytest.raises(BadInput, match="needs an image and a variant, got 0 and 4"):
        preview([], PIPELINE)
    with pytest.raises(BadInput, match="got 1 and 0"):
        preview([texture(16, 16)], PIPELINE, variants=0)
    with pytest.raises(ConfigError, match="Did you mean 'flip'"):
        preview([texture(16, 16)], [{"step": "flop"}])
