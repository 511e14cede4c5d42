import pytest
from sqlalchemy import delete

from retrain.cycle import abandon_cycle
from retrain.data_collection.triggers.crossings import decide, record_crossing
from retrain.data_collection.triggers.facts import read_facts
from retrain.data_collection.triggers.policy import TriggerFacts, TriggerPolicy, Waiting
from retrain.errors import ConfigError
from retrain.storage.schema import samples
from tests.unit.data_collection.stored_rows import (
    answer,
    finish_cycle,
    sample_row,
    select_waiting,
    start_cycle,
    store,
    store_many,
)

CLASSES = ("dent", "scratch", "rust")


def facts(state, policy=None, model="m"):
    with state.read() as connection:
        return read_facts(connection, model, policy or TriggerPolicy(1), CLASSES)


def test_an_empty_state_has_no_facts(state):
    assert facts(state) == TriggerFacts({"samples": Waiting()})


def test_samples_are_counted_in_all_and_for_each_camera_of_the_model(state):
    store_many(state, 3, camera="east")
    store_many(state, 2, first=3, camera="west")
    store_many(state, 4, model="other")

    assert facts(state).waiting == {
        "samples": Waiting(new=5),
        "camera east": Waiting(new=3),
        "camera west": Waiting(new=2),
    }


def test_a_sample_counts_once_for_each_class_it_shows(state):
    rows = [
        sample_row(0, 0.0, classes=(0, 0, 1)),
        sample_row(1, 1.0, classes=(1,)),
        sample_row(2, 2.0, classes=()),
        sample_row(3, 3.0, classes=(7,)),
    ]
    store(state, rows)
    policy = TriggerPolicy(9, class_thresholds={"dent": 9, "scratch": 9, "rust": 9})

    waiting = facts(state, policy).waiting

    assert [waiting[f"class {name}"].new for name in CLASSES] == [1, 2, 0]


def test_a_box_that_is_shown_to_nobody_makes_no_sample_of_its_class(state):
    store(state, [sample_row(0, 0.0, classes=(0, 1), scores=(0.25, 0.249))])
    policy = TriggerPolicy(9, class_thresholds={"dent": 9, "scratch": 9})

    waiting = facts(state, policy).waiting

    assert (waiting["class dent"], waiting["class scratch"]) == (Waiting(new=1), Waiting())


def test_what_the_last_crossing_counted_is_told_from_what_came_since_in_every_scope(state):
    policy = TriggerPolicy(2, class_thresholds={"dent": 9})
    store_many(state, 2, camera="east", classes=(0,))
    record_crossing(state, "m", policy, now=50.0, classes=CLASSES)
    store_many(state, 3, first=2, at=60.0, camera="west", classes=(0,))

    assert facts(state, policy).waiting == {
        "samples": Waiting(counted=2, new=3),
        "camera east": Waiting(counted=2),
        "camera west": Waiting(new=3),
        "class dent": Waiting(counted=2, new=3),
    }


def test_the_clock_of_the_watcher_need_not_be_that_of_the_collectors(state):
    store_many(state, 2, at=5_000.0)
    record_crossing(state, "m", 2, now=50.0)
    store_many(state, 1, first=2, at=5_002.0)

    assert facts(state).waiting["samples"] == Waiting(counted=2, new=1)


def test_times_and_the_unanswered_crossing_are_those_of_the_model(state):
    store_many(state, 1)
    store_many(state, 1, model="other")
    first = record_crossing(state, "m", 1, now=10.0)
    record_crossing(state, "other", 1, now=11.0)
    start_cycle(state, first.id, at=12.0)
    running = facts(state)
    finish_cycle(state, first.id, at=30.0)
    answer(state, "other-first", model="other", at=99.0)

    finished = facts(state)

    assert (running.unanswered, running.last_crossing_at, running.last_cycle_finished_at) == (
        first.id,
        10.0,
        None,
    )
    assert (finished.unanswered, finished.last_crossing_at, finished.last_cycle_finished_at) == (
        None,
        10.0,
        30.0,
    )


