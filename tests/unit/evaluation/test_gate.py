import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrain.evaluation.change import Change, Comparison
from retrain.evaluation.evidence import Evidence, Measured
from retrain.evaluation.gate import GateDecision
from retrain.evaluation.gate import decide as decide_evidence
from retrain.evaluation.policy import GatePolicy

RULES = GatePolicy.of(
    {
        "must_improve": [{"metric": "map50", "slice": "drifted"}],
        "max_loss": {"per_slice": {"test": {"map50": 0.03}}},
    }
)
BETTER = Comparison(
    "map50", 0.5, 0.7, 0.2, 0.1, 0.3, 0.95, 100, 20, 1000, "by hand", "better", "map50 changed by +0.200: better."
)  # fmt: skip
SAME = replace(
    BETTER, challenger=0.5, difference=0.0, low=-0.01, high=0.01, verdict="inconclusive", reason="no change"
)


def decide(comparisons, policy):
    return decide_evidence(Evidence.of_slices(comparisons), policy)


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


def as_it_was(comparisons, margin):
    """The cycle's rule as it was written before policies were data."""

    def unusable(c):
        numbers = () if c is None else (c.champion, c.challenger, c.difference, c.low, c.high)
        return (
            c is None
            or c.verdict == "invalid"
            or not all(map(math.isfinite, numbers))
            or c.low > c.high
            or c.n_groups < 5
            or c.n_images < 1
        )

    target, kept = comparisons.get("drifted"), comparisons.get("test")
    if unusable(target) or unusable(kept):
        return "invalid"
    found = {"better" if target.low > 0 else "worse" if target.high < 0 else "inconclusive"}
    found.add("better" if kept.low > -margin else "worse" if kept.high <= -margin else "inconclusive")
    return next(verdict for verdict in ("worse", "inconclusive", "better") if verdict in found)


@st.composite
def consistent(draw):
    low, high = sorted((draw(st.floats(-0.2, 0.2)), draw(st.floats(-0.2, 0.2))))
    verdict = "better" if low > 0 else "worse" if high < 0 else "inconclusive"
    verdict = draw(st.sampled_from([verdict, verdict, verdict, "invalid"]))
    return replace(BETTER, low=low, high=high, verdict=verdict, n_groups=draw(st.integers(4, 7)))


@given(
    comparisons=st.dictionaries(st.sampled_from(["drifted", "test"]), consistent(), min_size=1),
    margin=st.sampled_from([0.0, 0.03, 0.1]),
)
def test_the_cycles_rule_as_a_policy_gives_the_verdicts_it_gave_before(comparisons, margin):
    policy = replace(RULES, max_loss={"per_slice": {"test": {"map50": margin}}})

    assert decide(comparisons, policy).verdict == as_it_was(comparisons, margin)


@given(
    field=st.sampled_from(["champion", "challenger", "difference", "low", "high"]),
    slice_name=st.sampled_from(["drifted", "test"]),
)
def test_one_nan_anywhere_stops_the_promotion(field, slice_name):
    comparisons = {"drifted": BETTER, "test": SAME}
    comparisons[slice_name] = replace(comparisons[slice_name], **{field: math.nan})

    assert decide(comparisons, RULES).verdict == "invalid"


def test_a_verdict_that_its_interval_contradicts_is_invalid():
    decision = decide({"drifted": replace(BETTER, low=-0.1), "test": SAME}, RULES)

    assert decision.verdict == "invalid"
    assert "does not say better" in decision.reasons[0]


def test_decisions_survive_json_and_old_ones_can_be_read():
    decision = decide({"drifted": BETTER}, RULES)
    old = {"verdict": "better", "passed": True, "reasons": ["a"], "margin": 0.03}

    assert GateDecision.from_json(json.loads(json.dumps(decision.to_json(), allow_nan=False))) == decision
    assert GateDecision.from_json(old) == GateDecision("better", True, ("a",))


EVERYTHING = GatePolicy.of(
    {
        "must_improve": [{"metric": "map50"}, {"metric": "map50_95", "slice": "night"}],
        "max_loss": {
            "overall": {"map50_95": 0.01, "recall": 0.02},
            "per_class": {"margin": 0.05, "exceptions": {"ship": 0.1}, "min_objects": 10},
            "per_slice": {"frozen": {"map50": 0.03}},
        },
        "operating_point": {"min_precision": 0.8, "min_recall": 0.7},
        "limits": {"latency_ratio": 1.2, "size_mb": 50},
        "minimum": {"images": 50, "objects": 100, "groups": 8},
    }
)
UP = Change("map50", 0.8, 0.9, 0.1, 0.05, 0.15, 0.02, 0.18, 0.85, 0.95, 100, 500, 20)
METRICS = ("map50", "map50_95", "precision", "recall")


def full_evidence(**changed):
    return Evidence(
        **{
            "metrics": {name: replace(UP, metric=name) for name in METRICS},
            "classes": {"car": UP, "ship": UP, "rare": replace(UP, n_objects=9, problem="too few")},
            "slices": {"night": {"map50_95": replace(UP, metric="map50_95")}, "frozen": {"map50": UP}},
            "measured": {"latency_ratio": Measured(1.1, 1.05, 1.19), "size_mb": Measured(40.0)},
            **changed,
        }
    )


