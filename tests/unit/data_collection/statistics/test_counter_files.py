import fcntl
import multiprocessing
import os
import signal
from unittest import mock

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrain.data_collection.statistics import counter_files
from retrain.data_collection.statistics.counter_files import FOLDED, fold, read_published
from retrain.data_collection.statistics.counters import BINS, SUFFIX, Counts, OutcomeCounters
from retrain.errors import BadInput

NOW = 1_000_000.0
HOUR = 3600.0
DAY = 24 * HOUR
NO_PROCESS = 2**22 + 1
"""Above the highest process id of Linux."""


def publish(folder, name, frames, at, since=0.0, camera="a"):
    counts = Counts(since, at, {camera: {"taken": frames}}, [frames, *[0] * BINS])
    (folder / (name + SUFFIX)).write_bytes(msgspec.json.encode(counts))


def offered(folder, now=NOW):
    counts = read_published(folder, now).counts
    return 0 if counts is None else counts.offered


def lives(folder, now=NOW):
    return {producer.name: producer.life for producer in read_published(folder, now).producers}


def test_where_nobody_published_nothing_is_known(tmp_path):
    published = read_published(tmp_path / "nowhere", NOW)

    assert published == counter_files.Published(None, (), ())


def test_the_sum_is_over_all_processes_with_the_last_heard_of_first(tmp_path):
    publish(tmp_path, f"{NO_PROCESS}-a", 3, NOW - 50)
    publish(tmp_path, f"{NO_PROCESS}-b", 4, NOW - 20, camera="b")

    published = read_published(tmp_path, NOW)

    assert published.counts.outcomes == {"a": {"taken": 3}, "b": {"taken": 4}}
    assert published.counts.at == NOW - 20
    assert [producer.name[-1] for producer in published.producers] == ["b", "a"]


def test_what_counters_publish_is_read(tmp_path):
    counters = OutcomeCounters()
    counters.count("a", "taken", 0.5)

    counters.publish(tmp_path)

    assert offered(tmp_path) == 1
    assert list(lives(tmp_path, read_published(tmp_path, 0).counts.at).values()) == ["live"]


def test_a_damaged_file_is_named_and_hides_no_other(tmp_path):
    publish(tmp_path, f"{NO_PROCESS}-a", 3, NOW)
    (tmp_path / f"torn{SUFFIX}").write_bytes(b"")

    published = read_published(tmp_path, NOW)

    assert published.counts.offered == 3
    assert published.damaged == (f"torn{SUFFIX}",)


def test_a_silent_process_is_stale_while_it_exists_and_ended_when_it_is_gone(tmp_path):
    now = NOW * 10_000
    publish(tmp_path, f"{os.getpid()}-fresh", 1, now - 5, since=now)
    publish(tmp_path, f"{os.getpid()}-silent", 1, now - 50, since=now)
    publish(tmp_path, f"{NO_PROCESS}-gone", 1, now - 50, since=now)
    # Its number belongs to a process that began after it.
    publish(tmp_path, f"{os.getpid()}-reused", 1, now - 50, since=1.0)

    assert {name.split("-")[1]: life for name, life in lives(tmp_path, now).items()} == {
        "fresh": "live",
        "silent": "stale",
        "gone": "ended",
        "reused": "ended",
    }


def test_folding_removes_the_files_of_those_gone_and_changes_no_sum(tmp_path):
    for number in range(20):
        publish(tmp_path, f"{NO_PROCESS}-{number}", number, NOW - 2 * HOUR, camera=f"c{number % 3}")
    before = read_published(tmp_path, NOW).counts

    folded = fold(tmp_path, NOW)

    assert folded == 20
    assert [path.name for path in tmp_path.glob("*" + SUFFIX)] == [FOLDED]
    assert read_published(tmp_path, NOW).counts == before


def test_who_lives_is_only_silent_or_ended_just_now_keeps_a_file(tmp_path):
    now = NOW * 10_000
    publish(tmp_path, f"{NO_PROCESS}-live", 1, now - 1)
    publish(tmp_path, f"{os.getpid()}-stale", 1, now - 2 * HOUR, since=now)
    publish(tmp_path, f"{NO_PROCESS}-just", 1, now - HOUR / 2)

    assert fold(tmp_path, now) == 0
    assert len(lives(tmp_path, now)) == 3


