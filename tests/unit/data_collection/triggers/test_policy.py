import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrain.data_collection.triggers.policy import TriggerFacts, TriggerPolicy, Waiting, evaluate, measure
from retrain.errors import ConfigError

MONDAY = 1_795_392_000.0
"""2026-11-23 00:00 UTC."""
HOUR = 3600.0


def facts(new=0, counted=0, *, scopes=None, **more):
    return TriggerFacts({"samples": Waiting(counted, new), **(scopes or {})}, **more)


def fires(known, policy, now=MONDAY):
    return evaluate(known, policy, now).fires


def test_it_fires_at_the_threshold_and_not_one_below():
    policy = TriggerPolicy(500)

    below, at = evaluate(facts(499), policy, MONDAY), evaluate(facts(500), policy, MONDAY)

    assert (below.fires, below.would_fire_at, below.reasons) == (False, None, ("499 of 500 samples wait",))
    assert (at.fires, at.would_fire_at, at.reasons) == (True, MONDAY, ("500 of 500 samples wait",))
    assert (at.crossed.scope, at.crossed.threshold) == ("samples", 500)


def test_a_model_without_any_sample_does_not_fire():
    assert not fires(TriggerFacts({}), TriggerPolicy(1))


@pytest.mark.parametrize(
    ("scope", "name"), [("class scratch", "class_thresholds"), ("camera east", "camera_thresholds")]
)
def test_one_class_or_camera_is_enough_and_the_crossing_says_which(scope, name):
    policy = TriggerPolicy(500, **{name: {scope.split()[1]: 50, "other": 50}})

    decision = evaluate(facts(60, scopes={scope: Waiting(new=50)}), policy, MONDAY)

    assert decision.fires
    assert decision.reasons == (f"50 of 50 samples of {scope} wait",)
    assert (decision.crossed.scope, decision.crossed.waiting.total, decision.crossed.threshold) == (
        scope,
        50,
        50,
    )
    assert not fires(facts(60, scopes={scope: Waiting(new=49)}), policy)


def test_of_several_thresholds_reached_the_one_over_all_samples_is_recorded_and_all_are_named():
    policy = TriggerPolicy(5, class_thresholds={"dent": 2})

    decision = evaluate(facts(5, scopes={"class dent": Waiting(new=2)}), policy, MONDAY)

    assert decision.crossed.scope == "samples"
    assert decision.reasons == ("5 of 5 samples wait", "2 of 2 samples of class dent wait")


def test_an_unanswered_crossing_holds_everything_back_and_time_alone_does_not_help():
    decision = evaluate(facts(900, unanswered="m-samples-3"), TriggerPolicy(500), MONDAY)

    assert (decision.fires, decision.would_fire_at) == (False, None)
    assert decision.reasons == ("the cycle that answers m-samples-3 has not finished",)


def test_it_cools_down_after_the_last_cycle_to_the_second():
    policy, known = TriggerPolicy(5, cooldown_s=HOUR), facts(5, last_cycle_finished_at=MONDAY)

    hot = evaluate(known, policy, MONDAY + HOUR - 0.001)

    assert (hot.fires, hot.would_fire_at) == (False, MONDAY + HOUR)
    assert hot.reasons == ("cooling down until 2026-11-23 01:00:00 UTC",)
    assert fires(known, policy, MONDAY + HOUR)


def test_two_crossings_keep_their_distance_to_the_second():
    policy, known = TriggerPolicy(5, min_interval_s=HOUR), facts(5, last_crossing_at=MONDAY)

    soon = evaluate(known, policy, MONDAY + HOUR - 0.001)

    assert (soon.fires, soon.would_fire_at) == (False, MONDAY + HOUR)
    assert soon.reasons == ("too soon after the last crossing, until 2026-11-23 01:00:00 UTC",)
    assert fires(known, policy, MONDAY + HOUR)


def test_waits_that_are_off_ignore_a_past_that_a_fast_clock_wrote():
    known = facts(5, last_crossing_at=MONDAY + 60, last_cycle_finished_at=MONDAY + 60)

    assert fires(known, TriggerPolicy(5), MONDAY)


