import itertools
import math
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retrain.cycle import abandon_cycle
from retrain.data_collection.triggers.crossings import mark_emitted, record_crossing
from retrain.data_collection.triggers.history import last_crossings, read_history
from retrain.data_collection.triggers.policy import TriggerPolicy
from retrain.data_collection.triggers.replay import (
    CycleDelays,
    History,
    PastCrossing,
    PastCycle,
    PastSample,
    ReplayedCrossing,
    cycle_delays,
    replay,
)
from retrain.errors import BadInput
from tests.unit.data_collection.stored_rows import (
    answer,
    finish_cycle,
    sample_row,
    select_waiting,
    start_cycle,
    store,
    store_many,
)

CLASSES = ("dent", "scratch")
EVERYTHING = frozenset(["samples"])


def steady(count, *, crossings=(), cycles=(), every_s=10.0):
    """A sample each second, and a look every so often, until the last sample."""
    stored = [PastSample(second + 1, float(second), EVERYTHING) for second in range(count)]
    looks = [every_s * number for number in range(int(count / every_s) + 1)]
    return History(stored, crossings, cycles, looks)


def times(replayed):
    return [one.crossed_at for one in replayed]


def test_without_any_recorded_cycle_each_crossing_is_taken_as_answered_at_once():
    history = steady(100)

    replayed = replay(history, TriggerPolicy(30))

    # At second 30 there are the samples of seconds 0 to 30; the next thirty are complete at second 60.
    assert replayed == [
        ReplayedCrossing(30.0, "samples", 31, 30, None),
        ReplayedCrossing(60.0, "samples", 30, 30, None),
        ReplayedCrossing(90.0, "samples", 30, 30, None),
    ]
    assert cycle_delays(history) == CycleDelays(0.0, 0.0, 0)


def test_a_cool_down_moves_what_follows():
    assert times(replay(steady(100), TriggerPolicy(30, cooldown_s=45.0))) == [30.0, 80.0]


def test_a_cycle_that_never_ran_takes_as_long_as_recorded_ones_did():
    crossings = [PastCrossing("c-1", 50.0), PastCrossing("c-2", 200.0), PastCrossing("c-3", 300.0)]
    cycles = [
        PastCycle("c-1", 54.0, 55, 70.0),
        PastCycle("c-2", 206.0, 207, 240.0),
        PastCycle("c-3", None, 0, None),
    ]
    history = steady(101, crossings=crossings, cycles=cycles)

    replayed = replay(history, TriggerPolicy(30))

    assert cycle_delays(history) == CycleDelays(select_s=5.0, finish_s=30.0, cycles=2)
    # Crossed at 30, selected at 35, finished at 60; from second 36 on thirty are complete at 65.
    assert times(replayed) == [30.0, 70.0]
    assert [one.count for one in replayed] == [31, 35]


def test_a_crossing_of_the_recorded_moment_gets_the_recorded_cycle():
    crossings = [PastCrossing("c-1", 30.0)]
    history = steady(100, crossings=crossings, cycles=[PastCycle("c-1", 40.0, 39, 80.0)])

    replayed = replay(history, TriggerPolicy(30))

    assert [(one.crossed_at, one.recorded) for one in replayed] == [(30.0, "c-1"), (80.0, None)]
    # Those of seconds 39 to 80 waited: the cycle had claimed what was stored until second 38.
    assert replayed[1].count == 42


def test_a_recorded_crossing_that_nobody_answered_ends_the_replay_as_it_ended_the_past():
    history = steady(200, crossings=[PastCrossing("c-1", 30.0)])

    assert times(replay(history, TriggerPolicy(30))) == [30.0]


def test_cycles_started_by_hand_happen_whatever_the_policy():
    history = steady(100, cycles=[PastCycle("m-manual-1", 25.0, 26, 45.0)])

    assert times(replay(history, TriggerPolicy(30))) == [60.0, 90.0]
    assert times(replay(history, TriggerPolicy(30, cooldown_s=50.0))) == [100.0]


def test_what_lies_before_the_first_look_stays_as_it_was():
    crossings = [PastCrossing("c-1", 30.0)]
    cycles = [PastCycle("c-1", 35.0, 36, 65.0)]
    history = replace(steady(100, crossings=crossings, cycles=cycles), looks=[60.0, 64.0, 66.0, 95.0])

    assert times(replay(history, TriggerPolicy(5))) == [66.0]
    assert times(replay(history, TriggerPolicy(50))) == [95.0]


def test_samples_a_replayed_crossing_counted_stay_counted_when_its_cycle_was_abandoned():
    crossings = [PastCrossing("c-1", 30.0)]
    history = steady(100, crossings=crossings, cycles=[PastCycle("c-1", None, 0, 40.0)])

    # 15 of the 31 old ones count, so 15 new ones are wanted: those of seconds 31 to 45.
    assert times(replay(history, TriggerPolicy(30, rearm_fraction=0.5)))[:2] == [30.0, 50.0]
    assert times(replay(history, TriggerPolicy(30, rearm_fraction=1.0)))[:2] == [30.0, 40.0]


