import multiprocessing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrain.data_collection.quota import PERIOD_S, LocalQuota, local_quota
from retrain.errors import ConfigError

MIDNIGHT = 1_750_032_000.0
"""2025-06-16 00:00 UTC, where a minute, an hour and a day begin."""


def taken(rule, moments, camera="east"):
    """Those of the moments at which a frame was let through, and so taken."""
    let_through = []
    for moment in moments:
        if rule.room(camera, moment):
            rule.take(camera, moment)
            let_through.append(moment)
    return let_through


@pytest.mark.parametrize(("period", "length"), [("minute", 60), ("hour", 3600), ("day", 86_400)])
def test_a_period_lets_its_number_through_and_the_next_one_begins_on_the_clock(period, length):
    rule = LocalQuota({period: 2})
    late = [MIDNIGHT + length - 3, MIDNIGHT + length - 2, MIDNIGHT + length - 1, MIDNIGHT + length - 0.001]

    assert taken(rule, late) == late[:2]
    assert taken(rule, [MIDNIGHT + length, MIDNIGHT + length + 1]) == [
        MIDNIGHT + length,
        MIDNIGHT + length + 1,
    ]


def test_cameras_do_not_use_up_each_others_quota():
    rule = LocalQuota({"hour": 1})

    assert taken(rule, [MIDNIGHT], "east")
    assert taken(rule, [MIDNIGHT], "west")
    assert not rule.room("east", MIDNIGHT)


def test_of_several_limits_the_tightest_counts_and_the_others_go_on():
    rule = LocalQuota({"minute": 2, "hour": 3})

    assert taken(rule, [MIDNIGHT, MIDNIGHT, MIDNIGHT]) == [MIDNIGHT] * 2
    assert taken(rule, [MIDNIGHT + 60, MIDNIGHT + 60]) == [MIDNIGHT + 60]
    assert taken(rule, [MIDNIGHT + 3600] * 3) == [MIDNIGHT + 3600] * 2


def test_asking_uses_nothing_up():
    rule = LocalQuota({"minute": 1})

    assert all(rule.room("east", MIDNIGHT) for _ in range(5))


@given(
    limits=st.dictionaries(st.sampled_from(sorted(PERIOD_S)), st.integers(1, 4), min_size=1),
    steps=st.lists(st.integers(0, 5000), max_size=60),
)
def test_no_calendar_window_ever_holds_more_than_its_limit(limits, steps):
    moments = [MIDNIGHT + sum(steps[:end]) for end in range(1, len(steps) + 1)]

    kept = taken(LocalQuota(limits), moments)

    for period, limit in limits.items():
        windows = [moment // PERIOD_S[period] for moment in kept]
        assert all(windows.count(window) <= limit for window in windows)


def test_a_forked_child_can_take_although_a_thread_of_its_parent_was_taking():
    rule = LocalQuota({"minute": 1})
    with rule._lock:
        fork = multiprocessing.get_context("fork")
        child = fork.Process(target=rule.take, args=("east", MIDNIGHT), daemon=True)
        child.start()
        child.join(30)

    assert child.exitcode == 0


def test_the_windows_of_other_cameras_leave_those_that_go_on_alone():
    rule = LocalQuota({"minute": 1, "day": 3})
    taken(rule, [MIDNIGHT, MIDNIGHT + 60], "east")

    for number in range(100):
        rule.take(f"camera {number}", MIDNIGHT + 120)

    assert taken(rule, [MIDNIGHT + 200, MIDNIGHT + 300], "east") == [MIDNIGHT + 200]


def test_windows_that_are_over_are_forgotten_for_every_camera():
    rule = LocalQuota({"minute": 5})
    for number in range(1000):
        rule.take(f"camera {number}", MIDNIGHT)

    for minute in range(1, 10):
        rule.take("camera 1", MIDNIGHT + 60 * minute)

    assert sum(len(cameras) for windows in rule._taken.values() for cameras in windows.values()) < 10


def test_a_clock_that_steps_back_over_an_edge_opens_no_window_anew():
    rule = LocalQuota({"minute": 10})
    steps = [0.0, -0.1, 0.1, -0.1, 0.2]

    kept = taken(rule, [MIDNIGHT + step for step in steps for _ in range(30)])

    assert len(kept) == 20


def test_a_clock_that_is_a_day_ahead_for_a_moment_changes_nothing_afterwards():
    rule = LocalQuota({"minute": 2, "day": 5})
    taken(rule, [MIDNIGHT] * 2)
    taken(rule, [MIDNIGHT + 86_400])

    assert taken(rule, [MIDNIGHT + 1]) == []
    assert len(taken(rule, [MIDNIGHT + 60] * 3 + [MIDNIGHT + 120] * 3)) == 3


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"week": 5}, "per minute, hour or day, got 'week'"),
        ({"minute": 0}, "per minute must be at least 1 frame, got 0"),
        ({"day": -3}, "per day must be at least 1 frame, got -3"),
    ],
)
def test_a_limit_that_cannot_be_is_refused(limits, said):
    with pytest.raises(ConfigError, match=said):
        LocalQuota(limits)


def test_limits_that_are_not_set_do_not_count():
    rule = local_quota({"minute": None, "hour": 1, "day": None})

    assert taken(rule, [MIDNIGHT, MIDNIGHT + 60]) == [MIDNIGHT]


def test_without_any_limit_there_is_no_quota():
    assert local_quota({"minute": None, "hour": None, "day": None}) is None
