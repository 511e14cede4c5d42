import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from retrain.evaluation.intervals import intervals, small_sample


@given(sizes=st.lists(st.integers(1, 50), min_size=2, max_size=12))
def test_degrees_of_freedom_are_those_of_bell_and_mccaffrey(sizes):
    share = np.array(sizes) / sum(sizes)
    residuals = np.eye(len(sizes)) - np.outer(np.ones(len(sizes)), share)
    estimator = residuals.T @ np.diag(share**2) @ residuals

    found = small_sample(share[None])

    # Of the sum of squared influences, whose expectation and variance under equal variances these traces give.
    trace = np.trace(estimator)
    assert found.factor[0] ** 2 == pytest.approx((share**2).sum() / trace, rel=1e-6)
    assert found.degrees[0] == pytest.approx(trace**2 / np.trace(estimator @ estimator), rel=1e-6)


def test_equal_groups_give_the_usual_degrees_of_freedom_and_one_heavy_group_few():
    equal, heavy = np.full(10, 0.1), np.array([0.55, *[0.05] * 9])

    found = small_sample(np.stack([equal, heavy, np.zeros(10)]))

    assert found.degrees[0] == pytest.approx(9)
    assert found.factor[0] == pytest.approx(np.sqrt(10 / 9))
    assert found.degrees[1] < 2.5
    assert found.factor[1] > found.factor[0]
    assert np.isnan(found.degrees[2])


def test_means_of_few_groups_are_covered_as_often_as_said():
    rng, groups = np.random.default_rng(0), 8
    share = np.array([1, 1, 1, 2, 2, 3, 5, 6]) / 21
    sample = small_sample(share[None])
    missed = 0
    for _ in range(1000):
        values = rng.normal(size=groups)
        weights = rng.multinomial(groups, np.full(groups, 1 / groups), 300)
        draws = (weights * share) @ values / (weights @ share)
        found = intervals(np.array([share @ values]), draws[:, None], sample, np.array([1000.0]), 0.95)
        missed += bool(found.low[0] > 0 or found.high[0] < 0)

    assert missed <= 50


def test_twenty_statistics_together_err_as_often_as_one():
    rng, groups, count = np.random.default_rng(1), 30, 20
    sample = small_sample(np.full((count, groups), 1 / groups))
    alone = together = 0
    for _ in range(300):
        values = rng.normal(size=(groups, count))
        weights = rng.multinomial(groups, np.full(groups, 1 / groups), 300)
        found = intervals(
            values.mean(axis=0), weights @ values / groups, sample, np.full(count, 1000.0), 0.95
        )
        alone += bool(((found.low > 0) | (found.high < 0)).any())
        together += bool(((found.family_low > 0) | (found.family_high < 0)).any())

    assert alone > 100
    assert together <= 20


def test_statistics_that_depend_on_each_other_cost_little():
    rng, groups = np.random.default_rng(2), 30
    one = rng.normal(size=(groups, 1))
    weights = rng.multinomial(groups, np.full(groups, 1 / groups), 1000)
    sample = small_sample(np.full((20, groups), 1 / groups))

    values, draws = np.repeat(one.mean(axis=0), 20), weights @ np.repeat(one, 20, axis=1) / groups
    found = intervals(values, draws, sample, np.full(20, 1000.0), 0.95)

    # Twenty times the same is one look; Bonferroni would be half as wide again.
    assert found.family_high - found.family_low == pytest.approx(found.high - found.low, rel=0.12)


def test_a_statistic_without_value_has_no_interval():
    draws = np.random.default_rng(3).normal(size=(500, 2))
    draws[:6, 0] = np.nan
    sample = small_sample(np.full((2, 10), 0.1))

    found = intervals(np.zeros(2), draws, sample, np.full(2, 100.0), 0.95)

    assert np.isnan(found.low[0])
    assert found.undefined[0] == 6
    assert found.low[1] < 0 < found.high[1]
    # Alone in its family.
    assert found.family_low[1] == found.low[1]


def test_what_never_varies_is_as_sure_as_its_objects_are_many():
    sample = small_sample(np.full((2, 10), 0.1))

    found = intervals(np.ones(2), np.ones((500, 2)), sample, np.array([30.0, 3000.0]), 0.95)

    # Clopper and Pearson of 30 and of 3,000 successes without a failure.
    exact = [binomtest(n, n).proportion_ci(0.95, method="exact").low for n in (30, 3000)]
    assert found.low == pytest.approx(exact)
