import time
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import chi2, norm

from retrain.boxes import Annotations
from retrain.errors import BadInput
from retrain.evaluation.comparator import EXPANDED, Comparison, ModelComparator, compare
from retrain.evaluation.matching import IOU_THRESHOLDS
from retrain.evaluation.protocol import EvaluationProtocol
from tests.unit.evaluation.worlds import copies, evaluation, random_world


def test_a_clearly_better_challenger_is_better_and_the_other_way_round_worse(evaluation_of):
    weak, strong = evaluation_of(0.5), evaluation_of(0.9, seed=1)

    up, down = compare(weak, strong), compare(strong, weak)

    assert up.verdict == "better"
    assert down.verdict == "worse"
    assert up.low < up.difference < up.high
    assert up.difference == pytest.approx(strong.summary.map50 - weak.summary.map50)
    assert (up.n_images, up.n_groups) == (60, 12)


def test_a_model_compared_with_itself_is_never_better(evaluation_of):
    same = evaluation_of(0.7)

    result = compare(same, same)

    assert result.verdict == "inconclusive"
    assert result.low < result.difference == 0.0 < result.high


def test_equal_seeds_give_equal_intervals_and_other_seeds_others(evaluation_of):
    pair = evaluation_of(0.6), evaluation_of(0.7, seed=1)

    assert compare(*pair, seed=3) == compare(*pair, seed=3)
    assert compare(*pair, seed=3).low != compare(*pair, seed=4).low


def test_the_interval_is_that_of_summaries_recomputed_on_every_draw(evaluation_of):
    champion, challenger = evaluation_of(0.6), evaluation_of(0.8, seed=1)
    recording = [int(group.removeprefix("cam-")) for group in champion.truth.groups]
    # compare() numbers recordings in the order of their names.
    by_name = np.argsort(np.argsort([f"cam-{n}" for n in range(12)]))
    draws = np.random.default_rng(7).multinomial(12, np.full(12, 1 / 12), 200)[:, by_name][:, recording]

    def scores(evaluation):
        return np.array([copies(evaluation, draw).summary.map50 for draw in draws])

    result = compare(champion, challenger, seed=7, resamples=200)

    # 2.201 is the 97.5 % quantile of Student's t with 11 degrees of freedom; the recordings are of equal size.
    error = np.std(scores(challenger) - scores(champion)) * np.sqrt(12 / 11)
    half = 2.20099 * error * np.sqrt(200 / chi2.ppf(0.05, 199))
    expected = result.difference - half, result.difference + half
    assert (result.low, result.high) == pytest.approx(expected, abs=1e-6)


def test_records_of_earlier_cycles_are_computed_again_with_their_own_intervals(evaluation_of):
    champion, challenger = evaluation_of(0.6), evaluation_of(0.8, seed=1)
    draws = np.random.default_rng(7).multinomial(12, np.full(12, 1 / 12), 200)
    after, before = (
        each.average_precision(each.truth.group_of).mean(draws, IOU_THRESHOLDS[:1])
        for each in (challenger, champion)
    )

    result = compare(champion, challenger, seed=7, resamples=200, resampling=EXPANDED)

    tail = norm.cdf(-2.20099 * np.sqrt(12 / 11))
    assert (result.low, result.high) == pytest.approx(np.quantile(after - before, [tail, 1 - tail]), abs=1e-6)
    assert result.resampling == "paired group bootstrap, expanded percentiles"
    with pytest.raises(BadInput, match="resampling must be"):
        compare(champion, challenger, resampling="by hand")


def test_recordings_are_drawn_not_frames(evaluation_of):
    pair = evaluation_of(0.6), evaluation_of(0.7, seed=1)

    once, often = compare(*pair), compare(*(copies(each, [9] * 60) for each in pair))

    assert often.n_images == 9 * once.n_images
    assert (often.low, often.high) == pytest.approx((once.low, once.high), abs=1e-9)


def test_the_reason_does_not_round_the_level(evaluation_of):
    pair = evaluation_of(0.6), evaluation_of(0.7, seed=1)

    assert ", 97.5% interval" in compare(*pair, level=0.975).reason
    assert ", 95% interval" in compare(*pair).reason


def test_fewer_than_five_recordings_give_no_verdict_however_large_the_difference(evaluation_of):
    result = compare(evaluation_of(0.1, recordings=4), evaluation_of(1.0, recordings=4))

    assert result.verdict == "invalid"
    assert "Only 4 recordings; at least 5" in result.reason
    assert np.isnan(result.low)


def test_images_without_objects_give_no_verdict(evaluation_of):
    empty = evaluation_of(1.0, truth=Annotations.empty())

    result = compare(empty, empty)

    assert result.verdict == "invalid"
    assert "no object" in result.reason


def test_precision_of_a_model_that_finds_nothing_is_not_blamed_on_the_images(evaluation_of):
    one = evaluation_of(1.0)
    silent = replace(one, predictions=one.predictions.only(np.zeros(0, dtype=np.int64)))

    for champion, challenger, who in ((one, silent, "challenger"), (silent, one, "champion")):
        change = ModelComparator(champion, challenger).compare().metrics["precision"]

        assert change.verdict == "invalid"
        assert f"What the {who} found defines no value" in change.unusable