def test_without_looks_or_samples_nothing_crosses():
    assert replay(replace(steady(50), looks=[]), TriggerPolicy(1)) == []
    assert replay(History([], [], [], [1.0, 2.0]), TriggerPolicy(1)) == []


# Replayed under the policy that was in force, the past comes out as it was.

thresholds = st.integers(1, 6)
policies = st.builds(
    TriggerPolicy,
    threshold=thresholds,
    class_thresholds=st.dictionaries(st.sampled_from(CLASSES), thresholds),
    camera_thresholds=st.dictionaries(st.sampled_from(["east", "west"]), thresholds),
    rearm_fraction=st.sampled_from([0.0, 0.4, 1.0]),
    cooldown_s=st.sampled_from([0.0, 40.0]),
    min_interval_s=st.sampled_from([0.0, 90.0]),
    # The state of these tests begins on Thursday 1970-01-01 at 00:00.
    freeze=st.sampled_from([(), (), ("Thu 00:02 - Thu 00:04",), ("1970-01-01T00:01/1970-01-01T00:02",)]),
)
stored = st.tuples(
    st.just("store"), st.sampled_from(["east", "west"]), st.lists(st.integers(0, 1), max_size=2)
)
one_step = st.one_of(st.sampled_from([("watch",), ("go on",), ("abandon",), ("by hand",)]), stored)
# Steps in any order, and rounds in which a crossing is likely and answered.
rounds = st.lists(stored, min_size=2, max_size=4).map(
    lambda batch: [*batch, ("watch",), ("go on",), ("go on",), batch[0], ("go on",), ("watch",)]
)
some_steps = st.one_of(st.lists(one_step, max_size=6), rounds)
lives = st.lists(some_steps, min_size=2, max_size=8).flatmap(
    lambda parts: st.lists(
        st.integers(1, 20), min_size=sum(map(len, parts)), max_size=sum(map(len, parts))
    ).map(lambda gaps: list(zip(gaps, itertools.chain(*parts), strict=True)))
)
new_model = map("model-{}".format, itertools.count())


class Life:
    """A model's past, lived on a real state: samples, watchers and cycles in some order."""

    def __init__(self, state, policy):
        self.state, self.policy, self.model = state, policy, next(new_model)
        self.now, self.looks, self.crossings = 0.0, [], []
        self.stage, self.numbers = "answered", itertools.count()

    def live(self, gap, step):
        self.now += gap
        kind, *details = step
        getattr(self, kind.replace(" ", "_"))(*details)

    def store(self, camera, classes):
        row = sample_row(next(self.numbers), self.now, model=self.model, camera=camera, classes=classes)
        store(self.state, [row])

    def watch(self):
        self.looks.append(self.now)
        if (found := record_crossing(self.state, self.model, self.policy, self.now, CLASSES)) is not None:
            self.crossings.append(found)
            self.stage = "crossed"

    def go_on(self):
        if self.stage == "crossed":
            start_cycle(self.state, self.crossings[-1].id, model=self.model, at=self.now)
        elif self.stage == "started":
            select_waiting(self.state, self.crossings[-1].id, model=self.model, at=self.now)
        elif self.stage == "selected":
            finish_cycle(self.state, self.crossings[-1].id, at=self.now)
        order = ["crossed", "started", "selected", "answered", "answered"]
        self.stage = order[order.index(self.stage) + 1]

    def abandon(self):
        if self.stage in {"started", "selected"}:
            abandon_cycle(self.state, f"cycle-{self.crossings[-1].id}", now=self.now)
            self.stage = "answered"

    def by_hand(self):
        answer(self.state, f"{self.model}-manual-{self.now}", model=self.model, at=self.now)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(policy=policies, steps=lives, first=st.integers(0, 8))
def test_a_replay_under_the_policy_that_was_in_force_is_what_happened(state, policy, steps, first):
    life = Life(state, policy)
    for gap, step in steps:
        life.live(gap, step)
    life.live(1, ("watch",))
    looks = life.looks[first:]
    history = read_history(state, life.model, CLASSES, 0.0, life.now, every_s=300.0)

    replayed = replay(replace(history, looks=looks), policy)

    happened = [one for one in life.crossings if looks and one.crossed_at >= looks[0]]
    assert replayed == [
        ReplayedCrossing(one.crossed_at, one.scope, one.count, one.threshold, one.id) for one in happened
    ]


# Reading the past.


def test_looks_are_counted_from_the_start_and_again_from_each_recorded_crossing(state):
    store_many(state, 3, at=100.0)
    record_crossing(state, "m", 3, now=125.0)

    history = read_history(state, "m", (), since=None, until=150.0, every_s=10.0)

    assert history.looks == [100.0, 110.0, 120.0, 125.0, 135.0, 145.0, 150.0]
    assert history.crossings == [PastCrossing("m-samples-1", 125.0)]


