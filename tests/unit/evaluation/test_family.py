import numpy as np

from retrain.evaluation.family import changes
from retrain.evaluation.paired_draws import Scored


def test_what_too_few_groups_hold_is_refused_and_widens_no_other_interval():
    rng, groups = np.random.default_rng(0), 6
    weights = np.concatenate(
        [np.ones((1, groups), int), rng.multinomial(groups, np.full(groups, 1 / groups), 500)]
    )
    shares = np.array([[1 / 6] * 6, [1 / 4] * 4 + [0.0] * 2])
    # No draw is without a value, so only the number of groups tells.
    after = 0.5 + 0.02 * (weights @ rng.normal(size=(groups, 2)))
    before = np.full_like(after, 0.5)

    both = changes("map50", Scored(before, after, shares), [60, 60], [900, 900], 0.95)
    (alone,) = changes("map50", Scored(before[:, :1], after[:, :1], shares[:1]), [60], [900], 0.95)

    assert both[1].verdict == "invalid"
    assert "Only 4 of 6 recordings" in both[1].problem
    assert both[0] == alone
    assert alone.problem is None
