"""What the journal promises on SQLite and Postgres."""

import multiprocessing

import pytest

from retrain.errors import BadInput
from retrain.storage.journal import Journal, JournalEntry
from retrain.storage.state import open_state


def test_entries_come_back_in_order_with_everything_they_held(state):
    journal = Journal(state, "cycle-1")
    assert journal.append("b", "started", {"n": 1, "nested": {"list": [1.5, None, "ü"]}}, 10.0)
    assert journal.append("a", "ended", {}, 9.0)
    first, second = journal.entries()
    assert first == JournalEntry(
        first.seq, "cycle-1", "b", "started", {"n": 1, "nested": {"list": [1.5, None, "ü"]}}, 10.0
    )
    assert (second.key, second.payload, second.at) == ("a", {}, 9.0)
    assert second.seq > first.seq
    assert journal.entries("ended") == [second]


def test_a_key_is_written_once_and_the_first_entry_stays(state):
    journal = Journal(state, "s")
    assert journal.append("k", "first", {"a": 1}, 1.0)
    assert not journal.append("k", "second", {"a": 2}, 2.0)
    assert [(entry.kind, entry.payload) for entry in journal.entries()] == [("first", {"a": 1})]


def test_streams_share_no_keys(state):
    assert Journal(state, "one").append("k", "x", {}, 1.0)
    assert Journal(state, "two").append("k", "x", {}, 1.0)
    assert len(Journal(state, "one").entries()) == 1


def test_an_entry_made_in_a_transaction_that_fails_is_not_there(state):
    journal = Journal(state, "s")
    with pytest.raises(ZeroDivisionError), state.write() as connection:
        assert journal.append("k", "x", {}, 1.0, connection)
        _ = 1 / 0
    assert journal.entries() == []
    assert journal.append("k", "x", {}, 1.0)


@pytest.mark.parametrize("payload", [{"a": float("nan")}, {"a": object()}, {"a": b"bytes"}])
def test_a_payload_that_is_not_json_is_refused(state, payload):
    with pytest.raises(BadInput, match="JSON"):
        Journal(state, "s").append("k", "x", payload, 1.0)
    assert Journal(state, "s").entries() == []


@pytest.mark.parametrize("key", ["", "x" * 301, "a\0b"])
def test_a_key_that_one_of_the_databases_would_refuse_is_refused_by_both(state, key):
    with pytest.raises(BadInput, match="Journal key"):
        Journal(state, "s").append(key, "x", {}, 1.0)


def test_processes_appending_the_same_keys_add_each_once(state, state_url):
    fork = multiprocessing.get_context("fork")
    added = fork.SimpleQueue()
    processes = [fork.Process(target=append_all, args=(state_url, added)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert sum(added.get() for _ in processes) == 20
    entries = Journal(state, "shared").entries()
    assert sorted(entry.key for entry in entries) == sorted(f"key-{number}" for number in range(20))


def append_all(url, added):
    journal = Journal(open_state(url), "shared")
    added.put(sum(journal.append(f"key-{number}", "x", {}, 0.0) for number in range(20)))
