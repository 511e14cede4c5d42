"""Production precision and recall from biased samples: unbiased, covered, and refused where nobody can know."""

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrain.boxes import Annotations, Detections
from retrain.data_collection.estimator import (
    Estimates,
    LabelledFrame,
    estimate_counts,
    match_counts,
)
from retrain.data_collection.estimator import estimate as estimate_at
from retrain.errors import BadInput
from retrain.evaluation.matching import match
from retrain.evaluation.predictions import Predictions
from retrain.evaluation.truth import LabelledImage, Truth

RUNS = 1000
SHARES = ("precision", "recall", "f1")
QUANTITIES = (*SHARES, "objects_per_frame")

counts = st.integers(0, 20)
frames = st.builds(LabelledFrame, counts, counts, counts, st.floats(0.001, 0.999))
samples = st.lists(frames, min_size=2, max_size=30)


def estimate(sample: list[LabelledFrame], **options) -> Estimates:
    """Of a sample in which the rarest kind of frame is, unless told otherwise."""
    rarest = min((one.inclusion_probability for one in sample), default=1.0)
    return estimate_at(sample, **{"audit_rate": rarest, **options})


@dataclass(frozen=True)
class Production:
    """A window of frames whose errors sit where the detector is unsure; arrays of shape (n,)."""

    tp: np.ndarray
    fp: np.ndarray
    fn: np.ndarray
    unsure: np.ndarray

    @property
    def recall(self) -> float:
        return self.tp.sum() / (self.tp.sum() + self.fn.sum())

    @property
    def precision(self) -> float:
        return self.tp.sum() / (self.tp.sum() + self.fp.sum())

    def estimate(self, kept: np.ndarray, probability: np.ndarray) -> Estimates:
        columns = self.tp, self.fp, self.fn, probability
        sample = [column[kept] for column in columns]
        return estimate_counts(*sample, audit_rate=probability.min(), population=len(self.tp))


def production(frames: int, seed: int = 0) -> Production:
    rng = np.random.default_rng(seed)
    objects = rng.poisson(3.0, frames) * (rng.random(frames) < 0.7)
    hard = rng.beta(0.5, 6.0, frames)
    tp, fp = rng.binomial(objects, 1 - hard), rng.poisson(hard)
    return Production(tp, fp, objects - tp, (hard > 0.2) & (tp + fp > 0))


def audit_and_unsure(window: Production, audit: float) -> np.ndarray:
    return np.where(window.unsure, 1.0, audit)


def repeated(window: Production, probability: np.ndarray, seed: int = 1, runs: int = RUNS) -> list[Estimates]:
    rng = np.random.default_rng(seed)
    drawn = (rng.random(len(probability)) < probability for _ in range(runs))
    return [window.estimate(kept, probability) for kept in drawn]


def errors_in_deviations(values: list[float], truth: float) -> float:
    """How many Monte Carlo standard errors the mean is from the truth."""
    return abs(np.mean(values) - truth) / (np.std(values, ddof=1) / np.sqrt(len(values)))


def coverage(runs: list[Estimates], name: str, truth: float) -> float:
    return float(np.mean([getattr(one, name).low <= truth <= getattr(one, name).high for one in runs]))


def width(of: Estimates, name: str = "recall") -> float:
    return getattr(of, name).high - getattr(of, name).low


def test_a_sample_of_everything_gives_the_exact_figures_as_points():
    all_frames = [LabelledFrame(3, 1, 0, 1.0), LabelledFrame(0, 0, 2, 1.0), LabelledFrame(0, 0, 0, 1.0)]

    found = estimate(all_frames, population=3)

    assert (found.precision.value, found.recall.value) == (3 / 4, 3 / 5)
    assert found.f1.value == pytest.approx(6 / 9)
    assert found.objects_per_frame.value == pytest.approx(5 / 3)
    for name in QUANTITIES:
        of = getattr(found, name)
        assert of.low == of.high == of.value


