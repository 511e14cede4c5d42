import time
from unittest.mock import MagicMock

import pytest

from retrain.config import RetrainConfig
from retrain.data_collection.triggers.crossings import find_crossing, record_crossing
from retrain.data_collection.triggers.policy import TriggerPolicy
from tasks.data_collection import watch_samples
from tasks.resources import Resources
from tests.unit.data_collection.stored_rows import store_many

ALWAYS = "1970-01-01/2200-01-01"


@pytest.fixture
def resources(tmp_path):
    config = {"model": {"name": "m"}, "data_collection": {"retrain_threshold": 2}}
    made = Resources(RetrainConfig.model_validate(config), tmp_path)
    yield made
    made.state.close()


@pytest.fixture
def announced(monkeypatch):
    """Key and payload of every event handed to Prefect."""
    events = []
    monkeypatch.setattr(
        "tasks.data_collection.announce",
        lambda event, _model, key, payload: events.append((event, key, payload)),
    )
    return events


@pytest.fixture(autouse=True)
def log(monkeypatch):
    logger = MagicMock()
    monkeypatch.setattr("tasks.data_collection.get_run_logger", lambda: logger)
    return logger


def crossed(resources, ago_s=600.0):
    store_many(resources.state, 2)
    return record_crossing(resources.state, "m", 2, time.time() - ago_s)


def test_the_event_says_which_threshold_crossed_at_which_count(resources, announced):
    store_many(resources.state, 3)

    crossing = watch_samples.fn(resources)

    payload = {"trigger_id": "m-samples-1", "scope": "samples", "count": 3, "threshold": 2}
    assert announced == [("samples.threshold-crossed", "m-samples-1", payload)]
    assert find_crossing(resources.state, "m", crossing.id).emitted_at is not None


def test_a_watch_without_a_crossing_says_why(resources, announced, log):
    store_many(resources.state, 1)

    assert watch_samples.fn(resources) is None
    assert announced == []
    log.info.assert_called_once_with("no new crossing: %s", "1 of 2 samples wait")


def test_a_crossing_whose_watcher_died_before_it_announced_is_announced_once_by_the_next(
    resources, announced
):
    crossing = crossed(resources)

    found = [watch_samples.fn(resources) for _ in range(2)]

    assert found == [None, None]
    assert [key for _, key, _ in announced] == [crossing.id]


def test_a_watcher_that_may_be_about_to_announce_is_not_overtaken(resources, announced):
    crossed(resources, ago_s=1.0)

    watch_samples.fn(resources)

    assert announced == []


def test_a_lost_announcement_waits_for_the_end_of_a_freeze(resources, announced, monkeypatch):
    crossed(resources)
    monkeypatch.setattr("tasks.data_collection.trigger_policy", lambda _: TriggerPolicy(2, freeze=(ALWAYS,)))

    watch_samples.fn(resources)

    assert announced == []
