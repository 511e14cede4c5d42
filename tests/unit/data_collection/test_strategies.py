import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrain.boxes import Detections
from retrain.data_collection.strategies import NO_BOXES, frame_confidence, make_strategy
from retrain.errors import ConfigError

scores = st.floats(0, 1)
digests = st.text("0123456789abcdef", min_size=64, max_size=64)


def detections(values):
    return Detections.of([[0, 0, 1, 1]] * len(values), [0] * len(values), values)


@given(confidence=scores, digest=digests, threshold=scores)
def test_uncertainty_takes_exactly_what_is_below_the_threshold(confidence, digest, threshold):
    decision = make_strategy("uncertainty", confidence_threshold=threshold)(confidence, digest)

    assert decision.taken == (confidence < threshold)
    assert decision.inclusion_probability == float(decision.taken)


@given(confidence=scores, digest=digests)
def test_boundary_takes_exactly_what_is_between_its_bounds(confidence, digest):
    decision = make_strategy("boundary", boundary_low=0.3, boundary_high=0.5)(confidence, digest)

    assert decision.taken == (0.3 < confidence < 0.5)


@pytest.mark.parametrize(("confidence", "taken"), [(0.4, False), (0.41, True), (0.59, True), (0.6, False)])
def test_the_boundary_is_by_default_that_of_the_seed(confidence, taken):
    assert make_strategy("boundary")(confidence, "a").taken is taken


@pytest.mark.parametrize("name", ["uncertainty", "boundary"])
def test_a_frame_without_boxes_is_neither_certain_nor_uncertain(name):
    decision = make_strategy(name)(None, "a")

    assert not decision.taken
    assert decision.reason == NO_BOXES


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 1.0])
def test_random_takes_its_share(rate):
    strategy = make_strategy("random", sample_rate=rate)
    n = 4000

    taken = sum(strategy(None, f"{number:064x}").taken for number in range(n))

    # Five standard deviations of a binomial.
    assert abs(taken - rate * n) <= 5 * (rate * (1 - rate) * n) ** 0.5


@given(digest=digests, confidence=st.none() | scores)
def test_random_answers_the_same_image_the_same_and_says_its_probability(digest, confidence):
    strategies = [make_strategy("random", sample_rate=0.3, seed=7) for _ in range(2)]

    first, second = (strategy(confidence, digest) for strategy in strategies)

    assert first == second
    assert first.inclusion_probability == 0.3


def test_another_seed_draws_another_sample():
    draws = [
        [make_strategy("random", sample_rate=0.5, seed=seed)(None, f"{n:064x}").taken for n in range(64)]
        for seed in (0, 1)
    ]

    assert draws[0] != draws[1]


@given(confidence=st.none() | scores, digest=digests)
def test_all_takes_all(confidence, digest):
    assert make_strategy("all")(confidence, digest).taken


@pytest.mark.parametrize(
    ("values", "minimum", "mean"),
    [([0.9, 0.5, 0.1], 0.5, 0.7), ([0.25], 0.25, 0.25), ([0.24], None, None), ([], None, None)],
)
def test_a_frames_confidence_is_that_of_the_boxes_it_shows(values, minimum, mean):
    assert frame_confidence(detections(values)) == minimum
    assert frame_confidence(detections(values), "mean") == (mean if mean is None else pytest.approx(mean))


@given(values=st.lists(scores, max_size=8), floor=scores)
def test_the_minimum_never_exceeds_the_mean_nor_falls_under_the_floor(values, floor):
    lowest = frame_confidence(detections(values), "minimum", floor)
    mean = frame_confidence(detections(values), "mean", floor)

    assert (lowest is None) == (mean is None) == all(value < floor for value in values)
    if lowest is not None:
        assert floor <= lowest <= mean + 1e-12


def test_a_misspelt_strategy_is_met_with_the_nearest_name():
    with pytest.raises(ConfigError, match=r"'uncertain'\. Did you mean 'uncertainty'\?"):
        make_strategy("uncertain")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"confidence_threshold": 1.2}, "confidence_threshold"),
        ({"sample_rate": -0.1}, "sample_rate"),
        ({"sample_rate": float("nan")}, "sample_rate"),
        ({"boundary_low": 0.6, "boundary_high": 0.4}, "low < high"),
    ],
)
def test_parameters_out_of_range_are_refused(parameters, message):
    with pytest.raises(ConfigError, match=message):
        make_strategy("all", **parameters)
