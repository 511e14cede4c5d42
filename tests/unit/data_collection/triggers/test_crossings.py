import itertools
import multiprocessing
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import insert, update

from retrain.data_collection.triggers import crossings as crossings_module
from retrain.data_collection.triggers.crossings import (
    cycle_samples,
    decide,
    find_crossing,
    mark_emitted,
    record_crossing,
    select_samples,
    unhandled,
    waiting_count,
)
from retrain.data_collection.triggers.policy import TriggerPolicy
from retrain.errors import BadInput, ConfigError, LeaseLost, NotFound
from retrain.storage.schema import cycles
from retrain.storage.state import open_state
from tests.unit.data_collection.stored_rows import answer, sample_row, store, store_many, waiting_ids

fork = multiprocessing.get_context("fork")


@pytest.fixture
def fill(state):
    """Stores that many more samples, each a second later than the one before."""
    numbers = itertools.count()

    def add(count, model="m"):
        rows = [sample_row(number, 50.0 + number, model=model) for number in itertools.islice(numbers, count)]
        store(state, rows)

    return add


def run_cycle(state, trigger, finished_at=None):
    with state.write() as connection:
        connection.execute(
            insert(cycles).values(
                id=f"m-{trigger}",
                model="m",
                trigger_id=trigger,
                config_hash="c",
                status="running",
                attempts=1,
                created_at=0.0,
                finished_at=finished_at,
            )
        )


def test_nothing_crosses_below_the_threshold(state, fill):
    fill(2)

    assert record_crossing(state, "m", 3, now=1.0) is None
    fill(1)
    assert record_crossing(state, "m", 3, now=2.0).count == 3


def test_a_crossing_is_recorded_once(state, fill):
    fill(3)

    first = record_crossing(state, "m", 3, now=1.0)

    assert (first.id, first.number, first.count, first.emitted_at) == ("m-samples-1", 1, 3, None)
    assert record_crossing(state, "m", 3, now=2.0) is None
    assert unhandled(state, "m", older_than=10.0) == [first]


def test_a_running_cycle_holds_the_next_crossing_back_and_a_finished_one_does_not(state, fill):
    fill(3)
    first = record_crossing(state, "m", 3, now=1.0)
    run_cycle(state, first.id)
    select_samples(state, "m", f"m-{first.id}", limit=3)
    fill(3)
    assert record_crossing(state, "m", 3, now=2.0) is None

    with state.write() as connection:
        connection.execute(update(cycles).values(finished_at=3.0))

    assert unhandled(state, "m", older_than=10.0) == []
    assert record_crossing(state, "m", 3, now=4.0).id == "m-samples-2"


def test_samples_used_by_a_cycle_do_not_count_again(state, fill):
    fill(3)
    first = record_crossing(state, "m", 3, now=1.0)
    run_cycle(state, first.id, finished_at=2.0)
    select_samples(state, "m", f"m-{first.id}", limit=3)

    assert waiting_count(state, "m") == 0
    assert record_crossing(state, "m", 3, now=3.0) is None


def test_models_cross_on_their_own(state, fill):
    fill(2, model="m")
    fill(3, model="other")

    assert record_crossing(state, "m", 3, now=1.0) is None
    assert record_crossing(state, "other", 3, now=1.0).id == "other-samples-1"


def test_a_lost_event_is_found_by_age_and_stays_unhandled_until_its_cycle_ends(state, fill):
    fill(1)
    crossing = record_crossing(state, "m", 1, now=100.0)
    mark_emitted(state, crossing.id, now=101.0)

    assert unhandled(state, "m", older_than=99.0) == []
    [found] = unhandled(state, "m", older_than=100.0)
    assert (found.id, found.emitted_at) == (crossing.id, 101.0)
    run_cycle(state, crossing.id)
    assert len(unhandled(state, "m", older_than=100.0)) == 1


def test_an_unknown_crossing_cannot_be_marked(state):
    with pytest.raises(NotFound, match="m-samples-9"):
        mark_emitted(state, "m-samples-9", now=1.0)


def test_zero_is_not_a_threshold_nor_a_limit(state):
    with pytest.raises(ConfigError, match="at least 1"):
        record_crossing(state, "m", 0, now=1.0)
    with pytest.raises(BadInput, match="at least 1"):
        select_samples(state, "m", "c", limit=0)


def together(*targets):
    """Runs each target in its own process and returns what they give back.

    A target calls its one argument to wait until all the others have come as far.
    """
    meet, results = fork.Barrier(len(targets)), fork.SimpleQueue()

    def run(target):
        results.put(target(lambda: meet.wait(20)))

    children = [fork.Process(target=run, args=(target,)) for target in targets]
    for child in children:
        child.start()
    answers = [results.get() for _ in children]
    for child in children:
        child.join()
    return answers


def test_a_crossing_says_whose_threshold_was_reached(state):
    store_many(state, 4, camera="east", classes=(1,))
    policy = TriggerPolicy(9, class_thresholds={"scratch": 4}, camera_thresholds={"east": 2})

    crossing = record_crossing(state, "m", policy, 5.0, ("dent", "scratch"))

    assert (crossing.scope, crossing.count, crossing.threshold) == ("class scratch", 4, 4)
    assert find_crossing(state, "m", crossing.id) == crossing


def test_deciding_writes_nothing_and_says_what_recording_would_do(state):
    store_many(state, 2)

    before = [decide(state, "m", TriggerPolicy(threshold), 5.0) for threshold in (2, 3)]

    assert [one.fires for one in before] == [True, False]
    assert record_crossing(state, "m", 3, 5.0) is None
    assert record_crossing(state, "m", 2, 5.0).count == 2
    assert decide(state, "m", TriggerPolicy(2), 5.0).reasons == (
        "the cycle that answers m-samples-1 has not finished",
    )


