"""What triggers promise on SQLite and on a real Postgres: the same counts, one crossing, the same past."""

import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from sqlalchemy import delete, insert, select

from retrain.data_collection.triggers.crossings import record_crossing, unhandled
from retrain.data_collection.triggers.facts import read_facts
from retrain.data_collection.triggers.history import last_crossings, read_history
from retrain.data_collection.triggers.policy import TriggerPolicy, Waiting
from retrain.data_collection.triggers.replay import PastCycle, PastSample, ReplayedCrossing, replay
from retrain.storage.schema import likenesses, samples
from retrain.storage.state import open_state
from tests.unit.data_collection.stored_rows import answer, sample_row, store, store_many

CLASSES = ("dent", "scratch")
fork = multiprocessing.get_context("fork")


def test_samples_are_counted_in_all_for_each_camera_and_for_each_class_they_show(state):
    policy = TriggerPolicy(2, class_thresholds={"dent": 9, "scratch": 9})
    old = [
        sample_row(0, 0.0, classes=(0, 0, 1)),
        sample_row(1, 1.0, camera="west", classes=(0,), scores=(0.1,)),
    ]
    store(state, old)
    record_crossing(state, "m", policy, 5.0, CLASSES)
    store(state, [sample_row(2, 6.0, classes=(1,))])

    with state.read() as connection:
        facts = read_facts(connection, "m", policy, CLASSES)

    assert facts.waiting == {
        "samples": Waiting(counted=2, new=1),
        "camera east": Waiting(counted=1, new=1),
        "camera west": Waiting(counted=1),
        "class dent": Waiting(counted=1),
        "class scratch": Waiting(counted=1, new=1),
    }
    assert (facts.unanswered, facts.last_crossing_at) == ("m-samples-1", 5.0)


def test_a_sample_stored_by_a_clock_that_is_ahead_holds_no_later_crossing_back(state):
    store_many(state, 2, at=0.0)
    store_many(state, 1, first=2, at=1e9)
    first = record_crossing(state, "m", 3, 10.0)
    answer(state, first.id, at=20.0)
    store_many(state, 3, first=3, at=30.0)

    second = record_crossing(state, "m", 3, 40.0)

    assert (first.counted_until, second.count, second.counted_until) == (3, 3, 6)


def test_the_number_of_a_deleted_sample_is_never_given_again(state):
    store_many(state, 2)
    with state.write() as connection:
        connection.execute(delete(samples).where(samples.c.id == "m-1"))
    store_many(state, 1, first=2)

    with state.read() as connection:
        numbers = connection.execute(select(samples.c.seq).order_by(samples.c.seq)).scalars().all()
    assert numbers == [1, 3]


def test_the_number_of_a_deleted_likeness_is_never_given_again(state):
    def add(sample):
        row = {"sample_id": sample, "model": "m", "camera": "c", "picture": b"p"}
        with state.write() as connection:
            connection.execute(insert(likenesses).values(row))

    add("a")
    add("b")
    with state.write() as connection:
        connection.execute(delete(likenesses).where(likenesses.c.sample_id == "b"))
    add("c")

    with state.read() as connection:
        numbers = connection.execute(select(likenesses.c.seq).order_by(likenesses.c.seq)).scalars().all()
    assert numbers == [1, 3]


def test_watchers_in_threads_record_one_crossing_for_each_answer(state):
    meet = Barrier(6)

    def watch(turn):
        meet.wait(20)
        return record_crossing(state, "m", TriggerPolicy(3), 100.0 * turn + 50)

    with ThreadPoolExecutor(6) as watchers:
        for turn in range(5):
            store_many(state, 3, first=3 * turn, at=100.0 * turn)
            found = [one for one in watchers.map(watch, [turn] * 6) if one]

            assert [one.number for one in found] == [turn + 1]
            answer(state, found[0].id, at=100.0 * turn + 60)


def test_watchers_in_processes_record_one_crossing(state, state_url):
    models = [f"m{number}" for number in range(6)]
    for model in models:
        store_many(state, 2, model=model)
    state.close()
    meet, found = fork.Barrier(4), fork.SimpleQueue()

    def watch():
        mine = open_state(state_url)
        for model in models:
            meet.wait(20)
            found.put(record_crossing(mine, model, 2, 50.0))
        mine.close()

    watchers = [fork.Process(target=watch) for _ in range(4)]
    for watcher in watchers:
        watcher.start()
    crossings = [found.get() for _ in range(4 * len(models))]
    for watcher in watchers:
        watcher.join()

    assert sorted(one.id for one in crossings if one) == [f"{model}-samples-1" for model in models]
    assert all(len(unhandled(state, model, older_than=100.0)) == 1 for model in models)


def test_the_past_is_read_back_and_replays_as_it_was(state):
    policy = TriggerPolicy(9, class_thresholds={"dent": 2})
    store_many(state, 2, at=0.0, classes=(0,))
    first = record_crossing(state, "m", policy, 10.0, CLASSES)
    answer(state, first.id, at=20.0, status="promoted")
    store_many(state, 1, first=2, at=25.0)

    history = read_history(state, "m", CLASSES, None, 30.0, every_s=10.0)

    dented = frozenset({"samples", "camera east", "class dent"})
    assert history.samples[:2] == [PastSample(1, 0.0, dented), PastSample(2, 1.0, dented)]
    assert history.cycles == [PastCycle(first.id, 20.0, 2, 20.0)]
    assert replay(history, policy) == [ReplayedCrossing(10.0, "class dent", 2, 2, first.id)]
    [answered] = last_crossings(state, "m", limit=5)
    assert (answered.crossing, answered.status, answered.finished_at) == (first, "promoted", 20.0)