def fold_and_be_killed(folder):
    def kill(*_, **__):
        os.kill(os.getpid(), signal.SIGKILL)

    with mock.patch.object(counter_files.Path, "unlink", kill):
        fold(folder, NOW)


def test_killed_between_the_folded_file_and_the_deletions_no_sum_changes(tmp_path):
    for number in range(5):
        publish(tmp_path, f"{NO_PROCESS}-{number}", 10 + number, NOW - 2 * HOUR)
    child = multiprocessing.get_context("fork").Process(target=fold_and_be_killed, args=(tmp_path,))

    child.start()
    child.join()

    assert child.exitcode == -signal.SIGKILL
    assert len(list(tmp_path.glob("*" + SUFFIX))) == 6
    assert offered(tmp_path) == 60
    fold(tmp_path, NOW)
    assert [path.name for path in tmp_path.glob("*" + SUFFIX)] == [FOLDED]
    assert offered(tmp_path) == 60


def test_a_process_taken_for_gone_that_publishes_again_counts_once(tmp_path):
    publish(tmp_path, f"{NO_PROCESS}-asleep", 10, NOW - 2 * HOUR)
    publish(tmp_path, f"{NO_PROCESS}-gone", 5, NOW - 2 * HOUR)
    fold(tmp_path, NOW)

    publish(tmp_path, f"{NO_PROCESS}-asleep", 12, NOW)

    assert offered(tmp_path) == 17
    fold(tmp_path, NOW + 2 * HOUR)
    assert offered(tmp_path, NOW + 2 * HOUR) == 17


def test_those_gone_for_a_day_are_not_remembered_one_by_one(tmp_path):
    publish(tmp_path, f"{NO_PROCESS}-old", 10, NOW)
    fold(tmp_path, NOW + 2 * HOUR)
    publish(tmp_path, f"{NO_PROCESS}-new", 5, NOW + 2 * DAY)

    fold(tmp_path, NOW + 2 * DAY + 2 * HOUR)

    assert b"-old" not in (tmp_path / FOLDED).read_bytes()
    assert b"-new" in (tmp_path / FOLDED).read_bytes()
    assert offered(tmp_path) == 15


@settings(max_examples=100, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.integers(0, 2), st.integers(1, 9), st.sampled_from(["publish", "fold", "killed fold"])),
        max_size=15,
    )
)
def test_the_sum_is_that_of_the_last_published_counts_whatever_happened(tmp_path_factory, steps):
    folder, now, said = tmp_path_factory.mktemp("spool"), NOW, {}
    for number, frames, what in steps:
        now += 1.5 * HOUR  # longer than the silence that says a process is gone, and all within a day
        if what == "publish":
            said[number] = said.get(number, 0) + frames
            publish(folder, f"{NO_PROCESS}-{number}", said[number], now)
        elif what == "fold":
            fold(folder, now)
        else:
            with mock.patch.object(counter_files.Path, "unlink"):
                fold(folder, now)

        assert offered(folder, now) == sum(said.values())


def test_a_damaged_folded_file_is_never_written_over(tmp_path):
    (tmp_path / FOLDED).write_bytes(b"{")
    publish(tmp_path, f"{NO_PROCESS}-a", 3, NOW - 2 * HOUR)

    with pytest.raises(BadInput, match="are damaged"):
        fold(tmp_path, NOW)

    assert (tmp_path / FOLDED).read_bytes() == b"{"
    assert read_published(tmp_path, NOW).damaged == (FOLDED,)
    assert offered(tmp_path) == 3


def test_two_never_fold_at_once(tmp_path):
    publish(tmp_path, f"{NO_PROCESS}-a", 3, NOW - 2 * HOUR)

    with (tmp_path / ".folding").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        folded = fold(tmp_path, NOW)

    assert folded == 0
    assert fold(tmp_path, NOW) == 1
