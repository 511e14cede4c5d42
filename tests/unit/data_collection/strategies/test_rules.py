from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrain.data_collection.frame import Frame, Seen, Wish
from retrain.data_collection.strategies.balance import ClassCounts
from retrain.data_collection.strategies.names import CollectionStrategy
from retrain.data_collection.strategies.rules import combined, make_strategy
from retrain.errors import ConfigError

scores = st.floats(0, 1)
weights = st.floats(0, 1, exclude_min=True)
NEEDED = {
    "per_class": {"class_thresholds": {0: 0.5, 1: 0.9}},
    "rare_class": {"targets": {1: 0.2}},
    "combined": {"weights": {"uncertainty": 0.5, "no_detections": 0.3, "track_gap": 1.0}},
}
NAMES = get_args(CollectionStrategy)


def build(name, **settings):
    """A strategy with whatever it cannot do without."""
    needed = NEEDED.get(name, {}) | ({"counts": ClassCounts()} if name == "rare_class" else {})
    return make_strategy(name, **{**needed, **settings})


spans = st.tuples(st.integers(0, 600), st.integers(1, 200))
boxes = st.tuples(spans, spans).map(lambda s: [s[0][0], s[1][0], sum(s[0]), sum(s[1])])
predictions = st.lists(st.tuples(boxes, st.integers(0, 2), scores), max_size=4).map(
    lambda found: Seen(*map(list, zip(*found, strict=True))) if found else Seen([], [], [])
)


@st.composite
def frames(draw):
    seen = draw(predictions)
    return Frame(
        draw(st.none() | scores),
        *seen,
        camera=draw(st.sampled_from("ab")),
        captured_at=draw(st.floats(0, 10)),
        width=draw(st.sampled_from([0, 800])),
        height=800,
        flipped=draw(st.none() | predictions),
        shadow=draw(st.none() | predictions),
    )


@given(confidence=scores, threshold=scores)
def test_uncertainty_wants_exactly_what_is_below_the_threshold(confidence, threshold):
    wish = make_strategy("uncertainty", confidence_threshold=threshold)(Frame(confidence))

    assert wish.probability == float(confidence < threshold)


@given(confidence=scores)
def test_boundary_wants_exactly_what_is_between_its_bounds(confidence):
    wish = make_strategy("boundary", boundary_low=0.3, boundary_high=0.5)(Frame(confidence))

    assert wish.probability == float(0.3 < confidence < 0.5)


@pytest.mark.parametrize(("confidence", "wanted"), [(0.4, 0), (0.41, 1), (0.59, 1), (0.6, 0)])
def test_the_boundary_is_by_default_that_of_the_seed(confidence, wanted):
    assert make_strategy("boundary")(Frame(confidence)).probability == wanted


@pytest.mark.parametrize(("confidence", "wanted"), [(0.69, 1), (0.7, 0)])
def test_the_threshold_is_by_default_that_of_the_seed(confidence, wanted):
    assert make_strategy("uncertainty")(Frame(confidence)).probability == wanted


@pytest.mark.parametrize("name", ["uncertainty", "boundary"])
def test_a_frame_without_boxes_is_neither_certain_nor_uncertain(name):
    assert make_strategy(name)(Frame(None)) == (0.0, "no boxes")


@given(frame=frames())
def test_all_wants_all(frame):
    assert make_strategy("all")(frame) == (1.0, "all frames")


@given(frame=frames(), rate=scores)
def test_random_wants_its_share_of_whatever_it_is_shown(frame, rate):
    assert make_strategy("random", sample_rate=rate)(frame).probability == rate


def test_reasons_name_the_rule_with_its_numbers():
    strategies = [make_strategy("uncertainty"), make_strategy("boundary"), make_strategy("random")]

    reasons = [{strategy(Frame(confidence)).reason for confidence in (0.5, 0.9)} for strategy in strategies]

    assert reasons == [
        {"confidence < 0.7", "confidence >= 0.7"},
        {"0.4 < confidence < 0.6", "confidence is outside (0.4, 0.6)"},
        {"random share of 0.1"},
    ]


