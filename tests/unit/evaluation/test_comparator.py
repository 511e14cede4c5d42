import time
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm

from retrain.boxes import Annotations
from retrain.errors import BadInput
from retrain.evaluation.comparator import Comparison, compare
from retrain.evaluation.protocol import EvaluationProtocol
from tests.unit.evaluation.worlds import copies


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
    assert result.low == result.difference == result.high == 0.0


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

    # 2.201 is the 97.5 % quantile of Student's t with 11 degrees of freedom.
    tail = norm.cdf(-2.20099 * np.sqrt(12 / 11))
    expected = np.quantile(scores(challenger) - scores(champion), [tail, 1 - tail])
    assert (result.low, result.high) == pytest.approx(expected, abs=1e-6)


def test_recordings_are_drawn_not_frames(evaluation_of):
    pair = evaluation_of(0.6), evaluation_of(0.7, seed=1)

    once, often = compare(*pair), compare(*(copies(each, [9] * 60) for each in pair))

    assert often.n_images == 9 * once.n_images
    assert (often.low, often.high) == pytest.approx((once.low, once.high), abs=1e-9)


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
