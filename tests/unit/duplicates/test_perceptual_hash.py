import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from scipy.fft import dctn

from retrain.duplicates.perceptual_hash import (
    ENTRY,
    SIDE,
    PerceptualHash,
    first_same,
    largest_differences,
    perceptual_hash,
)
from retrain.errors import BadInput
from retrain.images import read_image

TOLERANCE = 2.5
KNOWN = ("8c0d3cf157a8ab78", "f2f6f5edeada9524")
"""The hashes of `rings` below when they were first stored; changing them makes every stored hash useless."""
pictures = arrays(np.uint8, st.tuples(st.integers(1, 80), st.integers(1, 80)))
thumbnails = arrays(np.uint8, (SIDE, SIDE))


def landscape(seed=0, size=(SIDE, SIDE)):
    """A soft picture with something in every corner."""
    coarse = np.random.default_rng(seed).integers(40, 220, (7, 7), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC))


def encoded(pixels, kind="JPEG", **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


@given(picture=pictures)
def test_equal_pictures_have_equal_hashes(picture):
    first, second = perceptual_hash(picture), perceptual_hash(picture.copy())

    assert first == second
    assert first.distance(second) == 0


@given(a=thumbnails, b=thumbnails)
def test_distance_is_symmetric_and_at_most_128(a, b):
    first, second = perceptual_hash(a), perceptual_hash(b)

    assert first.distance(second) == second.distance(first)
    assert 0 <= first.distance(second) <= 128


@given(cells=thumbnails)
def test_the_mirrored_hash_of_the_mirrored_image_is_the_originals(cells):
    assert perceptual_hash(cells[:, ::-1]).mirrored == perceptual_hash(cells)


@given(picture=pictures)
def test_mirroring_before_or_after_reducing_differs_by_rounding_only(picture):
    before, after = perceptual_hash(picture[:, ::-1]), perceptual_hash(picture).mirrored

    assert np.abs(before.cells.astype(int) - after.cells).max() <= 1


@pytest.mark.parametrize("seed", range(20))
def test_p_is_the_sign_of_scipys_cosine_transform_around_its_median(seed):
    cells = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE), dtype=np.uint8)
    low = dctn(cells.astype(float))[:8, :8]

    bits = "".join("1" if value > np.median(low) else "0" for value in low.ravel())

    assert perceptual_hash(cells).p == int(bits, 2)


@pytest.mark.parametrize("seed", range(20))
def test_d_says_where_brightness_rises_over_nine_equal_columns(seed):
    cells = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE), dtype=np.uint8)
    ninths = cells.astype(int).repeat(9, axis=1).reshape(8, 4, 9, SIDE).sum(axis=(1, 3))

    bits = "".join("1" if rises else "0" for rises in (ninths[:, 1:] > ninths[:, :-1]).ravel())

    assert perceptual_hash(cells).d == int(bits, 2)


def test_the_hash_of_a_known_picture_never_changes():
    rows, columns = np.mgrid[:40, :56]
    rings = (rows * rows // 8 + columns * columns // 5 + rows * columns // 6) % 251

    picture = perceptual_hash(rings.astype(np.uint8))

    assert (f"{picture.p:016x}", f"{picture.d:016x}") == KNOWN


def test_bytes_and_their_thumbnail_give_the_same_hash():
    data = encoded(landscape(size=(320, 240)))

    assert perceptual_hash(data) == perceptual_hash(read_image(data).thumbnail)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("damage", [lambda data: data[:-60], lambda _: b"hello", lambda _: b""])
def test_damaged_bytes_are_bad_input(kind, damage):
    data = encoded(landscape(size=(160, 160)), kind)

    with pytest.raises(BadInput):
        perceptual_hash(damage(data))


@pytest.mark.parametrize(
    "picture", [np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4)), np.zeros((0, 4), np.uint8)]
)
def test_anything_but_a_grey_picture_is_bad_input(picture):
    with pytest.raises(BadInput, match="grey levels as uint8"):
        perceptual_hash(picture)


@given(cells=thumbnails)
def test_a_stored_hash_is_read_back_equal(cells):
    picture = perceptual_hash(cells)

    assert PerceptualHash.from_bytes(picture.to_bytes()) == picture


def test_stored_hashes_are_the_rows_of_an_array():
    pictures = [perceptual_hash(landscape(seed)) for seed in range(3)]

    entries = np.frombuffer(b"".join(picture.to_bytes() for picture in pictures), ENTRY)

    assert entries["p"].tolist() == [picture.p for picture in pictures]
    assert entries["d"].tolist() == [picture.d for picture in pictures]
    assert all(
        np.array_equal(entry["thumbnail"], p.cells) for entry, p in zip(entries, pictures, strict=True)
    )


def test_a_stored_hash_of_another_length_is_bad_input():
    with pytest.raises(BadInput, match="1040 bytes, got 5"):
        PerceptualHash.from_bytes(b"12345")


@given(cells=thumbnails)
def test_a_picture_does_not_differ_from_itself(cells):
    assert largest_differences(cells[None].astype(float), cells.astype(float)) == [0]


@pytest.mark.parametrize("gain", [0.85, 1.15])
def test_a_little_more_or_less_light_is_no_difference(gain):
    before = landscape()
    after = np.clip(before * gain, 0, 255).astype(np.uint8)

    assert first_same(before[None], after, TOLERANCE) is not None


def test_half_the_light_is_another_picture():
    before = landscape()

    assert first_same(before[None], before // 2, TOLERANCE) is None


def test_black_and_white_frames_differ():
    black, white = np.zeros((SIDE, SIDE), np.uint8), np.full((SIDE, SIDE), 255, np.uint8)

    assert first_same(black[None], white, TOLERANCE) is None


@pytest.mark.parametrize("corner", [(0, 0), (12, 20), (28, 28)])
def test_a_small_object_makes_a_difference_anywhere(corner):
    before = landscape() // 2 + 60
    after = before.copy()
    after[corner[0] : corner[0] + 2, corner[1] : corner[1] + 2] -= 40

    assert first_same(before[None], after, TOLERANCE) is None


def test_an_object_that_moved_makes_a_difference_even_on_an_even_background():
    before, after = np.full((2, SIDE, SIDE), 200, np.uint8)
    before[10:15, 10:15], after[10:15, 12:17] = 60, 60

    assert first_same(before[None], after, TOLERANCE) is None


@pytest.mark.parametrize("percent", [2, 5])
@pytest.mark.parametrize("corner", [0.0, 0.4, 1.0])
def test_a_crop_shows_nothing_new(percent, corner):
    whole = landscape(seed=3, size=(400, 400))
    cut = round(400 * percent / 100)
    start = round(cut * corner)
    crop = whole[start : start + 400 - cut, start : start + 400 - cut]

    same = first_same(perceptual_hash(whole).cells[None], perceptual_hash(crop).cells, TOLERANCE)

    assert same is not None


def test_a_picture_is_no_crop_of_its_own_crop():
    whole = landscape(seed=3, size=(400, 400))

    same = first_same(
        perceptual_hash(whole[10:390, 10:390]).cells[None], perceptual_hash(whole).cells, TOLERANCE
    )

    assert same is None


def test_the_first_of_several_that_show_the_same_is_named():
    stored = np.stack([landscape(1), landscape(2), landscape(3), landscape(2)])

    assert first_same(stored, landscape(2), TOLERANCE) == (1, 0.0)