def test_a_frame_stands_for_as_many_as_its_probability_says():
    found = estimate([LabelledFrame(1, 1, 1, 1.0), LabelledFrame(2, 0, 0, 0.1)])

    assert found.precision.value == pytest.approx((1 + 10 * 2) / (2 + 10 * 2))
    assert found.recall.value == pytest.approx((1 + 10 * 2) / (2 + 10 * 2))
    assert found.objects_per_frame.value == pytest.approx((2 + 10 * 2) / 11)


@pytest.mark.parametrize("name", ["precision", "recall"])
def test_estimates_from_a_biased_sample_are_unbiased(name: str):
    window = production(4000)

    runs = repeated(window, audit_and_unsure(window, 0.05))

    assert errors_in_deviations([getattr(one, name).value for one in runs], getattr(window, name)) < 3


def test_the_same_sample_without_its_probabilities_is_biased():
    window = production(4000)
    probability = audit_and_unsure(window, 0.05)
    rng = np.random.default_rng(1)

    values = []
    for _ in range(100):
        kept = rng.random(4000) < probability
        values.append(window.estimate(kept, np.full(4000, kept.mean())).recall.value)

    assert errors_in_deviations(values, window.recall) > 30


def test_estimates_stay_unbiased_when_a_quota_closes_the_strategy():
    window = production(4000)
    is_open = np.where(window.unsure, 0.5, 0.05)
    rng = np.random.default_rng(2)

    values = []
    for _ in range(RUNS):
        drawn = rng.random(4000)
        taken_before = np.cumsum(drawn < is_open) - (drawn < is_open)
        probability = np.where(taken_before < 200, is_open, 0.05)
        values.append(window.estimate(drawn < probability, probability).recall.value)

    assert errors_in_deviations(values, window.recall) < 3


@pytest.mark.parametrize("audit_alone", [True, False], ids=["audit alone", "audit and unsure frames"])
def test_the_95_percent_interval_covers_the_truth_95_times_in_100(audit_alone: bool):
    window = production(10_000)
    probability = np.full(10_000, 0.02) if audit_alone else audit_and_unsure(window, 0.02)

    runs = repeated(window, probability, runs=2 * RUNS)

    assert 0.93 <= coverage(runs, "recall", window.recall) <= 0.97
    assert 0.93 <= coverage(runs, "precision", window.precision) <= 0.97
    assert 0.93 <= coverage(runs, "objects_per_frame", (window.tp + window.fn).mean()) <= 0.97


def test_taking_the_unsure_frames_narrows_the_interval():
    window = production(10_000)

    alone = repeated(window, np.full(10_000, 0.02), runs=50)
    joined = repeated(window, audit_and_unsure(window, 0.02), runs=50)

    assert np.mean([width(one) for one in joined]) < 0.8 * np.mean([width(one) for one in alone])


@pytest.mark.parametrize(("tp", "other"), [(4, 0), (0, 4)], ids=["all right", "all wrong"])
def test_a_sample_without_contrast_still_has_an_interval(tp: int, other: int):
    found = estimate([LabelledFrame(tp, other, other, 0.01)] * 25)

    for name in SHARES:
        of = getattr(found, name)
        assert (of.high if tp else of.low) == of.value
        assert 0.02 < of.high - of.low < 0.2


def test_without_boxes_nothing_is_known_of_precision_and_recall():
    found = estimate([LabelledFrame(0, 0, 0, 0.01)] * 5)

    for name in SHARES:
        of = getattr(found, name)
        assert math.isnan(of.value)
        assert (of.low, of.high, of.n, of.effective_n) == (0.0, 1.0, 5, 0.0)
    assert found.objects_per_frame.value == found.objects_per_frame.low == 0
    assert 0 < found.objects_per_frame.high < 2


def test_two_frames_that_contradict_each_other_say_nothing_at_a_high_level():
    found = estimate([LabelledFrame(9, 0, 0, 0.1), LabelledFrame(0, 9, 9, 0.1)], level=0.999)

    for name in SHARES:
        of = getattr(found, name)
        assert (of.low, of.high) == (0.0, 1.0)


