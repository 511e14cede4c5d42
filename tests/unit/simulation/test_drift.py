import numpy as np
import pytest

from retrain.errors import BadInput
from retrain.simulation.drift import Drift
from retrain.simulation.scenes import DigitPool, render_scene
from retrain.simulation.stable_random import stable_rng


@pytest.fixture(scope="module")
def image():
    return render_scene(stable_rng("drift"), DigitPool("train")).image


def contrast(image):
    return float(np.subtract(*np.percentile(image.mean(axis=2), [99, 1])))


@pytest.mark.parametrize("drift", [Drift(), Drift("moderate", 0), Drift("blinding", 0)])
def test_no_drift_changes_nothing_and_copies(image, drift):
    after = drift.apply(stable_rng(1), image)

    assert np.array_equal(after, image)
    assert after is not image


@pytest.mark.parametrize("kind", ["moderate", "blinding"])
def test_drift_changes_pixels_but_neither_shape_nor_its_input(image, kind):
    before = image.copy()

    after = Drift(kind).apply(stable_rng(1), image)

    assert after.shape == image.shape
    assert after.dtype == np.uint8
    assert np.array_equal(image, before)
    assert np.mean(after != image) > 0.9
    assert np.array_equal(after, Drift(kind).apply(stable_rng(1), image))


def test_more_strength_leaves_less_contrast(image):
    left = [contrast(Drift("moderate", s).apply(stable_rng(1), image)) for s in (0, 0.4, 0.8)]

    assert left[0] > left[1] > left[2] > 5


def test_blinding_turns_dark_ink_on_light_paper_into_light_ink_in_the_dark(image):
    after = Drift("blinding").apply(stable_rng(1), image)

    assert np.median(image) > 150
    assert np.median(after) < 30
    ink, page = image.mean(axis=2) < 100, image.mean(axis=2) > 180
    assert after[ink].mean() > after[page].mean()


@pytest.mark.parametrize(("kind", "strength", "words"), [("fog", 1, "one of"), ("moderate", 3, "strength")])
def test_an_unknown_kind_or_strength_is_refused(kind, strength, words):
    with pytest.raises(BadInput, match=words):
        Drift(kind, strength)
