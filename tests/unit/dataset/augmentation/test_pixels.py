"""Photometric and weather steps: what each is said to do, measured."""

import cv2
import numpy as np
import pytest

GREY = np.full((200, 200, 3), 128, np.uint8)


@pytest.fixture
def altered(apply, painted):
    """The image after a step with these settings."""
    nothing = painted(1, 1, [])[1]
    return lambda image, seed=0, **settings: apply(settings, image, nothing, seed).image


def test_hue_turns_red_to_green_to_blue(altered):
    red = np.full((4, 4, 3), (255, 0, 0), np.uint8)

    turned = [
        altered(red, step="hsv", hue_deg=[angle, angle], saturation=[1, 1], value=[1, 1])
        for angle in (120, -120)
    ]

    # 8-bit hue has steps of 1.4 degrees.
    assert np.abs(turned[0].astype(int) - (0, 255, 0)).max() <= 6
    assert np.abs(turned[1].astype(int) - (0, 0, 255)).max() <= 6


def test_saturation_0_is_grey_and_value_halves_the_light(altered, texture):
    image, _ = texture(40, 40)

    grey = altered(image, step="hsv", hue_deg=[0, 0], saturation=[0, 0], value=[1, 1])
    dark = altered(image, step="hsv", hue_deg=[0, 0], saturation=[1, 1], value=[0.5, 0.5])

    assert np.ptp(grey, axis=2).max() == 0
    assert np.abs(dark.max(axis=2) - image.max(axis=2) / 2).max() <= 1


def test_contrast_is_about_middle_grey_and_brightness_is_a_share_of_white(altered):
    image = np.array([[[78, 128, 178]]], np.uint8)

    flat = altered(image, step="brightness_contrast", brightness=[0, 0], contrast=[0.5, 0.5])
    bright = altered(image, step="brightness_contrast", brightness=[0.2, 0.2], contrast=[1, 1])

    assert flat.tolist() == [[[103, 128, 153]]]
    assert bright.tolist() == [[[129, 179, 229]]]


def test_gamma_keeps_black_and_white(altered):
    image = np.array([[[0, 128, 255]]], np.uint8)

    assert altered(image, step="gamma", gamma=[2, 2]).tolist() == [[[0, 64, 255]]]


def test_white_balance_changes_red_and_blue_apart_and_green_never(altered):
    tints = np.array([altered(GREY, seed, step="white_balance", gain=[0.5, 1.5])[0, 0] for seed in range(20)])

    assert (tints[:, 1] == 128).all()
    assert abs(np.corrcoef(tints[:, 0], tints[:, 2])[0, 1]) < 0.7
    assert tints[:, 0].std() > 20


def test_greyscale_takes_the_given_share_of_colour(altered):
    red = np.full((1, 1, 3), (200, 0, 0), np.uint8)

    assert altered(red, step="greyscale").tolist() == [[[60, 60, 60]]]
    assert altered(red, step="greyscale", strength=[0.5, 0.5]).tolist() == [[[130, 30, 30]]]