def test_what_was_reached_in_a_freeze_fires_when_it_ends():
    policy = TriggerPolicy(5, freeze=("Sun 12:00 - Mon 06:00",), timezone="Europe/Berlin")

    decision = evaluate(facts(5), policy, MONDAY)

    assert (decision.fires, decision.would_fire_at) == (False, MONDAY + 5 * HOUR)
    assert decision.reasons == ("frozen until 2026-11-23 06:00:00 CET",)
    assert fires(facts(5), policy, MONDAY + 5 * HOUR)


def test_a_wait_that_ends_inside_a_freeze_lasts_until_the_freeze_ends():
    policy = TriggerPolicy(5, cooldown_s=HOUR, freeze=("Mon 00:30 - Mon 06:00", "Mon 06:00 - Mon 07:00"))
    known = facts(5, last_cycle_finished_at=MONDAY)

    assert evaluate(known, policy, MONDAY).would_fire_at == MONDAY + 7 * HOUR


@pytest.mark.parametrize(
    ("unanswered", "first"),
    [(None, "4 of 5 samples wait"), ("m-samples-1", "the cycle that answers m-samples-1 has not finished")],
)
def test_everything_that_is_in_the_way_is_named(unanswered, first):
    policy = TriggerPolicy(5, cooldown_s=HOUR, min_interval_s=HOUR, freeze=("Mon 00:00 - Mon 06:00",))
    known = facts(4, unanswered=unanswered, last_cycle_finished_at=MONDAY, last_crossing_at=MONDAY)

    reasons = evaluate(known, policy, MONDAY).reasons

    named = [reason.split(" until")[0] for reason in reasons]
    assert named == [first, "cooling down", "too soon after the last crossing,", "frozen"]


@pytest.mark.parametrize(
    ("counted", "new", "expected"),
    # threshold 10, half of it: the re-arm level is 5.
    [
        (12, 0, False),
        (12, 4, False),
        (12, 5, True),
        (6, 4, False),
        (5, 5, True),
        (5, 4, False),
        (0, 10, True),
    ],
)
def test_samples_the_last_crossing_counted_count_for_at_most_the_re_arm_level(counted, new, expected):
    assert fires(facts(new, counted), TriggerPolicy(10, rearm_fraction=0.5)) is expected


def test_a_held_back_trigger_says_how_many_more_samples_re_arm_it():
    [level] = measure(facts(2, 12), TriggerPolicy(10, rearm_fraction=0.5))

    assert str(level) == "14 of 10 samples wait, but the last crossing counted 12 of them: 3 more are needed"


def test_without_hysteresis_the_same_samples_fire_again_and_with_all_of_it_only_new_ones_do():
    assert fires(facts(0, 10), TriggerPolicy(10, rearm_fraction=1.0))
    assert not fires(facts(9, 10), TriggerPolicy(10, rearm_fraction=0.0))
    assert fires(facts(10, 10), TriggerPolicy(10, rearm_fraction=0.0))


def test_a_re_arm_level_is_not_lost_to_rounding():
    # 0.57 * 100 is 56.99999999999999 in floating point.
    assert fires(facts(43, 57), TriggerPolicy(100, rearm_fraction=0.57))
    assert not fires(facts(42, 58), TriggerPolicy(100, rearm_fraction=0.57))


counts = st.integers(0, 60)
thresholds = st.integers(1, 40)


@given(counted=counts, new=counts, threshold=thresholds, rearm=st.integers(0, 8))
def test_hysteresis_is_falling_to_the_re_arm_level_or_growing_by_the_rest(counted, new, threshold, rearm):
    # Eighths are exact in floating point.
    policy = TriggerPolicy(threshold, rearm_fraction=rearm / 8)
    level = rearm * threshold // 8

    armed = counted <= level or new >= threshold - level

    assert fires(facts(new, counted), policy) == (armed and counted + new >= threshold)


