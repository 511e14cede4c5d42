import gc
import logging
import multiprocessing
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest

from retrain.data_collection.collector import AUDIT
from retrain.data_collection.redis_backend.connection import RedisConnection
from retrain.data_collection.redis_backend.quota import RedisQuota
from retrain.errors import ConfigError, Unavailable
from tests.integration.data_collection.redis_world import collector, free_port, patiently, png

NOW = 1_000_000_020.0
"""20 s into a minute, 26 min 20 s before the hour ends: no window ends while a test runs on this clock."""


@pytest.fixture
def quota(redis, name):
    """Makes quotas of processes that share one name; nothing is leased but by `refresh`."""
    made = []

    def make(limits, **change):
        made.append(RedisQuota(redis, limits, name, **{"background": False, **change}))
        return made[-1]

    yield make
    for one in made:
        one.close()


def spend(quota, camera="a", now=NOW, most=10_000):
    """Takes until there is no room; how many."""
    for taken in range(most):
        if not quota.room(camera, now):
            return taken
        quota.take(camera, now)
    return most


def spend_all(quota, camera="a", now=NOW, rounds=50):
    """Takes and leases in turns; how many."""
    total = 0
    for _ in range(rounds):
        total += spend(quota, camera, now)
        quota.refresh()
    return total


def with_room(quota):
    """The quota, once this thread has a token."""
    quota.room("a", NOW)
    quota.refresh()
    assert quota.room("a", NOW)
    return quota


def test_a_camera_has_no_room_until_tokens_are_leased_for_it(quota):
    one = quota({"minute": 10})

    before = one.room("a", NOW)
    one.refresh()

    assert not before
    assert one.room("a", NOW)
    assert not one.room("b", NOW)


@pytest.mark.parametrize("limit", [1, 7, 1000])
def test_one_process_can_spend_the_whole_limit_and_no_more(quota, limit):
    assert spend_all(quota({"minute": limit}), rounds=120) == limit


def test_processes_that_share_a_name_never_exceed_the_limit_together(quota):
    processes = [quota({"minute": 100}) for _ in range(3)]

    taken = [spend(one) for _ in range(100) for one in processes if not one.refresh()]

    assert sum(taken) == 100


def test_a_process_leases_little_ahead(quota):
    greedy, other = quota({"minute": 100}, chunk_fraction=0.1), quota({"minute": 100}, chunk_fraction=0.1)
    greedy.room("a", NOW)
    greedy.refresh()

    assert spend_all(other) == 90


def test_every_window_and_camera_has_a_limit_of_its_own(quota):
    one = quota({"minute": 3})

    taken = [spend_all(one, camera, NOW + later, 10) for later in (0, 60, 120) for camera in ("a", "b")]

    assert taken == [3] * 6


def test_the_tightest_of_several_periods_counts(quota):
    one = quota({"minute": 3, "hour": 8})

    taken = [spend_all(one, now=NOW + 60 * minute, rounds=20) for minute in range(5)]

    assert taken == [3, 3, 2, 0, 0]


def test_a_frame_counts_in_the_window_in_which_its_room_was_asked(quota):
    one = with_room(quota({"minute": 1}))

    one.take("a", NOW + 60)

    assert not one.room("a", NOW)
    assert spend_all(one, now=NOW + 60, rounds=5) == 1


def test_a_thread_whose_coin_said_no_keeps_its_token_for_its_next_frame(quota):
    one = with_room(quota({"minute": 1}))

    assert [one.room("a", NOW) for _ in range(5)] == [True] * 5
    with ThreadPoolExecutor(1) as other_thread:
        assert not other_thread.submit(one.room, "a", NOW).result()


def test_threads_that_ask_at_one_instant_never_exceed_the_limit(quota):
    one, start = with_room(quota({"minute": 40}, chunk_fraction=1.0)), threading.Barrier(16)

    def ask_then_take():
        start.wait()
        taken = 0
        for _ in range(20):
            if one.room("a", NOW):
                time.sleep(0)
                one.take("a", NOW)
                taken += 1
        return taken

    with ThreadPoolExecutor(16) as pool:
        futures = [pool.submit(ask_then_take) for _ in range(16)]
        taken = sum(future.result() for future in futures)

    # One token is kept by the thread that leased first, which takes none here.
    assert taken == 39


def test_tokens_that_were_not_spent_are_returned_at_the_end(quota):
    first, second = with_room(quota({"minute": 10}, chunk_fraction=1.0)), quota({"minute": 10})
    first.take("a", NOW)

    first.close()

    assert spend_all(second, rounds=20) == 9


def test_tokens_of_a_killed_process_are_not_spent_by_others(quota):
    killed, other = quota({"minute": 10}, chunk_fraction=0.5), quota({"minute": 10})
    with_room(killed)

    assert spend_all(other, rounds=20) == 5


def test_after_less_was_given_than_asked_redis_is_left_alone_for_a_while(quota, redis, name):
    one = quota({"minute": 3})
    spend_all(one, rounds=10)

    with redis.client.monitor() as monitor:
        for _ in range(20):
            one.room("a", NOW)
            one.refresh()
        redis.client.echo("the end")
        heard = iter(lambda: monitor.next_command()["command"], "ECHO the end")
        assert not [command for command in heard if name in command]


