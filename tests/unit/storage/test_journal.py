"""The journal in one process; the contract on both databases is in tests/integration/storage."""

from concurrent.futures import ThreadPoolExecutor

from retrain.storage.journal import Journal


def test_threads_appending_one_key_add_it_once(state):
    journal = Journal(state, "s")
    with ThreadPoolExecutor(8) as pool:
        added = list(pool.map(lambda number: journal.append("k", "x", {"by": number}, 0.0), range(16)))
    assert sum(added) == 1
    assert journal.entries()[0].payload == {"by": added.index(True)}


def test_order_is_that_of_appending_not_of_time_or_key(state):
    journal = Journal(state, "s")
    for key, now in [("b", 3.0), ("a", 1.0), ("c", 2.0)]:
        journal.append(key, "x", {}, now)
    assert [entry.key for entry in journal.entries()] == ["b", "a", "c"]


def test_a_payload_changed_after_appending_stays_as_it_was(state):
    payload = {"list": [1]}
    journal = Journal(state, "s")
    with state.write() as connection:
        journal.append("k", "x", payload, 0.0, connection)
        payload["list"].append(2)
    assert journal.entries()[0].payload == {"list": [1]}
