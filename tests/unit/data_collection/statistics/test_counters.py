import json
import multiprocessing
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrain.data_collection.statistics import counters
from retrain.data_collection.statistics.counter_files import read_published
from retrain.data_collection.statistics.counters import BINS, SUFFIX, Counts, OutcomeCounters, total

CAMERAS, OUTCOMES = st.sampled_from(["east", "west"]), st.sampled_from(["taken", "rejected"])
OFFERS = st.lists(st.tuples(CAMERAS, OUTCOMES, st.none() | st.floats(0, 1)), max_size=30)


def counted(*offers):
    counting = OutcomeCounters()
    for offer in offers:
        counting.count(*offer)
    return counting


def bin_of(confidence):
    return counted(("east", "taken", confidence)).read().histogram.index(1)


@given(offers=OFFERS)
def test_every_frame_is_counted_once_by_camera_and_outcome_and_once_by_confidence(offers):
    found = counted(*offers).read()

    plain = [(camera, outcome) for camera, outcome, _ in offers]
    expected = {(camera, outcome): plain.count((camera, outcome)) for camera, outcome in plain}
    assert {(c, o): n for c, counts in found.outcomes.items() for o, n in counts.items()} == expected
    assert found.offered == sum(found.histogram) == len(offers)
    assert found.histogram[BINS] == [confidence for *_, confidence in offers].count(None)


@pytest.mark.parametrize(("confidence", "place"), [(0.0, 0), (1e-9, 0), (0.97, 19), (1.0, 19), (None, BINS)])
def test_the_ends_of_the_histogram_hold_no_confidence_and_full_confidence(confidence, place):
    assert bin_of(confidence) == place


@given(confidence=st.floats(0, 1))
def test_a_confidence_is_counted_in_a_bin_that_it_lies_in(confidence):
    place = bin_of(confidence)

    assert place / BINS - 1e-9 <= confidence <= (place + 1) / BINS + 1e-9


def test_frames_dropped_later_are_counted_beside_those_offered():
    counting = counted(("east", "taken", 0.5))

    counting.add("dropped: oldest", 3)
    counting.add("dropped: oldest", 2)

    assert counting.read().by_outcome() == {"taken": 1, "dropped: oldest": 5}


def test_no_frame_is_lost_when_notes_are_summed_up_on_the_way(monkeypatch):
    monkeypatch.setattr(counters, "_NOTES", 10)
    counting = OutcomeCounters()

    for number in range(1005):
        counting.count("east", "taken", number / 1005)

    assert counting.read().offered == 1005


def test_threads_count_together_while_others_read(monkeypatch):
    monkeypatch.setattr(counters, "_NOTES", 50)
    counting, frames = OutcomeCounters(), 3000
    read = []

    def count(camera):
        for number in range(frames):
            counting.count(camera, "taken", number / frames)
            if number % 500 == 0:
                read.append(counting.read().offered)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(count, "abcd"))

    found = counting.read()
    assert {camera: counts["taken"] for camera, counts in found.outcomes.items()} == dict.fromkeys(
        "abcd", frames
    )
    assert sum(found.histogram) == 4 * frames
    assert max(read) <= 4 * frames


def test_beyond_the_bound_frames_are_counted_without_their_camera(monkeypatch):
    monkeypatch.setattr(counters, "_KEYS", 5)
    counting = OutcomeCounters()

    for number in range(1000):
        counting.count(f"camera {number % 100}", "taken", 0.5)

    found = counting.read()
    assert found.offered == 1000
    assert list(found.outcomes) == [*(f"camera {number}" for number in range(5)), "(others)"]
    assert found.outcomes["camera 0"] == {"taken": 10}


def publish_counts(counting, folder, frames):
    for _ in range(frames):
        counting.count("east", "taken", 0.5)
    counting.publish(folder)


def forked(work, *arguments):
    child = multiprocessing.get_context("fork").Process(target=work, args=arguments, daemon=True)
    child.start()
    child.join(30)
    return child.exitcode


def published(folder):
    return read_published(folder, time.time()).counts


def test_a_forked_child_counts_from_nothing_and_publishes_beside_its_parent(tmp_path):
    counting = counted(("east", "taken", 0.5), ("east", "rejected"))
    counting.publish(tmp_path)

    assert forked(publish_counts, counting, tmp_path, 3) == 0
    publish_counts(counting, tmp_path, 2)

    assert published(tmp_path).by_outcome() == {"taken": 6, "rejected": 1}
    assert counting.read().offered == 4


def test_a_child_forked_while_a_thread_counts_can_count(tmp_path):
    counting = OutcomeCounters()
    # What a fork in the middle of summing up copies: a lock that nobody in the child would open.
    with counting._lock:
        assert forked(publish_counts, counting, tmp_path, 2) == 0

    assert published(tmp_path).offered == 2


def test_the_sum_over_processes_counts_each_of_them_once_however_often_it_published(tmp_path):
    one, other = counted(("east", "taken", 0.5)), counted(("east", "taken", 1.0), ("west", "rejected"))
    for counting in (one, other, one):
        counting.publish(tmp_path)

    found = published(tmp_path)

    assert found.outcomes == {"east": {"taken": 2}, "west": {"rejected": 1}}
    assert found.histogram == [
        a + b for a, b in zip(one.read().histogram, other.read().histogram, strict=True)
    ]
    assert found.since == one.read().since
    assert len(list(tmp_path.glob("*" + SUFFIX))) == 2


def test_threads_that_publish_at_once_leave_one_whole_file(tmp_path):
    counting = counted(("east", "taken", 0.5))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: counting.publish(tmp_path), range(200)))

    [file] = tmp_path.iterdir()
    assert json.loads(file.read_bytes())["outcomes"] == {"east": {"taken": 1}}


def test_a_file_that_vanishes_while_all_are_read_is_passed_over(tmp_path):
    counted(("east", "taken")).publish(tmp_path)
    (tmp_path / f"gone{SUFFIX}").symlink_to("nowhere")

    assert published(tmp_path).offered == 1


def test_a_half_written_file_is_not_read(tmp_path):
    counting = counted(("east", "taken"))
    counting.publish(tmp_path)
    before = next(tmp_path.iterdir()).read_bytes()
    (tmp_path / ".1-half.partial").write_bytes(before[:10])

    assert published(tmp_path).offered == 1


@given(parts=st.lists(OFFERS, max_size=4))
def test_the_sum_of_counts_is_the_count_of_all(parts):
    together = total(counted(*offers).read() for offers in parts)

    at_once = counted(*(offer for offers in parts for offer in offers)).read()
    assert (together.outcomes, together.histogram) == (at_once.outcomes, at_once.histogram)


def test_the_sum_began_with_the_first_and_was_read_with_the_last():
    parts = [Counts(since, at, {}, [0] * (BINS + 1)) for since, at in ((5.0, 8.0), (3.0, 9.0), (4.0, 6.0))]

    assert (total(parts).since, total(parts).at) == (3.0, 9.0)