def test_objects_in_too_few_recordings_give_no_verdict(evaluation_of):
    def emptied(evaluation):
        first = np.flatnonzero(evaluation.truth.group_of == 0)
        return replace(
            evaluation,
            truth=replace(evaluation.truth, **rows_in(evaluation.truth, first)),
            predictions=replace(evaluation.predictions, **rows_in(evaluation.predictions, first)),
        )

    def rows_in(table, images):
        columns = {
            name: each
            for name, each in vars(table).items()
            if isinstance(each, np.ndarray) and name != "group_of"
        }
        return {name: column[np.isin(table.image, images)] for name, column in columns.items()}

    result = compare(emptied(evaluation_of(0.3)), emptied(evaluation_of(1.0)))

    assert result.verdict == "invalid"
    assert "too few recordings" in result.reason


def test_different_images_or_truth_cannot_be_compared(evaluation_of):
    one = evaluation_of(0.7)
    shuffled = one.only(one.truth.images[:-1])
    relabelled = evaluation_of(0.7, truth=Annotations.of([[0, 0, 20, 20]], [1]))

    with pytest.raises(BadInput, match="same frozen set"):
        compare(one, shuffled)
    with pytest.raises(BadInput, match="same frozen set"):
        compare(one, relabelled)
    with pytest.raises(BadInput, match="not asked in the same way: max_detections differ"):
        compare(one, replace(one, protocol=EvaluationProtocol(max_detections=100)))


@pytest.mark.parametrize("evaluations", [(0.3, 0.8), (0.0, 1.0)])
def test_comparisons_survive_json_with_and_without_an_interval(evaluation_of, evaluations):
    valid = compare(evaluation_of(evaluations[0]), evaluation_of(evaluations[1]))
    invalid = compare(evaluation_of(0.3, recordings=2), evaluation_of(0.8, recordings=2))

    assert Comparison.from_json(valid.to_json()) == valid
    assert invalid.to_json()["low"] is None
    assert np.isnan(Comparison.from_json(invalid.to_json()).low)


def test_a_thousand_resamples_of_300_images_take_seconds(evaluation_of):
    champion = evaluation_of(0.6, recordings=30, per_recording=10)
    challenger = evaluation_of(0.7, seed=1, recordings=30, per_recording=10)

    began = time.process_time()
    compare(champion, challenger, "map50_95", resamples=1000)

    assert time.process_time() - began < 5


def pair_of(seed=0, images=90, **kwargs):
    found, truth = random_world(seed, images=images, **kwargs)
    other, _ = random_world(seed + 1, images=images, **kwargs)
    return evaluation(found, truth), evaluation(other, truth)


def test_everything_comes_with_the_values_of_the_summaries():
    champion, challenger = pair_of()
    slices = {"first": champion.truth.images[:45], "rest": champion.truth.images[45:]}

    found = ModelComparator(champion, challenger, resamples=200).compare(slices)

    for name in ("map50", "map50_95", "precision", "recall", "f1"):
        change = found.metrics[name]
        before, after = (getattr(each.summary, name) for each in (champion, challenger))
        assert (change.champion, change.challenger) == pytest.approx((before, after), abs=1e-12)
        assert change.difference == pytest.approx(after - before)
        assert change.low < change.difference < change.high
        assert change.own_low <= after < change.own_high
    for name, change in found.classes.items():
        assert change.champion == pytest.approx(champion.summary.classes[name].ap50, abs=1e-12)
        assert change.n_objects == champion.summary.classes[name].n_objects
    for name, ids in slices.items():
        change = found.slices[name]
        assert change.challenger == pytest.approx(challenger.only(ids).summary.map50, abs=1e-12)
        assert (change.n_images, change.n_groups) == (45, 15)
    assert found.metrics["map50"].low == compare(champion, challenger, resamples=200).low


def test_an_interval_for_many_is_wider_than_one_alone_but_not_than_bonferroni():
    champion, challenger = pair_of(classes=3)
    ninety = ModelComparator(champion, challenger, resamples=400, level=0.9).compare()
    third = ModelComparator(champion, challenger, resamples=400, level=1 - 0.1 / 3).compare()

    for name, change in ninety.classes.items():
        assert change.family_low < change.low <= change.high < change.family_high
        assert change.family_high <= third.classes[name].high + 1e-9


def test_a_class_or_slice_in_few_recordings_is_invalid_and_costs_the_others_nothing():
    champion, challenger = pair_of(classes=3)
    few = np.flatnonzero((champion.truth.label != 2) | (champion.truth.group_of[champion.truth.image] < 4))

    def without(one):
        columns = {
            name: getattr(one.truth, name)[few] for name in ("image", "label", "boxes", "crowd", "area")
        }
        return replace(one, truth=replace(one.truth, **columns))

    found = ModelComparator(without(champion), without(challenger), resamples=200).compare(
        {"tiny": champion.truth.images[:6], "all": champion.truth.images}
    )

    assert found.classes["class 2"].verdict == "invalid"
    assert "Only 4 of 30 recordings" in found.classes["class 2"].problem
    assert found.classes["class 0"].verdict != "invalid"
    assert found.slices["tiny"].verdict == "invalid"
    # Alone in its family, so as narrow as alone.
    assert found.slices["all"].family_low == pytest.approx(found.metrics["map50"].low)
    assert found.to_json()["slices"]["tiny"]["low"] is None


def test_numbers_out_of_range_are_refused():
    pair = pair_of(images=15)
    with pytest.raises(BadInput, match=r"resamples at least 200, got 0\.95 and 20"):
        ModelComparator(*pair, resamples=20)
    with pytest.raises(BadInput, match="metric must be one of map50, map50_95, got 'map'"):
        ModelComparator(*pair).compare(metric="map")