def test_samples_come_in_the_order_of_storage_with_the_scopes_they_count_for(state):
    store(state, [sample_row(0, 9.0, classes=(1, 5)), sample_row(1, 3.0, camera="west")])
    store_many(state, 1, model="other")

    history = read_history(state, "m", CLASSES, None, 10.0, 5.0)

    assert history.samples == [
        PastSample(2, 3.0, frozenset({"samples", "camera west"})),
        PastSample(1, 9.0, frozenset({"samples", "camera east", "class scratch"})),
    ]


def test_samples_of_a_cycle_abandoned_before_its_version_wait_again_in_a_replay(state):
    policy = TriggerPolicy(10, rearm_fraction=0.5)
    store_many(state, 10, at=0.0)
    first = record_crossing(state, "m", policy, now=20.0)
    start_cycle(state, first.id, at=21.0)
    select_waiting(state, first.id, at=22.0)
    store_many(state, 4, first=10, at=30.0)
    # By hand, while the abandoned one still held its samples: it got only what came later.
    answer(state, "m-manual-1", at=40.0)
    abandon_cycle(state, f"cycle-{first.id}", now=50.0)
    store_many(state, 5, first=14, at=60.0)
    second = record_crossing(state, "m", policy, now=70.0)

    history = read_history(state, "m", (), 0.0, 80.0, every_s=100.0)

    assert (second.count, history.cycles[0]) == (
        15,
        PastCycle(first.id, 22.0, math.inf, 50.0, gave_back=True),
    )
    assert [(one.crossed_at, one.count) for one in replay(history, policy)] == [(20.0, 10), (70.0, 15)]


YEARS = 10 * 365 * 86_400.0


@pytest.mark.parametrize("wrong_by", [YEARS, -YEARS])
def test_samples_stored_by_a_wrong_clock_replay_when_the_crossings_say_they_were_there(state, wrong_by):
    policy = TriggerPolicy(10)
    store_many(state, 9, at=1000.0)
    store_many(state, 1, first=9, at=1010.0 + wrong_by)
    first = record_crossing(state, "m", policy, now=1100.0)
    answer(state, first.id, at=1200.0)
    store_many(state, 1, first=10, at=1300.0 + wrong_by)
    store_many(state, 9, first=11, at=1300.0)
    second = record_crossing(state, "m", policy, now=1400.0)

    history = read_history(state, "m", (), 1000.0, 1500.0, every_s=500.0)

    assert [(one.crossed_at, one.count, one.recorded) for one in replay(history, policy)] == [
        (1100.0, 10, first.id),
        (1400.0, 10, second.id),
    ]


def test_a_sample_of_a_clock_that_is_ahead_was_stored_before_the_cycle_selected_it_and_before_now(state):
    store_many(state, 1, at=YEARS)
    answer(state, "m-manual-1", at=50.0)
    store_many(state, 1, first=1, at=YEARS)

    history = read_history(state, "m", (), 0.0, 100.0, every_s=10.0)

    assert [one.stored_at for one in history.samples] == [50.0, 100.0]


def test_a_cycle_killed_before_it_said_what_it_selected_is_taken_to_have_selected_when_it_began(state):
    store_many(state, 3, at=10.0)
    start_cycle(state, "m-manual-1", at=20.0)
    select_waiting(state, "m-manual-1", at=25.0, said=False)

    history = read_history(state, "m", (), None, 30.0, 5.0)

    assert history.cycles == [PastCycle("m-manual-1", 20.0, 3, None)]


def test_a_cycle_that_claimed_nothing_selected_nothing(state):
    answer(state, "m-manual-1", at=20.0, status="nothing_to_do")

    assert read_history(state, "m", (), 0.0, 30.0, 5.0).cycles == [PastCycle("m-manual-1", None, 0, 20.0)]


def test_a_replay_cannot_start_in_the_future(state):
    with pytest.raises(BadInput, match="earlier start"):
        read_history(state, "m", (), since=20.0, until=10.0, every_s=5.0)


def test_the_last_crossings_come_newest_first_with_their_answers(state):
    store_many(state, 1)
    first = record_crossing(state, "m", 1, now=10.0)
    mark_emitted(state, first.id, now=11.0)
    answer(state, first.id, at=12.0, status="promoted")
    store_many(state, 1, first=1, at=20.0)
    second = record_crossing(state, "m", 1, now=21.0)

    newest, oldest = last_crossings(state, "m", limit=5)

    assert (newest.crossing, newest.status, newest.finished_at) == (second, None, None)
    assert (oldest.crossing.id, oldest.crossing.emitted_at) == (first.id, 11.0)
    assert (oldest.status, oldest.started_at, oldest.finished_at) == ("promoted", 12.0, 12.0)
    assert last_crossings(state, "m", limit=1) == [newest]
