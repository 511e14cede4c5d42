from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retrain.errors import Conflict, LeaseLost, NotFound, PostConditionFailed
from retrain.serving.route import RouteStore, wait_until_served
from retrain.storage.journal import Journal
from retrain.storage.state import open_state

OLD, NEW, OTHER = "a" * 64, "b" * 64, "c" * 64


def journalled(state):
    return [(entry.kind, entry.key) for entry in Journal(state, "route/m").entries()]


def test_a_model_without_a_route_is_not_found(routes):
    with pytest.raises(NotFound, match="'m'"):
        routes.get("m")


def test_a_new_route_gives_all_traffic_to_control(routes):
    record = routes.initialise("m", OLD, now=1.0)

    assert routes.get("m") == record
    assert (record.control, record.candidate, record.mode, record.traffic_fraction) == (
        OLD,
        None,
        "control",
        0.0,
    )
    assert record.version == (0, 1)


def test_initialising_again_shows_the_route_of_now(routes, state):
    routes.initialise("m", OLD, now=1.0)
    switched = routes.switch("m", NEW, expected=(0, 1), epoch=1, attempt="x", now=2.0)

    assert routes.initialise("m", OLD, now=3.0) == switched
    assert len(journalled(state)) == 2


def test_initialising_to_another_release_is_a_conflict(routes):
    routes.initialise("m", OLD, now=1.0)

    with pytest.raises(Conflict, match=OLD):
        routes.initialise("m", NEW, now=2.0)
    with pytest.raises(Conflict, match="already has a route"):
        routes.initialise("m", NEW, now=2.0, attempt="another")


def test_a_switch_changes_record_and_journal_together(routes, state):
    routes.initialise("m", OLD, now=1.0)

    record = routes.switch("m", NEW, expected=(0, 1), epoch=7, attempt="cycle-1", now=2.0)

    assert (record.control, record.version, record.attempt) == (NEW, (7, 2), "cycle-1")
    assert routes.get("m") == record
    assert journalled(state) == [("route.initialised", "initial"), ("route.switched", "cycle-1")]


@pytest.mark.parametrize("expected", [(0, 2), (1, 1), (0, 0)])
def test_a_switch_decided_on_another_route_is_refused(routes, state, expected):
    before = routes.initialise("m", OLD, now=1.0)

    with pytest.raises(Conflict, match="Read it again"):
        routes.switch("m", NEW, expected=expected, epoch=5, attempt="x", now=2.0)

    assert routes.get("m") == before
    assert len(journalled(state)) == 1


def test_an_older_epoch_is_fenced_off(routes):
    routes.initialise("m", OLD, now=1.0)
    routes.switch("m", NEW, expected=(0, 1), epoch=5, attempt="x", now=2.0)

    with pytest.raises(Conflict, match="Epoch 4 is older than 5"):
        routes.switch("m", OTHER, expected=(5, 2), epoch=4, attempt="y", now=3.0)


def test_the_same_attempt_is_applied_once(routes, state):
    routes.initialise("m", OLD, now=1.0)
    first = routes.switch("m", NEW, expected=(0, 1), epoch=5, attempt="x", now=2.0)

    again = routes.switch("m", NEW, expected=(0, 1), epoch=6, attempt="x", now=3.0)

    assert again == first
    assert len(journalled(state)) == 2


def test_an_attempt_has_one_target(routes):
    routes.initialise("m", OLD, now=1.0)
    routes.switch("m", NEW, expected=(0, 1), epoch=5, attempt="x", now=2.0)

    with pytest.raises(Conflict, match=NEW):
        routes.switch("m", OTHER, expected=(5, 2), epoch=5, attempt="x", now=3.0)


def test_a_superseded_attempt_is_not_applied_again(routes):
    routes.initialise("m", OLD, now=1.0)
    routes.switch("m", NEW, expected=(0, 1), epoch=1, attempt="promote", now=2.0)
    back = routes.switch("m", OLD, expected=(1, 2), epoch=2, attempt="roll-back", now=3.0)

    with pytest.raises(Conflict, match="roll-back"):
        routes.switch("m", NEW, expected=(2, 3), epoch=2, attempt="promote", now=4.0)

    assert routes.get("m") == back


def test_a_writer_without_its_lease_changes_nothing(routes, state):
    before = routes.initialise("m", OLD, now=1.0)

    def lost(connection):
        raise LeaseLost("token 3 is no longer the newest")

    with pytest.raises(LeaseLost):
        routes.switch("m", NEW, expected=(0, 1), epoch=1, attempt="x", now=2.0, guard=lost)

    assert routes.get("m") == before
    assert len(journalled(state)) == 1


def test_of_many_switches_decided_on_one_record_exactly_one_happens(routes):
    routes.initialise("m", OLD, now=1.0)

    def attempt(number):
        try:
            return routes.switch("m", NEW, expected=(0, 1), epoch=1, attempt=f"x{number}", now=2.0)
        except Conflict:
            return None

    with ThreadPoolExecutor(8) as pool:
        won = [record for record in pool.map(attempt, range(8)) if record]

    assert won == [routes.get("m")]
    assert routes.get("m").revision == 2