def test_every_rule_is_told_with_its_number_interval_limit_and_outcome():
    decision = decide_evidence(full_evidence(), EVERYTHING)

    assert decision.passed
    assert [rule.rule for rule in decision.rules] == [
        "must_improve.map50",
        "must_improve.night.map50_95",
        "max_loss.overall.map50_95",
        "max_loss.overall.recall",
        "max_loss.per_slice.frozen.map50",
        "max_loss.per_class.car",
        "max_loss.per_class.rare",
        "max_loss.per_class.ship",
        "operating_point.min_precision",
        "operating_point.min_recall",
        "limits.latency_ratio",
        "limits.size_mb",
    ]
    kept = decision.rules[2]
    assert (kept.value, kept.low, kept.high, kept.limit) == (0.1, 0.05, 0.15, -0.01)
    assert "9 objects, from 10 on it would be" in decision.reasons[6]
    assert decision.rules[7].limit == -0.1
    assert "0.900, interval 0.850 to 0.950; at least 0.800" in decision.reasons[8]


def frozen(**changed):
    return {"slices": {"night": {"map50_95": UP}, "frozen": {"map50": replace(UP, **changed)}}}


def metric(name, **changed):
    everything = full_evidence().metrics
    return {"metrics": {**everything, name: replace(everything[name], **changed)}}


def cost(latency, size=1.0):
    return {"measured": {"latency_ratio": Measured(*latency), "size_mb": Measured(size)}}


def unsure(change, **ends):
    return replace(change, difference=0.0, **ends)


@pytest.mark.parametrize(
    ("changed", "verdict", "rule"),
    [
        ({"metrics": {}}, "invalid", "must_improve.map50"),
        ({"slices": {"frozen": {"map50": UP}}}, "invalid", "must_improve.night.map50_95"),
        ({"classes": {}}, "invalid", "max_loss.per_class.ship"),
        ({"classes": {"car": UP}}, "invalid", "max_loss.per_class.ship"),
        ({"classes": {"car": replace(UP, metric="map50_95"), "ship": UP}}, "invalid", "max_loss.per_class.car"),
        ({"measured": {"size_mb": Measured(40.0)}}, "invalid", "limits.latency_ratio"),
        (cost([math.nan]), "invalid", "limits.latency_ratio"),
        (cost([1.19, 1.1, 1.25]), "inconclusive", "limits.latency_ratio"),
        (cost([1.0], 51.0), "worse", "limits.size_mb"),
        ({"problems": ("another test set",)}, "invalid", "evidence"),
        # By its own interval it has lost too much, by that of all classes together it is not sure.
        (
            {"classes": {"car": unsure(UP, low=-0.2, high=-0.06, family_low=-0.3, family_high=0.0), "ship": UP}},
            "inconclusive",
            "max_loss.per_class.car",
        ),
        (
            {"classes": {"car": unsure(UP, low=-0.2, high=-0.1, family_low=-0.3, family_high=-0.06), "ship": UP}},
            "worse",
            "max_loss.per_class.car",
        ),
        (frozen(n_images=49), "invalid", "max_loss.per_slice.frozen.map50"),
        (frozen(n_objects=99), "invalid", "max_loss.per_slice.frozen.map50"),
        (frozen(n_objects=None), "invalid", "max_loss.per_slice.frozen.map50"),
        (frozen(n_groups=7), "invalid", "max_loss.per_slice.frozen.map50"),
        # The point estimate is high enough, the interval's end is not.
        (metric("precision", own_low=0.79), "inconclusive", "operating_point.min_precision"),
        (metric("recall", own_low=0.6, own_high=0.69), "worse", "operating_point.min_recall"),
        (metric("recall", own_low=math.nan), "invalid", "operating_point.min_recall"),
    ],
)  # fmt: skip
def test_each_rule_alone_stops_the_promotion(changed, verdict, rule):
    decision = decide_evidence(full_evidence(**changed), EVERYTHING)

    assert (decision.verdict, decision.decided_by.rule) == (verdict, rule)
    assert not decision.passed


numbers = (
    "champion",
    "challenger",
    "difference",
    "low",
    "high",
    "family_low",
    "family_high",
    "own_low",
    "own_high",
)
places = [("metrics", name) for name in METRICS] + [("classes", "car"), ("classes", "ship")] + [
    ("slices", "night"), ("slices", "frozen"), ("measured", "latency_ratio"), ("measured", "size_mb"),
]  # fmt: skip


@given(
    place=st.sampled_from(places),
    field=st.sampled_from([*numbers, "gone"]),
    value=st.sampled_from([math.nan, math.inf]),
)
def test_no_nan_and_no_missing_number_ever_gives_better(place, field, value):
    evidence = full_evidence()
    table, name = place
    own_interval_unused = table in ("slices", "classes") or name in ("map50", "map50_95")
    found = dict(getattr(evidence, table))
    if field == "gone":
        if place == ("classes", "car"):
            return  # nothing names it, so nobody can miss it
        del found[name]
    elif table == "measured":
        found[name] = Measured(value)
    elif field.startswith("own") and own_interval_unused:
        return
    elif table == "slices":
        found[name] = {metric: replace(one, **{field: value}) for metric, one in found[name].items()}
    else:
        found[name] = replace(found[name], **{field: value})

    assert decide_evidence(replace(evidence, **{table: found}), EVERYTHING).verdict == "invalid"


def test_without_any_class_compared_no_class_is_kept():
    policy = GatePolicy.of({"max_loss": {"per_class": {"margin": 0.1}}})

    decision = decide_evidence(Evidence(), policy)

    assert decision.verdict == "invalid"
    assert decision.reasons == ("Protected class cannot be judged: none was compared.",)
