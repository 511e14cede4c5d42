from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrain.dataset.reading.balance import class_balance, epoch_sample, sampling_weights
from retrain.dataset.version import LabelledObject
from retrain.errors import BadInput

some_weights = st.lists(st.floats(0.01, 20.0), min_size=1, max_size=40).map(np.array)


def images(*labels):
    """One image per list of class indices."""
    box = (1.0, 1.0, 2.0, 2.0)
    return [
        SimpleNamespace(
            image=f"{n:064}", objects=tuple(LabelledObject(f"a-{i}", c, box) for i, c in enumerate(own))
        )
        for n, own in enumerate(labels)
    ]


def test_an_image_is_drawn_as_often_as_its_rarest_class_needs():
    # Class 0 is in 8 of 10 images, class 1 in 2, both of them in one.
    items = images(*[[0]] * 7, [0, 1, 1], [1], [])

    weights = sampling_weights(items, classes=2)

    before_normalising = [1.0] * 7 + [2.0, 2.0, 1.0]
    assert weights == pytest.approx(np.array(before_normalising) / 1.2)
    assert weights.mean() == pytest.approx(1.0)


def test_a_given_threshold_reaches_only_classes_in_a_smaller_share_of_the_images():
    items = images(*[[0]] * 60, *[[1]] * 36, *[[2]] * 4)

    weights = sampling_weights(items, classes=3, threshold=0.16)

    assert weights[0] == weights[60]
    assert weights[96] / weights[0] == pytest.approx(2.0)


@given(copies=st.integers(1, 5), classes=st.integers(1, 6))
def test_classes_that_are_balanced_leave_every_weight_at_one(copies, classes):
    items = images(*[[index] * (1 + index) for index in range(classes)] * copies)

    assert sampling_weights(items, classes).tolist() == [1.0] * len(items)


@given(labels=st.lists(st.lists(st.integers(0, 4), max_size=6), min_size=1, max_size=40))
def test_weights_have_mean_one_and_never_favour_an_image_without_objects(labels):
    weights = sampling_weights(images(*labels), classes=5)

    assert weights.mean() == pytest.approx(1.0)
    assert all(
        weight == pytest.approx(weights.min()) for weight, own in zip(weights, labels, strict=True) if not own
    )


def test_images_without_any_object_all_weigh_one():
    assert sampling_weights(images([], []), classes=3).tolist() == [1.0, 1.0]


def test_the_balance_counts_each_class_and_what_the_weights_make_of_it():
    items = images(*[[0, 0]] * 8, [1], [1], [])

    balance = class_balance(items, classes=3)

    assert (balance.images.tolist(), balance.objects.tolist()) == ([8, 2, 0], [16, 2, 0])
    assert (balance.background, balance.absent) == (1, (2,))
    assert balance.shares == pytest.approx([8 / 9, 1 / 9, 0])
    assert balance.imbalance == pytest.approx(8)
    # The two images of class 1 are drawn sqrt(8 / 2) times as often.
    assert balance.effective_shares == pytest.approx([0.8, 0.2, 0])
    assert balance.effective_imbalance == pytest.approx(4)


def test_the_balance_under_equal_weights_is_that_of_the_data():
    balance = class_balance(images([0, 0, 0], [1]), classes=2, weights=np.ones(2))

    assert balance.effective_shares.tolist() == balance.shares.tolist() == [0.75, 0.25]


def test_the_balance_of_no_objects_has_no_ratio():
    balance = class_balance(images([], []), classes=2)

    assert (balance.imbalance, balance.effective_imbalance, balance.background) == (None, None, 2)


@given(weights=some_weights, epoch=st.integers(0, 1000), seed=st.integers(0, 99), size=st.integers(1, 100))
def test_an_epoch_draws_each_image_as_often_as_expected_up_to_one(weights, epoch, seed, size):
    expected = size * weights / weights.sum()

    drawn = epoch_sample(weights, epoch, seed, size)

    times = np.bincount(drawn, minlength=len(weights))
    assert len(drawn) == size
    assert np.all(np.abs(times - expected) < 1 + 1e-6)