def test_what_was_counted_is_told_from_what_is_new_whatever_the_clocks_say(state):
    store_many(state, 1, at=10.0, classes=(0,))
    store_many(state, 1, first=1, at=1e12, classes=(0,))
    record_crossing(state, "m", 2, now=20.0)
    store_many(state, 3, first=2, at=5.0, classes=(0,))

    waiting = facts(state, TriggerPolicy(9, class_thresholds={"dent": 9})).waiting

    assert waiting["samples"] == waiting["camera east"] == waiting["class dent"] == Waiting(counted=2, new=3)


def test_a_cycle_started_by_hand_starts_the_cool_down_too(state):
    answer(state, "m-manual-1", at=40.0)
    store_many(state, 1)

    decision = decide(state, "m", TriggerPolicy(1, cooldown_s=60.0), 50.0)

    assert (decision.fires, decision.would_fire_at) == (False, 100.0)


def test_a_class_threshold_for_an_unknown_class_is_refused(state):
    with pytest.raises(ConfigError, match=r"'dints'\. Did you mean 'dent'"):
        facts(state, TriggerPolicy(1, class_thresholds={"dints": 3}))


# Hysteresis: what became of the cycle that answered decides what the same samples still count.


def abandoned_after_ten(state, policy):
    """Ten samples crossed, and the cycle that had selected them was abandoned before its dataset version."""
    store_many(state, 10)
    crossing = record_crossing(state, "m", policy, now=20.0)
    start_cycle(state, crossing.id)
    select_waiting(state, crossing.id)
    abandon_cycle(state, f"cycle-{crossing.id}", now=30.0)
    return crossing


def test_after_a_cycle_that_selected_only_new_samples_count_and_all_of_them(state):
    policy = TriggerPolicy(10, rearm_fraction=0.5)
    store_many(state, 10)
    crossing = record_crossing(state, "m", policy, now=20.0)
    answer(state, crossing.id, at=30.0)

    store_many(state, 9, first=10, at=40.0)
    below = record_crossing(state, "m", policy, now=50.0)
    store_many(state, 1, first=19, at=60.0)

    assert below is None
    assert record_crossing(state, "m", policy, now=70.0).count == 10


def test_samples_of_an_abandoned_cycle_do_not_fire_again_until_enough_new_ones_came(state):
    policy = TriggerPolicy(10, rearm_fraction=0.6)
    abandoned_after_ten(state, policy)

    looks = []
    for number in range(10, 15):
        looks.append(record_crossing(state, "m", policy, now=40.0 + number))
        store_many(state, 1, first=number, at=40.0 + number)

    # 6 of the old ones count, so the fourth new one makes ten.
    assert looks[:4] == [None] * 4
    assert looks[4].count == 14


def test_samples_of_an_abandoned_cycle_count_again_once_they_fell_to_the_re_arm_level(state):
    policy = TriggerPolicy(10, rearm_fraction=0.6)
    abandoned_after_ten(state, policy)
    with state.write() as connection:
        connection.execute(delete(samples).where(samples.c.stored_at < 4))
    store_many(state, 3, first=10, at=40.0)

    before = record_crossing(state, "m", policy, now=50.0)
    store_many(state, 1, first=13, at=55.0)

    assert before is None
    assert record_crossing(state, "m", policy, now=60.0).count == 10


def test_a_cycle_that_was_cancelled_while_it_ran_stays_unanswered_whatever_arrives(state):
    policy = TriggerPolicy(10, rearm_fraction=0.5)
    store_many(state, 10)
    crossing = record_crossing(state, "m", policy, now=20.0)
    start_cycle(state, crossing.id, at=21.0)
    store_many(state, 100, first=10, at=30.0)

    assert record_crossing(state, "m", policy, now=200.0) is None


def test_a_cycle_abandoned_after_its_dataset_version_leaves_nothing_to_hold_back(state):
    policy = TriggerPolicy(10, rearm_fraction=0.0)
    store_many(state, 10)
    crossing = record_crossing(state, "m", policy, now=20.0)
    start_cycle(state, crossing.id)
    select_waiting(state, crossing.id)
    finish_cycle(state, crossing.id, status="abandoned", at=30.0)
    store_many(state, 10, first=10, at=40.0)

    assert record_crossing(state, "m", policy, now=60.0).count == 10