@given(counted=counts, new=counts, threshold=thresholds, low=st.floats(0, 1), high=st.floats(0, 1))
def test_more_samples_or_weaker_hysteresis_never_stop_what_fired(counted, new, threshold, low, high):
    low, high = sorted((low, high))
    if not fires(facts(new, counted), TriggerPolicy(threshold, rearm_fraction=low)):
        return

    assert fires(facts(new, counted), TriggerPolicy(threshold, rearm_fraction=high))
    assert fires(facts(new + 1, counted), TriggerPolicy(threshold, rearm_fraction=low))
    assert fires(facts(new, counted + 1), TriggerPolicy(threshold, rearm_fraction=low))


moments = st.one_of(st.none(), st.floats(MONDAY - 1e5, MONDAY + 1e5))
waits = st.floats(0, 1e6)


@given(
    count=counts,
    crossed=moments,
    finished=moments,
    cooldown=waits,
    interval=waits,
    freeze=st.sampled_from([(), ("Fri 18:00 - Mon 06:00",), ("Mon 01:00 - Sun 23:00",)]),
    unanswered=st.sampled_from([None, "m-samples-1"]),
)
def test_it_fires_at_the_moment_it_foretells_and_not_before(
    count, crossed, finished, cooldown, interval, freeze, unanswered
):
    policy = TriggerPolicy(30, cooldown_s=cooldown, min_interval_s=interval, freeze=freeze)
    known = facts(count, last_crossing_at=crossed, last_cycle_finished_at=finished, unanswered=unanswered)

    decision = evaluate(known, policy, MONDAY)

    assert decision.fires == (decision.would_fire_at == MONDAY)
    assert (decision.would_fire_at is None) == (count < 30 or unanswered is not None)
    assert decision.reasons
    if decision.would_fire_at is not None:
        assert fires(known, policy, decision.would_fire_at)
        wait = decision.would_fire_at - MONDAY
        assert not any(fires(known, policy, MONDAY + wait * part / 7) for part in range(7) if wait)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"threshold": 0}, "threshold must be a whole number of at least 1, got 0"),
        ({"threshold": 2.5}, "threshold must be a whole number of at least 1, got 2.5"),
        ({"class_thresholds": {"dent": 0}}, "class_thresholds.dent must be"),
        ({"camera_thresholds": {"east": "many"}}, "camera_thresholds.east must be .* got 'many'"),
        ({"camera_thresholds": ["east"]}, "camera_thresholds must map names to numbers"),
        ({"rearm_fraction": 50}, r"rearm_fraction must be in \[0, 1\], got 50. Did you mean 0.5"),
        ({"rearm_fraction": math.nan}, "rearm_fraction must be"),
        ({"cooldown_s": -1}, "cooldown_s must be a number of seconds, at least 0, got -1"),
        ({"cooldown_s": math.inf}, "cooldown_s must be"),
        ({"min_interval_s": math.nan}, "min_interval_s must be"),
        ({"min_interval_s": "1h"}, "min_interval_s must be .* got '1h'"),
        ({"freeze": "Fri 18:00 - Mon 06:00"}, "freeze must be a list of windows"),
        ({"freeze": ("weekends",)}, "'weekends' cannot be read"),
        ({"timezone": "Mars/Olympus"}, "Unknown time zone 'Mars/Olympus'"),
        ({"treshold": 3}, "Unknown trigger setting 'treshold'. Did you mean 'threshold'"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused(settings, said):
    with pytest.raises(ConfigError, match=said):
        TriggerPolicy(500).changed(settings)


def test_a_changed_policy_keeps_the_rest():
    policy = TriggerPolicy(500, cooldown_s=60.0)

    assert policy.changed({"threshold": 300}) == replace(policy, threshold=300)


def test_a_class_threshold_for_a_class_the_model_has_not_is_refused():
    policy = TriggerPolicy(5, class_thresholds={"scrach": 2})

    with pytest.raises(ConfigError, match=r"'scrach'\. Did you mean 'scratch'"):
        policy.check_classes(["dent", "scratch"])
