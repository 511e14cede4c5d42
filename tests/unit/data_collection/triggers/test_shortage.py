import pytest
from sqlalchemy import insert, update

from retrain.data_collection.forgetting.retention import RetentionPolicy
from retrain.data_collection.store.packs import STORED
from retrain.data_collection.triggers.policy import TriggerPolicy
from retrain.data_collection.triggers.shortage import shortages
from retrain.storage.schema import draws, packs, samples
from tests.unit.data_collection.stored_rows import store_many

DAY = 86_400.0
NOW = 100 * DAY


def stored(state, count, *, bytes_each):
    store_many(state, count, at=NOW - count)
    pack = {"id": "p", "owner": "o", "state": STORED, "images": count, "bytes": count * bytes_each}
    with state.write() as connection:
        connection.execute(update(samples).values(captured_at=NOW - 60))
        connection.execute(insert(packs).values(**pack, made_at=0.0))


def drawn(state, *days_ago, outcome="stored"):
    row = {
        "model": "m",
        "camera": "c",
        "release": "r",
        "strategy": "all",
        "reason": "",
        "detail": "",
        "inclusion_probability": 1.0,
        "audit": 0,
    }
    rows = [
        {
            **row,
            "id": f"{outcome}-{ago}",
            "outcome": outcome,
            "captured_at": 0.0,
            "stored_at": NOW - ago * DAY,
        }
        for ago in days_ago
    ]
    with state.write() as connection:
        connection.execute(insert(draws), rows)


@pytest.mark.parametrize(("max_bytes", "said"), [(100_000, []), (99_999, ["99"]), (50_000, ["50"])])
def test_a_size_that_holds_fewer_samples_than_the_threshold_is_told(state, max_bytes, said):
    stored(state, 20, bytes_each=1000)

    found = shortages(state, "m", TriggerPolicy(100), RetentionPolicy(max_bytes=max_bytes), NOW)

    assert found == [
        f"Retention keeps about {kept} samples of all models (max_bytes {max_bytes}, 1000 bytes each), "
        "too few for the threshold of 100 samples."
        for kept in said
    ]


def test_only_the_thresholds_out_of_reach_are_named(state):
    stored(state, 20, bytes_each=1000)
    policy = TriggerPolicy(100, class_thresholds={"dent": 90}, camera_thresholds={"east": 10})

    [found] = shortages(state, "m", policy, RetentionPolicy(max_bytes=50_000), NOW)

    assert found.endswith("too few for the threshold of 100 samples, of 90 samples of class dent.")


def test_waiting_samples_that_are_too_old_are_told(state):
    stored(state, 20, bytes_each=1000)
    with state.write() as connection:
        connection.execute(update(samples).where(samples.c.seq <= 5).values(captured_at=NOW - 8 * DAY))
        connection.execute(update(samples).where(samples.c.seq <= 2).values(cycle_id="cycle-used"))

    found = shortages(state, "m", TriggerPolicy(100), RetentionPolicy(max_age_s=7 * DAY), NOW)

    assert found == [
        "3 waiting samples are older than 7 days: retention deletes them before a cycle uses them."
    ]


def test_an_age_in_which_too_few_samples_come_is_told_once_it_was_seen_for_so_long(state):
    policy, retention = TriggerPolicy(4), RetentionPolicy(max_age_s=7 * DAY)
    drawn(state, 1, 2)
    drawn(state, 3, outcome="expired")
    drawn(state, 4, 5, outcome="duplicate")
    young = shortages(state, "m", policy, retention, NOW)
    drawn(state, 8)

    assert young == []
    assert shortages(state, "m", policy, retention, NOW) == [
        "Retention keeps samples for 7 days; 3 came in the last 7 days, too few for the threshold of 4 samples."
    ]
    assert shortages(state, "m", TriggerPolicy(3), retention, NOW) == []


def test_without_limits_or_samples_nothing_is_known(state):
    assert shortages(state, "m", TriggerPolicy(100), RetentionPolicy(max_age_s=1.0, max_bytes=1), NOW) == []
    stored(state, 3, bytes_each=1000)
    assert shortages(state, "m", TriggerPolicy(100), RetentionPolicy(), NOW) == []
