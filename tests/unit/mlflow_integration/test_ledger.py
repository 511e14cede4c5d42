import threading

import pytest
from sqlalchemy import delete, update

from retrain.errors import BadInput, Conflict
from retrain.mlflow_integration.ledger import Ledger
from retrain.storage.schema import ledger as table
from retrain.storage.state import open_state

A, B = "a" * 64, "b" * 64


@pytest.fixture
def state(tmp_path):
    store = open_state(f"sqlite:///{tmp_path / 'state.db'}")
    yield store
    store.close()


@pytest.fixture
def ledger(state):
    return Ledger(state)


@pytest.fixture
def three(ledger):
    return [
        ledger.append("digits", "cycle-1:promoted", "promoted", {"digest": A, "why": "first"}, 100.0),
        ledger.append("digits", "cycle-2:kept", "kept_champion", {"reasons": ["no gain"]}, 200.5),
        ledger.append("digits", "cycle-3:promoted", "promoted", {"digest": B, "map50": [0.5, 0.8]}, 300.25),
    ]


def test_entries_are_chained_in_order(ledger, three):
    assert [entry.seq for entry in three] == [1, 2, 3]
    assert three[1].previous_hash == three[0].hash
    assert ledger.entries("digits") == three
    assert ledger.entries("other") == []
    assert ledger.verify().intact
    assert ledger.verify().entries == 3


def test_a_repeated_append_returns_the_first_entry_and_adds_nothing(ledger, three):
    again = ledger.append("digits", "cycle-1:promoted", "promoted", {"digest": A, "why": "again"}, 999.0)

    assert again == three[0]
    assert len(ledger.entries("digits")) == 3


def test_a_key_cannot_stand_for_two_different_things(ledger, three):
    with pytest.raises(Conflict, match="'cycle-1:promoted' is taken by 'promoted' of digits, entry 1"):
        ledger.append("digits", "cycle-1:promoted", "rolled_back", {"digest": B}, 400.0)


@pytest.mark.parametrize(("t", "digest"), [(99.9, None), (100.0, A), (250.0, A), (300.25, B), (1e12, B)])
def test_champion_at_says_what_was_in_production_and_why(ledger, three, t, digest):
    entry = ledger.champion_at("digits", t)

    assert (entry.payload["digest"] if entry else None) == digest


def test_a_rollback_changes_the_champion_back(ledger, three):
    ledger.append("digits", "incident-1", "rolled_back", {"digest": A, "why": "errors"}, 400.0)

    assert ledger.champion_at("digits", 350).payload["digest"] == B
    assert ledger.champion_at("digits", 450).payload == {"digest": A, "why": "errors"}
    assert ledger.champion_at("other", 450) is None


@pytest.mark.parametrize(
    "change",
    [{"payload": '{"digest":"forged"}'}, {"at": 200.0}, {"kind": "promoted"}, {"model": "x"}, {"key": "k"}],
)
def test_any_changed_field_is_noticed_and_named(state, ledger, three, change):
    with state.write() as connection:
        connection.execute(update(table).where(table.c.seq == 2).values(**change))

    check = ledger.verify()

    assert not check.intact
    assert check.damaged == 2
    assert "was changed after it was written" in check.reason


def test_a_removed_entry_is_noticed(state, ledger, three):
    with state.write() as connection:
        connection.execute(delete(table).where(table.c.seq == 2))

    assert ledger.verify().damaged == 3
    assert "Entry 2 is missing" in ledger.verify().reason


def test_a_resealed_entry_breaks_the_chain_after_it(state, ledger, three):
    with state.write() as connection:
        connection.execute(update(table).where(table.c.seq == 3).values(previous_hash="f" * 64))

    assert ledger.verify().damaged == 3


def test_appends_of_many_threads_form_one_intact_chain(ledger):
    def work(number):
        for step in range(5):
            ledger.append("digits", f"{number}-{step}", "note", {"n": number}, float(step))
            ledger.append("digits", f"shared-{step}", "note", {}, float(step))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert ledger.verify() == type(ledger.verify())(25, None, None)


def test_an_empty_ledger_is_intact(ledger):
    assert ledger.verify().entries == 0
    assert ledger.verify().intact


@pytest.mark.parametrize("payload", [{"digest": A, "map50": float("nan")}, {"digest": A, "path": object()}])
def test_what_json_cannot_hold_is_refused(ledger, payload):
    with pytest.raises(BadInput, match="plain JSON without NaN"):
        ledger.append("digits", "k", "promoted", payload, 1.0)


def test_a_promotion_without_a_digest_is_refused(ledger):
    with pytest.raises(BadInput, match="payload\\['digest'\\]"):
        ledger.append("digits", "k", "promoted", {}, 1.0)