def test_concurrent_writers_lose_no_update(routes, state):
    routes.initialise("m", OLD, now=1.0)

    def keep_trying(name):
        for step in range(10):
            while True:
                now = routes.get("m")
                try:
                    routes.switch("m", NEW, expected=now.version, epoch=1, attempt=f"{name}-{step}", now=2.0)
                    break
                except Conflict:
                    continue

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(keep_trying, "ab"))

    assert routes.get("m").revision == 21
    assert len(journalled(state)) == 21


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from([OLD, NEW]), st.integers(0, 4), st.integers(0, 6), st.integers(0, 3)),
        max_size=12,
    )
)
def test_whatever_is_tried_the_version_never_falls_and_every_change_is_journalled(tmp_path_factory, steps):
    state = open_state(f"sqlite:///{tmp_path_factory.mktemp('route') / 'state.sqlite'}")
    routes = RouteStore(state)
    seen = [routes.initialise("m", OLD, now=0.0)]
    for target, epoch, attempt, age in steps:
        expected = seen[-1].version if age == 0 else seen[max(len(seen) - 1 - age, 0)].version
        try:
            routes.switch("m", target, expected=expected, epoch=epoch, attempt=f"x{attempt}", now=1.0)
        except Conflict:
            assert routes.get("m") == seen[-1]
        if (now := routes.get("m")) != seen[-1]:
            seen.append(now)

    assert all(one.epoch <= two.epoch for one, two in pairwise(seen))
    assert [record.revision for record in seen] == list(range(1, len(seen) + 1))
    assert [entry.payload["revision"] for entry in Journal(state, "route/m").entries()] == [
        record.revision for record in seen
    ]
    state.close()


class Ticker:
    """A clock that only sleeping moves; `events` happen when their time comes."""

    def __init__(self, now=100.0):
        self.now, self.events = now, []

    def clock(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        for due, action in [one for one in self.events if one[0] <= self.now]:
            action()
            self.events.remove((due, action))


def wait(routes, record, ticker, **change):
    options = {"deadline_s": 5.0, "min_replicas": 1, "clock": ticker.clock, "sleep": ticker.sleep} | change
    return wait_until_served(routes, "m", record, record.control, **options)


@pytest.fixture
def switched(routes):
    """Two replicas serve the old release; the route was just switched."""
    old = routes.initialise("m", OLD, now=90.0)
    for replica in ("r1", "r2"):
        routes.acknowledge("m", replica, old, OLD, now=100.0)
    return routes.switch("m", NEW, expected=old.version, epoch=1, attempt="x", now=100.0)


def test_waiting_ends_when_every_live_replica_serves_the_digest(routes, switched):
    ticker = Ticker()
    for due, replica in ((101, "r1"), (102, "r2")):
        act = lambda replica=replica: routes.acknowledge("m", replica, switched, NEW, now=ticker.now)  # noqa: E731
        ticker.events.append((due, act))

    served = wait(routes, switched, ticker)

    assert [one.replica for one in served] == ["r1", "r2"]
    assert 102 <= ticker.now < 103


def test_a_lagging_replica_is_named(routes, switched):
    ticker = Ticker()
    routes.acknowledge("m", "r1", switched, NEW, now=100.0)

    with pytest.raises(PostConditionFailed, match=r"Lagging: r2 \(serves a"):
        wait(routes, switched, ticker)
    assert ticker.now == pytest.approx(105.0)


def test_a_replica_that_was_gone_before_the_wait_is_not_waited_for(routes, switched):
    routes.acknowledge("m", "r1", switched, NEW, now=106.0)

    served = wait(routes, switched, Ticker(now=111.0))

    assert [one.replica for one in served] == ["r1"]


def follow(routes, switched, ticker, replica, moments):
    """`replica` acknowledges the new release at each of the moments."""
    for due in moments:
        act = lambda due=due: routes.acknowledge("m", replica, switched, NEW, now=due)  # noqa: E731
        ticker.events.append((due, act))


def test_a_replica_that_crashes_on_the_release_makes_the_wait_fail(routes, switched):
    ticker = Ticker()
    follow(routes, switched, ticker, "r1", range(101, 130))

    with pytest.raises(PostConditionFailed, match=r"1 of 2 live .* Lagging: r2 \(serves a"):
        wait(routes, switched, ticker, deadline_s=25.0)


def test_a_replica_that_is_silent_while_it_loads_the_release_is_waited_for(routes, switched):
    ticker = Ticker()
    follow(routes, switched, ticker, "r1", range(101, 130))
    follow(routes, switched, ticker, "r2", [120])

    served = wait(routes, switched, ticker, deadline_s=25.0)

    assert [one.replica for one in served] == ["r1", "r2"]
    assert 120 <= ticker.now < 121


def test_a_replica_that_retires_during_the_wait_is_no_longer_waited_for(routes, switched):
    ticker = Ticker()
    follow(routes, switched, ticker, "r1", [101])
    ticker.events.append((103, lambda: routes.retire("m", "r2")))

    served = wait(routes, switched, ticker)

    assert [one.replica for one in served] == ["r1"]
    assert 103 <= ticker.now < 104


def test_nobody_alive_is_not_success(routes, switched):
    with pytest.raises(PostConditionFailed, match="0 of 0 live replicas"):
        wait(routes, switched, Ticker(now=500.0))


def test_fewer_replicas_than_asked_for_is_not_success(routes, switched):
    for replica in ("r1", "r2"):
        routes.acknowledge("m", replica, switched, NEW, now=100.0)

    with pytest.raises(PostConditionFailed, match="at least 3"):
        wait(routes, switched, Ticker(), min_replicas=3)


def test_the_right_digest_under_an_older_route_does_not_count(routes):
    old = routes.initialise("m", OLD, now=90.0)
    routes.acknowledge("m", "r1", old, OLD, now=100.0)
    again = routes.switch("m", OLD, expected=old.version, epoch=1, attempt="x", now=100.0)

    with pytest.raises(PostConditionFailed):
        wait(routes, again, Ticker())


def test_a_retired_replica_is_gone(routes):
    record = routes.initialise("m", OLD, now=90.0)
    routes.acknowledge("m", "r1", record, OLD, now=100.0)

    routes.retire("m", "r1")

    assert routes.replicas("m", alive_since=0.0) == []