def test_equalising_brings_out_a_faint_pattern(altered, texture):
    faint = (texture(256, 256)[0] // 16 + 100).astype(np.uint8)

    assert altered(faint, step="equalise", clip_limit=[3, 3]).std() > 1.5 * faint.std()


def test_sharpening_and_blurring_are_opposites(altered, texture):
    image, _ = texture(64, 64)
    roughness = [
        np.abs(np.diff(picture.astype(int), 2, axis=1)).mean()
        for picture in (altered(image, step="blur"), image, altered(image, step="sharpen"))
    ]

    assert roughness == sorted(roughness)


@pytest.mark.parametrize("step", ["blur", "motion_blur"])
@pytest.mark.parametrize("seed", range(12))
def test_a_blurred_object_stays_centred_in_its_box(step, seed, altered, painted):
    image, _ = painted(60, 50, [(20, 18, 36, 30)])
    strength = {"blur": {"sigma_px": [2, 4]}, "motion_blur": {"length_px": [2, 15]}}

    light = altered(image, seed, step=step, **strength[step])[..., 0].astype(float)

    rows, columns = np.mgrid[:50, :60] + 0.5
    assert (columns * light).sum() / light.sum() == pytest.approx(28, abs=0.05)
    assert (rows * light).sum() / light.sum() == pytest.approx(24, abs=0.05)


def test_motion_blur_smears_along_its_angle_only(altered):
    dot = np.zeros((41, 41, 3), np.uint8)
    dot[20, 20] = 255

    across = altered(dot, step="motion_blur", length_px=[11, 11], angle_deg=[0, 0])[..., 0]
    # Clockwise, as y points down: a falling diagonal.
    falling = altered(dot, step="motion_blur", length_px=[11, 11], angle_deg=[45, 45])[..., 0]

    assert np.nonzero(across.max(axis=1))[0].tolist() == [20]
    assert np.nonzero(across.max(axis=0))[0].tolist() == list(range(14, 27))
    assert across[20, 16:25] == pytest.approx(255 / 11, abs=1)
    assert falling.trace() > 0.5 * falling.sum()


def test_full_even_fog_hides_everything_and_none_hides_nothing(altered, texture):
    image, _ = texture(50, 30)

    thick = altered(image, step="fog", density=[1, 1], level=[210, 210], patchiness=0)

    assert np.unique(thick).tolist() == [210]
    assert np.array_equal(altered(image, step="fog", density=[0, 0]), image)


def test_patchy_fog_is_thinner_in_places_but_never_thicker(altered):
    black = np.zeros((60, 80, 3), np.uint8)

    even = altered(black, step="fog", density=[0.5, 0.5], level=[200, 200], patchiness=0)
    patchy = altered(black, step="fog", density=[0.5, 0.5], level=[200, 200], patchiness=0.8)

    assert np.unique(even).tolist() == [100]
    assert patchy.max() <= 100
    assert patchy.min() < 50


@pytest.mark.parametrize("step", ["rain", "snow"])
def test_weather_without_drops_changes_nothing_and_more_drops_change_more(step, altered):
    changed = [(altered(GREY, step=step, density=[d, d]) != GREY).mean() for d in (0, 0.2, 2)]

    assert changed[0] == 0
    assert 0 < 3 * changed[1] < changed[2]


@pytest.mark.parametrize("angle", [-40, 0, 30])
def test_rain_falls_at_its_angle(angle, altered):
    """From the vertical, to the right when positive."""
    rain = {"step": "rain", "density": [0.1, 0.1], "length": [0.2, 0.2], "angle_deg": [angle, angle]}

    wet = (altered(GREY, **rain)[..., 0] != 128).astype(np.uint8)

    count, labels = cv2.connectedComponents(wet)
    slants = []
    for streak in range(1, count):
        points = np.argwhere(labels == streak)[:, ::-1]
        # A single whole streak, and not two that cross.
        if 35 < np.linalg.norm(np.ptp(points, axis=0)) < 45:
            x, y = np.linalg.svd(points - points.mean(axis=0), full_matrices=False)[2][0]
            slants.append(np.degrees(np.arctan(x / y)))
    assert np.median(slants) == pytest.approx(angle, abs=2)


@pytest.mark.parametrize("level", [0, 60, 128, 200])
def test_sensor_noise_grows_with_light_as_photons_do(level, altered):
    even = np.full((300, 300, 3), max(level, 30), np.uint8)

    noisy = altered(even, step="sensor_noise", read_levels=[3, 3], shot_levels=[8, 8])

    # Rounding to whole levels adds a variance of a twelfth.
    expected = np.sqrt(3**2 + 8**2 * max(level, 30) / 255 + 1 / 12)
    assert noisy.mean() == pytest.approx(max(level, 30), abs=0.1)
    assert noisy.std() == pytest.approx(expected, rel=0.02)


def test_sensor_noise_is_normal_and_independent_between_pixels_and_channels(altered):
    noise = altered(GREY, step="sensor_noise", read_levels=[10, 10], shot_levels=[0, 0]).astype(float) - 128

    assert [np.mean(np.abs(noise) < 10.5 * k) for k in (1, 2, 3)] == pytest.approx(
        [0.706, 0.964, 0.9984], abs=0.006
    )
    assert len(np.unique(noise, axis=0)) == len(noise)
    assert abs(np.corrcoef(noise[:, :-1, 0].ravel(), noise[:, 1:, 0].ravel())[0, 1]) < 0.02
    assert abs(np.corrcoef(noise[..., 0].ravel(), noise[..., 1].ravel())[0, 1]) < 0.02


def test_low_light_scales_linear_light_and_fewer_photons_are_noisier(altered):
    pictures = [
        altered(GREY, step="low_light", exposure=[0.25, 0.25], photons=[photons, photons])
        for photons in (500, 1_000_000)
    ]

    # A quarter of the light is 0.25 ** (1 / 2.2) of the level.
    assert pictures[1].mean() == pytest.approx(128 * 0.25 ** (1 / 2.2), abs=0.5)
    assert pictures[0].std() > 5 * pictures[1].std()


def test_lower_jpeg_quality_is_further_from_the_image_and_colours_keep_their_order(altered, texture):
    image, _ = texture(64, 64)

    far = [
        np.abs(altered(image, step="jpeg", quality=[q, q]).astype(int) - image).mean() for q in (100, 60, 10)
    ]
    red = altered(np.full((16, 16, 3), (220, 30, 30), np.uint8), step="jpeg")

    assert far == sorted(far)
    assert far[0] < 12
    assert np.abs(red.astype(int) - (220, 30, 30)).max() <= 6
