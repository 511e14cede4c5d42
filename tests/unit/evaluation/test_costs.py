import json

import numpy as np
import pytest
from scipy import stats

from retrain.errors import BadInput
from retrain.evaluation.costs import INTERVAL, Costs, latency_ratio
from retrain.evaluation.evidence import Measured


def test_the_ratio_is_the_geometric_mean_of_pairs_with_student_s_interval_of_their_logarithms():
    rng = np.random.default_rng(0)
    champion, challenger = rng.gamma(9.0, 1.0, 30), rng.gamma(9.0, 1.3, 30)

    found = latency_ratio(champion.tolist(), challenger.tolist(), 0.9)

    logs = np.log(challenger) - np.log(champion)
    low, high = stats.t.interval(0.9, 29, loc=logs.mean(), scale=stats.sem(logs))
    assert found.value == pytest.approx(stats.gmean(challenger / champion))
    assert (found.low, found.high) == (pytest.approx(np.exp(low)), pytest.approx(np.exp(high)))
    assert found.low < found.value < found.high


def test_what_slows_both_of_a_pair_down_does_not_count():
    busy = np.random.default_rng(1).uniform(1, 20, 50)

    found = latency_ratio((2 * busy).tolist(), (3 * busy).tolist(), 0.95)

    assert (found.value, found.low, found.high) == (pytest.approx(1.5),) * 3


def test_the_interval_holds_as_often_as_it_says():
    rng = np.random.default_rng(2)
    held = 0
    for _ in range(1000):
        champion, challenger = 10 * np.exp(rng.normal(0, 0.2, (2, 20)))
        found = latency_ratio(champion, 1.2 * challenger, 0.95)
        held += found.low <= 1.2 <= found.high

    assert 930 <= held <= 970


@pytest.mark.parametrize(
    ("champion", "challenger", "said"),
    [
        ([1.0], [1.0], "at least 2, got 1 and 1"),
        ([1.0, 2.0], [1.0, 2.0, 3.0], "got 2 and 3"),
        ([1.0, 0.0], [1.0, 2.0], "above zero"),
        ([1.0, 2.0], [1.0, float("nan")], "above zero"),
    ],
)
def test_times_that_are_no_pairs_are_refused(champion, challenger, said):
    with pytest.raises(BadInput, match=said):
        latency_ratio(champion, challenger, 0.95)


def test_sizes_are_of_the_weights_and_latency_is_only_there_where_it_was_measured():
    found = Costs((2_000_000, 5_000_000)).measured(0.95)

    assert found == {"size_ratio": Measured(2.5), "size_mb": Measured(5.0)}


@pytest.mark.parametrize("latency", [None, ((1.0, 2.0, 4.0), (1.5, 3.5, 5.0))])
def test_costs_are_read_back_as_they_were_recorded(latency):
    costs = Costs((10, 20), latency, None if latency is None else {"device": "cpu"})
    noted = json.loads(json.dumps(costs.to_json(0.9)))

    again = Costs.from_json(noted)

    assert again.to_json(0.9) == noted
    assert again.measured(0.99) == costs.measured(0.99)
    assert (noted["level"], noted["interval"]) == (0.9, INTERVAL)
    assert noted["measured"]["size_ratio"]["value"] == 2
    assert ("latency_ratio" in noted["measured"]) == (latency is not None)