def test_errors_in_frames_taken_for_certain_add_no_uncertainty():
    sure = [LabelledFrame(3, 0, 0, 0.05)] * 50
    wrong_by_chance = estimate([*sure, *[LabelledFrame(1, 1, 1, 0.05)] * 3])
    wrong_for_certain = estimate([*sure, *[LabelledFrame(1, 1, 1, 1.0)] * 60])

    assert wrong_by_chance.recall.value == pytest.approx(wrong_for_certain.recall.value)
    assert width(wrong_for_certain) < 0.6 * width(wrong_by_chance)


def test_a_higher_level_is_wider():
    sample = [LabelledFrame(3, 1, 1, 0.1), LabelledFrame(2, 0, 0, 0.1)] * 10

    wide, narrow = estimate(sample, level=0.99), estimate(sample, level=0.8)

    assert wide.recall.level == 0.99
    for name in QUANTITIES:
        assert width(wide, name) > width(narrow, name)


def test_equal_frames_are_all_effective_and_unequal_ones_are_not():
    equal = [LabelledFrame(2, 0, 0, 0.1)] * 10

    assert estimate(equal).recall.effective_n == pytest.approx(10)
    assert estimate([*equal, LabelledFrame(2, 0, 0, 0.001)]).recall.effective_n < 2


@given(samples)
def test_intervals_hold_the_value_and_stay_within_what_is_possible(sample: list[LabelledFrame]):
    found = estimate(sample)

    for name in SHARES:
        of = getattr(found, name)
        assert 0 <= of.low < of.high <= 1
        assert math.isnan(of.value) or of.low <= of.value <= of.high
        assert of.effective_n <= of.n * (1 + 1e-9)
    objects = found.objects_per_frame
    assert 0 <= objects.low <= objects.value <= objects.high < math.inf
    assert objects.low < objects.high


@given(samples, st.floats(0.01, 1.0))
def test_only_the_ratio_of_the_probabilities_decides_the_values(sample: list[LabelledFrame], factor: float):
    rarer = [replace(one, inclusion_probability=factor * one.inclusion_probability) for one in sample]

    before, after = estimate(sample), estimate(rarer)

    for name in QUANTITIES:
        expected = pytest.approx(getattr(before, name).value, nan_ok=True)
        assert getattr(after, name).value == expected


@given(
    st.lists(st.builds(LabelledFrame, st.integers(1, 20), counts, counts, st.floats(0.001, 0.9)), min_size=2)
)
def test_fewer_frames_of_the_same_kind_make_wider_intervals(sample: list[LabelledFrame]):
    few, many = estimate(sample), estimate(sample * 4)

    for name in SHARES:
        assert width(many, name) < width(few, name)


@given(samples, st.randoms())
def test_the_order_of_frames_does_not_matter(sample: list[LabelledFrame], random):
    shuffled = random.sample(sample, len(sample))

    assert estimate(shuffled).recall.low == pytest.approx(estimate(sample).recall.low)


@given(samples, st.floats(0.001, 1.0))
def test_a_frame_without_boxes_moves_only_the_objects_per_frame(
    sample: list[LabelledFrame], probability: float
):
    before, after = estimate(sample), estimate([*sample, LabelledFrame(0, 0, 0, probability)])

    for name in SHARES:
        assert getattr(after, name).value == pytest.approx(getattr(before, name).value, nan_ok=True)
    assert after.objects_per_frame.value <= before.objects_per_frame.value


@pytest.mark.parametrize("number", [0, 1])
def test_fewer_than_two_frames_are_refused(number: int):
    with pytest.raises(BadInput, match=f"At least 2 labelled frames are needed, got {number}"):
        estimate([LabelledFrame(1, 0, 0, 0.1)] * number)


@pytest.mark.parametrize("probability", [0.0, -0.1, 1.01, math.nan, math.inf])
def test_a_probability_outside_0_to_1_is_refused(probability: float):
    with pytest.raises(BadInput, match=f"inclusion_probability must be in .* got {probability:g}"):
        estimate([LabelledFrame(1, 0, 0, 0.1), LabelledFrame(1, 0, 0, probability)], audit_rate=0.1)