@given(weights=some_weights, epoch=st.integers(0, 1000), seed=st.integers(0, 99))
def test_an_epoch_of_n_draws_leaves_out_no_image_of_mean_weight_or_more(weights, epoch, seed):
    weights /= weights.mean()

    times = np.bincount(epoch_sample(weights, epoch, seed, len(weights)), minlength=len(weights))

    assert np.all(times >= np.floor(weights - 1e-6))


def test_draws_follow_the_weights_over_seeds():
    weights = np.array([0.2, 0.5, 1.0, 1.3, 2.0])

    times = sum(np.bincount(epoch_sample(weights, 0, seed, 5), minlength=5) for seed in range(4000))

    # Three standard deviations of a mean of 4000 draws of 0 or 1 are below 0.024.
    assert times / 4000 == pytest.approx(weights, abs=0.024)


def test_draws_follow_the_weights_over_epochs_far_closer_than_chance_would():
    weights = np.array([0.2, 0.5, 1.0, 1.3, 2.0])

    times = sum(np.bincount(epoch_sample(weights, epoch, 3, 5), minlength=5) for epoch in range(1000))

    assert times == pytest.approx(weights * 1000, abs=4)


def test_an_image_of_half_the_mean_weight_is_never_left_out_three_epochs_in_a_row():
    weights = np.array([0.5] * 50 + [1.5] * 50)
    drawn = np.array(
        [np.bincount(epoch_sample(weights, epoch, 7, 100), minlength=100) for epoch in range(60)]
    )

    seen_in_three = drawn[:-2] + drawn[1:-1] + drawn[2:]

    assert seen_in_three.min() == 1


def test_equal_weights_show_every_image_once_in_another_order_each_epoch():
    first, second = (epoch_sample(np.ones(50), epoch, 1, 50).tolist() for epoch in (0, 1))

    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second


def test_equal_arguments_draw_equal_epochs_and_another_seed_draws_another():
    weights = np.linspace(0.1, 3.0, 30)

    drawn = [epoch_sample(weights, 4, seed, 30).tolist() for seed in (8, 8, 9)]

    assert drawn[0] == drawn[1]
    assert sorted(drawn[0]) != sorted(drawn[2])


def test_an_image_of_weight_zero_is_never_drawn():
    weights = np.array([0.0, 1.0, 0.0, 2.0, 0.0])

    assert all(set(epoch_sample(weights, epoch, 0, 7).tolist()) == {1, 3} for epoch in range(200))


@pytest.mark.parametrize(
    ("labels", "classes", "threshold", "sentence"),
    [
        ([], 2, None, r"There are no images to balance\."),
        ([[0], [2]], 2, None, rf"Image {1:064} has class 2, but there are 2 classes\."),
        ([[0]], 1, 0.0, r"threshold must be in \(0, 1\], got 0\."),
        ([[0]], 1, float("nan"), r"threshold must be in \(0, 1\], got nan\."),
    ],
)
def test_what_cannot_be_weighed_is_refused(labels, classes, threshold, sentence):
    with pytest.raises(BadInput, match=sentence):
        sampling_weights(images(*labels), classes, threshold)


@pytest.mark.parametrize(
    ("weights", "arguments", "sentence"),
    [
        ([1.0, float("nan")], (0, 0, 2), r"Weights must be finite and 0 or more, got nan\."),
        ([1.0, -1.0], (0, 0, 2), r"Weights must be finite and 0 or more, got -1\."),
        ([0.0, 0.0], (0, 0, 2), r"Some weight must be above 0, got 2 weights without one\."),
        ([1.0], (-1, 0, 2), r"epoch must be at least 0, got -1\."),
        ([1.0], (0, -1, 2), r"seed must be at least 0, got -1\."),
        ([1.0], (0, 0, 0), r"size must be at least 1, got 0\."),
    ],
)
def test_epochs_that_cannot_be_drawn_are_refused(weights, arguments, sentence):
    with pytest.raises(BadInput, match=sentence):
        epoch_sample(np.array(weights), *arguments)


def test_a_balance_needs_one_weight_per_image():
    with pytest.raises(BadInput, match=r"Every image needs one weight, got 2 images and 3 weights\."):
        class_balance(images([0], [0]), 1, np.ones(3))