# name -> settings, and the share of `stream()` that they take.
RATES = {
    "uncertainty": ({"confidence_threshold": 0.7}, 0.8 * 0.7),
    "random": ({"sample_rate": 0.15}, 0.15),
    "boundary": ({}, 0.8 * 0.2),
    "all": ({}, 1.0),
    "band": ({"band_low": 0.1, "band_high": 0.2}, 0.8 * 0.1),
    "per_class": ({"class_thresholds": {1: 0.4}}, 0.8 * 0.25 * 0.4),
    "rare_class": ({"targets": {2: 1.0}, "sample_rate": 0.05}, 0.05),
    "no_detections": ({"no_detections_rate": 0.3}, 0.2 * 0.3),
    "flip_disagreement": ({}, 0.1),
    "shadow_disagreement": ({}, 0.05),
    "combined": (
        {"weights": {"uncertainty": 0.5, "no_detections": 0.5, "random": 0.2}},
        # Members are independent here given whether anything was seen.
        0.8 * (1 - (1 - 0.7 * 0.5) * (1 - 0.02)) + 0.2 * (1 - 0.5 * (1 - 0.02)),
    ),
}


def stream(count, seed=11):
    """Frames 1 s apart with nothing in one of five, else one standing object.

    Scores are uniform, so no box is below a display floor; class 1 in a quarter. The mirrored prediction sees
    an object more in a tenth of the frames, the shadow model in a twentieth.
    """
    rng = np.random.default_rng(seed)
    box, extra = [300.0, 300.0, 400.0, 400.0], [50.0, 50.0, 90.0, 90.0]
    for number in range(count):
        score = float(rng.random())
        own = Seen([], [], []) if rng.random() < 0.2 else Seen([box], [int(rng.random() < 0.25)], [score])
        more = Seen([*own.boxes, extra], [*own.classes, 0], [*own.scores, 0.9])
        yield Frame(
            None if not own.scores else score,
            *own,
            captured_at=float(number),
            width=800,
            height=800,
            flipped=more if rng.random() < 0.1 else own,
            shadow=more if rng.random() < 0.05 else own,
        )


def selection_rate(strategy, count, seed=12):
    coin = np.random.default_rng(seed)
    return sum(coin.random() < strategy(frame).probability for frame in stream(count)) / count


@pytest.mark.parametrize("name", RATES)
def test_a_strategy_takes_the_share_of_a_known_stream_that_it_must(name):
    settings, expected = RATES[name]
    n = 4000

    rate = selection_rate(build(name, **settings), n)

    # Five standard deviations of a binomial.
    assert abs(rate - expected) <= 5 * (expected * (1 - expected) / n) ** 0.5


@given(name=st.sampled_from(NAMES), offered=st.lists(frames(), min_size=1, max_size=4))
def test_every_strategy_wishes_with_a_probability_and_a_reason(name, offered):
    strategy = build(name)

    wishes = [strategy(frame) for frame in offered]

    assert all(0 <= wish.probability <= 1 for wish in wishes)
    assert all(isinstance(wish, Wish) and wish.reason for wish in wishes)


@given(
    name=st.sampled_from([name for name in NAMES if name != "combined"]),
    offered=st.lists(frames(), max_size=4),
)
def test_combined_of_one_member_with_weight_1_wishes_what_the_member_does(name, offered):
    alone = build(name)
    together = combined({name: (1.0, build(name))})

    assert [together(frame).probability for frame in offered] == [
        alone(frame).probability for frame in offered
    ]


def constant(probability):
    return lambda _: Wish(probability, "constant")


members = st.dictionaries(st.sampled_from("abcde"), st.tuples(weights, scores), min_size=1)


@given(chosen=members)
def test_combined_is_the_chance_that_any_of_independent_coins_wants_it(chosen):
    strategy = combined({name: (weight, constant(p)) for name, (weight, p) in chosen.items()})

    wish = strategy(Frame(0.5))

    expected = 1 - np.prod([1 - weight * p for weight, p in chosen.values()])
    assert wish.probability == pytest.approx(expected, abs=1e-12)
    assert 0 <= wish.probability <= 1


@given(chosen=members, name=st.sampled_from("abcde"), heavier=weights)
def test_combined_grows_with_each_weight(chosen, name, heavier):
    lighter = {key: (weight, constant(p)) for key, (weight, p) in chosen.items()}
    weight, member = lighter.get(name, (0.0, constant(0.5)))

    before = combined(lighter)(Frame(0.5)).probability
    after = combined({**lighter, name: (max(weight, heavier), member)})(Frame(0.5)).probability

    assert after >= before - 1e-12