@pytest.mark.parametrize("name", ["tp", "fp", "fn"])
@pytest.mark.parametrize("count", [-1, 0.5, math.nan, math.inf])
def test_a_count_that_is_not_a_whole_number_from_0_is_refused(name: str, count: float):
    bad = replace(LabelledFrame(1, 1, 1, 0.1), **{name: count})

    with pytest.raises(BadInput, match=f"{name} must be whole numbers from 0, got {count:g}"):
        estimate([LabelledFrame(1, 0, 0, 0.1), bad])


def test_columns_of_unequal_length_are_refused():
    with pytest.raises(BadInput, match=r"got lengths .*'fn': 1"):
        estimate_counts([1, 2], [0, 0], [0], [0.1, 0.1], 0.1)


@pytest.mark.parametrize("values", [[[1, 2]], 3, ["a", "b"], [None, None, {}]])
def test_a_column_that_is_not_one_number_per_frame_is_refused(values: object):
    with pytest.raises(BadInput, match="tp must hold one number per frame"):
        estimate_counts(values, [0, 0], [0, 0], [0.1, 0.1], 0.1)


@pytest.mark.parametrize("level", [0.0, 1.0, 95, math.nan])
def test_a_level_outside_0_to_1_is_refused(level: float):
    with pytest.raises(BadInput, match=r"level must be in \(0, 1\)"):
        estimate([LabelledFrame(1, 0, 0, 0.1)] * 2, level=level)


@pytest.mark.parametrize("probability", [1.0, 0.9, 0.05])
def test_frames_that_the_strategy_wanted_say_nothing_of_those_it_left(probability: float):
    with pytest.raises(BadInput, match="None of the 12 labelled frames is one that the audit arm alone"):
        estimate([LabelledFrame(1, 0, 0, probability)] * 12, audit_rate=0.01)


def test_windows_without_an_audit_frame_are_refused_and_the_others_cover_the_truth():
    rng = np.random.default_rng(0)
    found, refused = [], 0
    for _ in range(RUNS):
        is_hard = np.arange(200) < 20
        probability = np.where(is_hard, 0.9, 0.01)
        kept = rng.random(200) < probability
        right, wrong = np.where(is_hard, 0, 10)[kept], np.where(is_hard, 10, 0)[kept]
        try:
            found.append(estimate_counts(right, wrong, wrong, probability[kept], audit_rate=0.01))
        except BadInput:
            refused += 1

    assert 100 < refused < 230
    assert coverage(found, "precision", 0.9) > 0.93


def test_an_audit_frame_that_happens_to_be_likely_does_not_make_the_interval_narrow():
    sample = [LabelledFrame(3, 1, 1, 0.02)] * 20

    told, untold = estimate(sample, audit_rate=0.01), estimate(sample)

    for name in QUANTITIES:
        assert width(told, name) > width(untold, name)


@pytest.mark.parametrize("audit_rate", [0.0, -0.1, 1.01, math.nan])
def test_an_audit_rate_outside_0_to_1_is_refused(audit_rate: float):
    with pytest.raises(BadInput, match=r"audit_rate must be in \(0, 1\], got"):
        estimate([LabelledFrame(1, 0, 0, 1.0)] * 2, audit_rate=audit_rate)


def test_a_frame_less_likely_than_the_audit_arm_takes_any_is_refused():
    with pytest.raises(
        BadInput, match=r"probability 0\.005, but none may have less than the audit rate 0\.01"
    ):
        estimate([LabelledFrame(1, 0, 0, 0.005)] * 2, audit_rate=0.01)


@pytest.mark.parametrize(
    ("sample", "population"),
    [
        ({1.0: 12, 0.01: 1}, 5000),
        ({1.0: 12}, 11),
        ({0.01: 2}, 1),
        ({0.01: 100}, 20_000),
        ({0.02: 200}, 5_000),
    ],
    ids=[
        "audit frames missing",
        "more than there are",
        "fewer than labelled",
        "half not labelled",
        "half too many",
    ],
)
def test_weights_that_contradict_the_population_are_refused(sample, population):
    labelled = [LabelledFrame(1, 0, 0, chance) for chance, number in sample.items() for _ in range(number)]

    with pytest.raises(BadInput, match=f"stand for .* but the window has {population}"):
        estimate(labelled, population=population)