def test_counts_expire_with_their_windows(quota, redis, name):
    spend_all(quota({"minute": 3, "day": 5}), rounds=3)

    lives = sorted(redis.client.ttl(key) for key in redis.client.scan_iter(f"*{name}*", count=10_000))

    assert lives == [pytest.approx(120, abs=60), pytest.approx(2 * 86_400, abs=60)]


def test_windows_that_are_over_are_forgotten(quota):
    one = quota({"minute": 3})
    for minute in range(50):
        for camera in ("a", "b"):
            spend_all(one, camera, NOW + 60 * minute, rounds=1)

    one.refresh()

    assert len(one._leases) == 2
    assert len(one._kept) <= 2


def test_without_redis_there_is_no_room_and_it_is_said_once(name, caplog):
    nowhere = RedisConnection(f"redis://127.0.0.1:{free_port()}/0")
    one = RedisQuota(nowhere, {"minute": 10}, name, refresh_s=0.01, clock=lambda: 7.0)

    with caplog.at_level(logging.WARNING):
        assert not one.room("a", NOW)
        patiently(lambda: expect(one.standstill), AssertionError)
        time.sleep(0.2)

    assert one.standstill.since == 7.0
    assert "cannot be reached" in one.standstill.why
    assert len([record for record in caplog.records if "audit arm goes on" in record.message]) == 1
    one.close()


def expect(truth):
    assert truth


def test_a_frozen_redis_is_never_waited_for_and_room_comes_back_with_it(own_server, name):
    one = RedisQuota(RedisConnection(own_server.url, timeout_s=0.2), {"minute": 1000}, name, refresh_s=0.01)
    now = lambda: 60.0 * (time.time() // 60 + 1)  # noqa: E731 - the next minute does not end during the test
    at = now()
    patiently(lambda: expect(one.room("a", at)), AssertionError)
    own_server.freeze()
    began = time.monotonic()

    answers = [one.room(camera, at) for camera in ("b", "c") for _ in range(5000)]

    assert not any(answers)
    assert time.monotonic() - began < 2
    patiently(lambda: expect(one.standstill), AssertionError)
    own_server.thaw()
    patiently(lambda: expect(one.room("b", at)), AssertionError)
    patiently(lambda: expect(one.standstill is None), AssertionError)
    one.close()


def test_a_clock_that_is_a_day_ahead_for_a_moment_ends_no_later_window(quota):
    one = with_room(quota({"minute": 10}))
    one.room("a", NOW + 86_400)
    one.refresh()

    taken = 0
    for second in range(120):
        one.refresh()
        if one.room("a", NOW + second):
            one.take("a", NOW + second)
            taken += 1

    # Two windows of 10, but for the token that was leased when the clock went.
    assert taken == 19


def test_the_strategy_stops_without_redis_and_the_audit_arm_goes_on(tmp_path, state, blobs, name):
    nowhere = RedisConnection(f"redis://127.0.0.1:{free_port()}/0")
    quota = RedisQuota(nowhere, {"minute": 10}, name)
    collecting = collector(tmp_path, state, blobs, quota=quota, audit_rate=0.5, seed=1)

    decisions = [collecting.collect(image=png(1), confidence=0.5) for _ in range(40)]

    assert {one.reason for one in decisions} == {AUDIT, "quota used up"}
    assert {one.inclusion_probability for one in decisions} == {0.5}
    quota.close()


def take_in_child(quota, results):
    time.sleep(0.3)
    results.put([spend(quota) for _ in range(20) if not time.sleep(0.05)])


def test_a_forked_child_spends_none_of_its_parents_tokens(redis, name):
    parent = RedisQuota(redis, {"minute": 20}, name, chunk_fraction=0.2, refresh_s=0.02)
    patiently(lambda: expect(parent.room("a", NOW)), AssertionError)
    fork = multiprocessing.get_context("fork")
    results = fork.Queue()
    children = [fork.Process(target=take_in_child, args=(parent, results)) for _ in range(2)]
    for child in children:
        child.start()

    own = [spend(parent) for _ in range(20) if not time.sleep(0.05)]
    taken = sum(own) + sum(sum(results.get(timeout=30)) for _ in children)

    for child in children:
        child.join()
    assert 15 <= taken <= 20
    parent.close()


def test_a_thread_leases_in_the_background(redis, name):
    one = RedisQuota(redis, {"minute": 5}, name, refresh_s=0.01)
    taken = []

    def look():
        taken.append(spend(one))
        assert sum(taken) == 5

    patiently(look, AssertionError)
    one.close()


def test_nothing_is_leased_after_the_end(quota):
    one = with_room(quota({"minute": 5}))

    one.close()

    assert not one.room("b", NOW)


def test_an_unknown_period_or_a_limit_below_one_is_refused(redis):
    with pytest.raises(ConfigError, match="per minute, hour or day, got 'week'"):
        RedisQuota(redis, {"week": 3})
    with pytest.raises(ConfigError, match="at least 1 frame, got 0"):
        RedisQuota(redis, {"minute": 0})


def test_a_refresh_without_redis_says_so():
    one = RedisQuota(RedisConnection(f"redis://127.0.0.1:{free_port()}/0"), {"minute": 5}, background=False)
    one.room("a", NOW)

    with pytest.raises(Unavailable):
        one.refresh()
    one.close()


def test_a_quota_that_nobody_uses_any_more_is_freed_though_it_would_close_at_exit(redis):
    alive = weakref.ref(RedisQuota(redis, {"minute": 5}))
    gc.collect()

    assert alive() is None