@given(chosen=members)
def test_a_member_that_surely_wants_a_frame_gets_it(chosen):
    rest = {name: (weight, constant(p)) for name, (weight, p) in chosen.items()}

    assert combined({**rest, "sure": (1.0, constant(1.0))})(Frame(0.5)).probability == 1.0
    assert combined({"sure": (1.0, constant(1.0)), **rest})(Frame(0.5)).probability == 1.0


def test_combined_names_those_who_wanted_it():
    strategy = make_strategy("combined", weights={"uncertainty": 1, "boundary": 0.5, "no_detections": 0.2})

    wishes = [strategy(Frame(confidence)) for confidence in (0.5, 0.65, None, 0.9)]

    assert wishes == [
        (1.0, "uncertainty + boundary"),
        (1.0, "uncertainty"),
        (0.2, "no_detections"),
        (0.0, "wanted by none of uncertainty, boundary, no_detections"),
    ]


def test_combined_hands_its_settings_to_its_members():
    strategy = make_strategy(
        "combined", weights={"uncertainty": 1.0, "random": 0.5}, confidence_threshold=0.2, sample_rate=0.4
    )

    assert strategy(Frame(0.3)).probability == pytest.approx(0.2)
    assert strategy(Frame(0.1)).probability == 1.0


def test_combined_shows_every_frame_to_members_that_remember():
    strategy = make_strategy("combined", weights={"all": 1.0, "track_gap": 1.0})
    box = [300, 300, 400, 400]

    for second in range(3):
        strategy(Frame(0.9, [box], [0], [0.9], captured_at=second, width=800, height=800))

    assert strategy(Frame(None, captured_at=3, width=800, height=800)).reason == "all + track_gap"


def test_settings_of_other_strategies_are_left_aside():
    assert make_strategy("uncertainty", sample_rate=0.5, weights={})(Frame(0.5)).probability == 1.0


def test_every_name_of_the_config_can_be_built():
    assert all(callable(build(name)) for name in NAMES)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        (
            "uncertain",
            {},
            r"Unknown collection strategy 'uncertain'\. Did you mean 'uncertainty'\? Known: .*all",
        ),
        ("zzz", {}, r"Unknown collection strategy 'zzz'\. Known: uncertainty, random"),
        (
            "combined",
            {"weights": {"flip": 1}},
            r"Unknown collection strategy 'flip'\.",
        ),
        (
            "all",
            {"sample_rat": 0.1},
            r"Unknown strategy setting 'sample_rat'\. Did you mean 'sample_rate'\?",
        ),
        ("per_class", {}, r"The collection strategy 'per_class' needs class_thresholds\."),
        ("rare_class", {}, r"The collection strategy 'rare_class' needs targets and counts\."),
        ("combined", {}, r"The collection strategy 'combined' needs weights\."),
        ("combined", {"weights": {}}, r"weights is empty\. Give at least one strategy"),
        ("combined", {"weights": {"all": 0}}, r"weights\['all'\] must be in \(0, 1\], got 0\."),
        ("combined", {"weights": {"all": 1.5}}, r"weights\['all'\] must be in \(0, 1\], got 1\.5\."),
        ("combined", {"weights": {"combined": 1}}, r"'combined' cannot be one of its own weights"),
        ("combined", {"weights": {"per_class": 1}}, r"'per_class' needs class_thresholds"),
        (
            "combined",
            {"weights": {"random": 1}, "sample_rate": 2},
            r"sample_rate must be in \[0, 1\], got 2\.",
        ),
        (
            "uncertainty",
            {"confidence_threshold": 1.2},
            r"confidence_threshold must be in \[0, 1\], got 1\.2\.$",
        ),
        ("uncertainty", {"confidence_threshold": "0.7"}, r"confidence_threshold must be in .*, got '0\.7'\."),
        ("uncertainty", {"confidence_threshold": 70}, r"got 70\. Did you mean 0\.7\?"),
        ("random", {"sample_rate": -0.1}, r"sample_rate must be in \[0, 1\], got -0\.1"),
        ("random", {"sample_rate": float("nan")}, r"sample_rate must be in \[0, 1\], got nan"),
        (
            "boundary",
            {"boundary_low": 0.6, "boundary_high": 0.4},
            r"boundary_low must be less than boundary_high, got 0\.6 and 0\.4\.",
        ),
        ("boundary", {"boundary_low": -1}, r"boundary_low must be in \[0, 1\], got -1"),
    ],
)
def test_what_cannot_be_built_is_refused_with_the_value(name, settings, message):
    with pytest.raises(ConfigError, match=message):
        make_strategy(name, **settings)