def test_a_window_of_which_few_audit_frames_came_by_chance_is_accepted():
    sample = [LabelledFrame(0, 1, 1, 1.0)] * 12 + [LabelledFrame(1, 0, 0, 0.01)]

    assert estimate(sample, population=1000).precision.n == 13


@pytest.mark.parametrize("number", [175, 200, 225])
def test_weights_as_far_from_the_population_as_chance_allows_are_accepted(number: int):
    found = estimate([LabelledFrame(1, 0, 0, 0.01)] * number, population=20_000)

    assert found.recall.n == number


def boxes_at(*corners: float) -> list[list[float]]:
    return [[x, 0.0, x + 10.0, 10.0] for x in corners]


def test_one_true_box_is_found_once():
    prediction = Detections.of(boxes_at(0, 1), [0, 0], [0.9, 0.8])

    assert match_counts(prediction, Annotations.of(boxes_at(0), [0])) == (1, 1, 0)


def test_the_best_scored_box_chooses_first():
    prediction = Detections.of(boxes_at(2, -2), [0, 0], [0.5, 0.9])
    truth = Annotations.of(boxes_at(0, 4), [0, 0])

    assert match_counts(prediction, truth) == (2, 0, 0)


def test_another_class_does_not_match():
    prediction = Detections.of(boxes_at(0), [1], [0.9])

    assert match_counts(prediction, Annotations.of(boxes_at(0), [0])) == (0, 1, 1)


def test_boxes_below_the_served_threshold_do_not_count():
    prediction = Detections.of(boxes_at(0, 50), [0, 0], [0.3, 0.2])
    truth = Annotations.of(boxes_at(0, 50), [0, 0])

    assert match_counts(prediction, truth) == (1, 0, 1)
    assert match_counts(prediction, truth, score=0.4) == (0, 0, 2)


def test_the_overlap_asked_for_decides():
    prediction = Detections.of(boxes_at(2), [0], [0.9])
    truth = Annotations.of(boxes_at(0), [0])

    assert match_counts(prediction, truth, iou=8 / 12) == (1, 0, 0)
    assert match_counts(prediction, truth, iou=0.67) == (0, 1, 1)


def test_an_empty_side_gives_no_match():
    one = Detections.of(boxes_at(0), [0], [0.9])

    assert match_counts(Detections.empty(), Annotations.empty()) == (0, 0, 0)
    assert match_counts(one, Annotations.empty()) == (0, 1, 0)
    assert match_counts(Detections.empty(), one.as_annotations()) == (0, 0, 1)


@pytest.mark.parametrize("iou", [0.0, -1.0, 1.1, math.nan])
def test_an_overlap_outside_0_to_1_is_refused(iou: float):
    with pytest.raises(BadInput, match=r"iou must be in \(0, 1\]"):
        match_counts(Detections.empty(), Annotations.empty(), iou=iou)


@given(st.integers(0, 2**32 - 1))
def test_counts_agree_with_the_matching_of_evaluation(seed: int):
    rng = np.random.default_rng(seed)
    near = rng.uniform(0, 30, (12, 2))
    corners = np.concatenate([near, near + rng.uniform(5, 15, (12, 2))], axis=1)
    classes = rng.integers(0, 2, 12)
    prediction = Detections.of(corners[:7], classes[:7], rng.uniform(0.3, 1, 7))
    truth = Annotations.of(corners[5:], classes[5:])

    tp, fp, fn = match_counts(prediction, truth)

    images = Truth.of([LabelledImage("a", "a", truth)], ["a", "b"])
    assert tp == match(images, Predictions.of(images, {"a": prediction})).hits[:, 0].sum()
    assert (tp + fp, tp + fn) == (len(prediction), len(truth))