def test_a_policy_that_waits_records_nothing_until_the_wait_is_over(state):
    store_many(state, 2)
    answer(state, "m-manual-1", at=10.0)
    store_many(state, 2, first=2, at=11.0)
    policy = TriggerPolicy(2, cooldown_s=60.0)

    assert record_crossing(state, "m", policy, 69.9) is None
    assert record_crossing(state, "m", policy, 70.0).crossed_at == 70.0


new_model = map("model-{}".format, itertools.count())


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=st.lists(st.integers(0, 6), min_size=1, max_size=4), threshold=st.integers(1, 4))
def test_eight_threads_record_one_crossing_for_each_time_the_threshold_is_reached(state, batches, threshold):
    model, policy, meet = next(new_model), TriggerPolicy(threshold), Barrier(8)

    def watch(now):
        meet.wait(20)
        return [found for _ in range(2) if (found := record_crossing(state, model, policy, now))]

    waiting, stored = 0, 0
    with ThreadPoolExecutor(8) as watchers:
        for turn, batch in enumerate(batches):
            if batch:
                store_many(state, batch, first=stored, at=100.0 * turn, model=model)
            waiting, stored = waiting + batch, stored + batch
            found = [one for each in watchers.map(watch, [100.0 * turn + 50] * 8) for one in each]

            assert [one.count for one in found] == ([waiting] if waiting >= threshold else [])
            if found:
                answer(state, found[0].id, model=model, at=100.0 * turn + 60)
                waiting = 0


def test_watchers_in_four_processes_record_one_crossing_although_they_restart_before_each_look(
    state, state_url, fill
):
    models = [f"m{number}" for number in range(12)]
    for model in models:
        fill(2, model=model)
    state.close()

    def watch(meet):
        found = []
        for model in models:
            meet()
            for step in range(3):
                mine = open_state(state_url)
                found += [one.id for one in [record_crossing(mine, model, 2, step)] if one]
                mine.close()
        return found

    answers = together(watch, watch, watch, watch)

    assert sorted(one for found in answers for one in found) == sorted(
        f"{model}-samples-1" for model in models
    )
    assert all(len(unhandled(state, model, older_than=100.0)) == 1 for model in models)


def test_a_watcher_killed_while_it_records_leaves_nothing_and_the_next_one_records(state, state_url):
    store_many(state, 3)
    state.close()

    def killed_before_its_insert():
        def die(*_):
            os.kill(os.getpid(), signal.SIGKILL)

        crossings_module._insert = die
        record_crossing(open_state(state_url), "m", 3, 5.0)

    child = fork.Process(target=killed_before_its_insert)
    child.start()
    child.join()

    assert child.exitcode == -signal.SIGKILL
    assert unhandled(state, "m", older_than=100.0) == []
    assert record_crossing(state, "m", 3, 6.0).number == 1


def test_cycles_in_several_processes_share_no_sample_and_repeat_their_own(state, state_url, fill):
    fill(30)
    state.close()
    rounds = range(4)

    def claim(cycle):
        def work(meet):
            mine, sets = open_state(state_url), {}
            for number in rounds:
                meet()
                name = f"{cycle}-{number}"
                sets[name] = {tuple(select_samples(mine, "m", name, limit=3)) for _ in range(2)}
            mine.close()
            return sets

        return work

    answers = together(claim("one"), claim("two"), claim("one"))

    chosen = {}
    for sets in answers:
        for name, found in sets.items():
            chosen.setdefault(name, set()).update(found)
    assert len(chosen) == 8
    assert all(len(found) == 1 for found in chosen.values()), "a cycle always gets the same samples"
    ids = [one for found in chosen.values() for one in next(iter(found))]
    assert len(ids) == len(set(ids)) == 24
    assert waiting_count(state, "m") == 6


def test_a_selection_takes_the_oldest_and_later_samples_do_not_join_it(state, fill):
    fill(5)

    first = select_samples(state, "m", "c", limit=3)
    fill(2)

    assert select_samples(state, "m", "c", limit=50) == first
    assert [sample.id for sample in cycle_samples(state, "c")] == first
    assert waiting_count(state, "m") == 4
    assert set(select_samples(state, "m", "d", limit=50)).isdisjoint(first)


def test_a_selection_leaves_what_another_model_has_of_the_same_images(state):
    store(state, [{**sample_row(1, 1.0, model=model), "id": "same"} for model in ("m", "other")])

    assert select_samples(state, "m", "c", limit=3) == ["same"]

    assert waiting_ids(state, "other") == {"same"}


def test_a_selection_killed_before_its_commit_claims_nothing(state, state_url, fill):
    fill(4)
    state.close()

    def die(connection):
        os.kill(os.getpid(), signal.SIGKILL)

    def killed_before():
        select_samples(open_state(state_url), "m", "c", limit=3, guard=die)

    child = fork.Process(target=killed_before)
    child.start()
    child.join()

    assert child.exitcode == -signal.SIGKILL
    assert waiting_count(state, "m") == 4
    assert len(select_samples(state, "m", "c", limit=3)) == 3


def test_a_cycle_that_lost_its_lease_claims_nothing(state, fill):
    fill(2)

    def lost(connection):
        raise LeaseLost("token 1 is no longer the newest")

    with pytest.raises(LeaseLost):
        select_samples(state, "m", "c", limit=2, guard=lost)
    assert waiting_count(state, "m") == 2
