import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrain.errors import BadInput
from retrain.evaluation.comparator import Comparison
from retrain.evaluation.gate import GateDecision, GateRules, decide

RULES = GateRules(targets=("drifted",), margins={"test": 0.03})
BETTER = Comparison(
    "map50", 0.5, 0.7, 0.2, 0.1, 0.3, 0.95, 100, 20, 1000, "by hand", "better", "map50 changed by +0.200: better."
)  # fmt: skip
SAME = replace(
    BETTER, challenger=0.5, difference=0.0, low=-0.01, high=0.01, verdict="inconclusive", reason="no change"
)


def test_better_on_the_target_and_not_worse_elsewhere_passes():
    decision = decide({"drifted": BETTER, "test": SAME}, RULES)

    assert decision.passed
    assert decision.verdict == "better"
    assert "keeps its level" in decision.reasons[1]


def test_no_gain_on_the_target_does_not_pass():
    decision = decide({"drifted": SAME, "test": BETTER}, RULES)

    assert not decision.passed
    assert decision.verdict == "inconclusive"
    assert "not shown to be better" in decision.reasons[0]


def test_a_protected_slice_that_may_lose_more_than_its_margin_does_not_pass():
    unsure = replace(SAME, low=-0.03)

    decision = decide({"drifted": BETTER, "test": unsure}, RULES)

    assert not decision.passed
    assert decision.verdict == "inconclusive"
    assert "at most 0.030 may be lost" in decision.reasons[1]


def test_a_protected_slice_that_surely_lost_too_much_is_worse():
    lost = replace(SAME, difference=-0.1, low=-0.15, high=-0.05, verdict="worse")

    assert decide({"drifted": BETTER, "test": lost}, RULES).verdict == "worse"


@pytest.mark.parametrize("missing", ["drifted", "test"])
def test_a_slice_that_was_not_compared_does_not_pass(missing):
    comparisons = {"drifted": BETTER, "test": BETTER}
    del comparisons[missing]

    decision = decide(comparisons, RULES)

    assert decision.verdict == "invalid"
    assert any(missing in reason and "not compared" in reason for reason in decision.reasons)


def test_a_comparison_that_could_not_be_judged_gives_its_reason():
    few = replace(BETTER, verdict="invalid", reason="Only 3 recordings; at least 5 are needed.")

    decision = decide({"drifted": few, "test": SAME}, RULES)

    assert not decision.passed
    assert "Only 3 recordings" in decision.reasons[0]


number = st.floats(allow_nan=True, allow_infinity=True) | st.floats(-1, 1)
any_comparison = st.builds(
    Comparison,
    metric=st.just("map50"), champion=number, challenger=number, difference=number, low=number, high=number,
    level=st.just(0.95), n_images=st.integers(0, 300), n_groups=st.integers(0, 30), resamples=st.just(1000),
    resampling=st.just("any"), verdict=st.sampled_from(["better", "worse", "inconclusive", "invalid"]),
    reason=st.just("any"),
)  # fmt: skip


@given(
    comparisons=st.dictionaries(
        st.sampled_from(["drifted", "test", "other"]), st.just(BETTER) | st.just(SAME) | any_comparison
    )
)
def test_only_complete_finite_evidence_ever_passes(comparisons):
    decision = decide(comparisons, RULES)

    assert decision.passed == (decision.verdict == "better")
    if decision.passed:
        used = [comparisons["drifted"], comparisons["test"]]
        assert all(math.isfinite(value) for c in used for value in (c.difference, c.low, c.high))
        assert all(c.verdict != "invalid" and c.n_groups >= 5 and c.n_images > 0 for c in used)
        assert used[0].low > 0
        assert used[1].low > -0.03


@given(
    field=st.sampled_from(["champion", "challenger", "difference", "low", "high"]),
    slice_name=st.sampled_from(["drifted", "test"]),
)
def test_one_nan_anywhere_stops_the_promotion(field, slice_name):
    comparisons = {"drifted": BETTER, "test": SAME}
    comparisons[slice_name] = replace(comparisons[slice_name], **{field: math.nan})

    assert decide(comparisons, RULES).verdict == "invalid"


def test_a_gate_that_asks_for_nothing_cannot_be_built():
    with pytest.raises(BadInput, match="at least one target"):
        GateRules(targets=(), margins={})


@pytest.mark.parametrize("margin", [-0.1, 1.0, math.nan])
def test_a_margin_outside_the_range_is_refused(margin):
    with pytest.raises(BadInput, match="margin of slice 'test'"):
        GateRules(targets=("drifted",), margins={"test": margin})


def test_decisions_survive_json():
    decision = decide({"drifted": BETTER}, RULES)

    assert GateDecision.from_json(decision.to_json()) == decision
