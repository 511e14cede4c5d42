import time
from unittest.mock import MagicMock

import pytest

from retrain.config import RetrainConfig
from retrain.data_collection.triggers.crossings import mark_emitted, record_crossing
from retrain.data_collection.triggers.policy import TriggerPolicy
from tasks.reconcile import start_missing_cycles
from tasks.resources import Resources
from tests.unit.data_collection.stored_rows import answer, store_many

ALWAYS = "1970-01-01/2200-01-01"


@pytest.fixture
def resources(tmp_path):
    config = {"model": {"name": "m"}, "data_collection": {"retrain_threshold": 2}}
    made = Resources(RetrainConfig.model_validate(config), tmp_path)
    yield made
    made.state.close()


@pytest.fixture
def started(monkeypatch):
    """The triggers for which Prefect was asked to start a cycle."""
    asked = []
    monkeypatch.setattr(
        "tasks.reconcile.run_deployment",
        lambda _name, *, parameters, **_more: asked.append(parameters["trigger_id"]),
    )
    return asked


@pytest.fixture(autouse=True)
def log(monkeypatch):
    logger = MagicMock()
    monkeypatch.setattr("tasks.reconcile.get_run_logger", lambda: logger)
    return logger


def crossed(resources, ago_s=600.0):
    store_many(resources.state, 2)
    return record_crossing(resources.state, "m", 2, time.time() - ago_s)


def test_a_crossing_that_waits_for_its_cycle_is_started_announced_or_not(resources, started):
    crossing = crossed(resources)

    first = start_missing_cycles.fn(resources)
    mark_emitted(resources.state, crossing.id, time.time())

    assert first == start_missing_cycles.fn(resources) == [crossing.id]
    assert started == [crossing.id, crossing.id]


def test_nothing_is_started_in_a_freeze_and_the_log_says_so(resources, started, log, monkeypatch):
    crossing = crossed(resources)
    policy = TriggerPolicy(2, freeze=(ALWAYS,))
    monkeypatch.setattr("tasks.reconcile.trigger_policy", lambda _config: policy)

    assert start_missing_cycles.fn(resources) == []
    assert started == []
    [said] = log.warning.call_args_list
    assert said.args == ("%s: not started, frozen until %s", crossing.id, "2200-01-01 00:00:00 UTC")


def test_a_crossing_that_was_answered_or_is_too_young_is_left_alone(resources, started):
    answer(resources.state, crossed(resources).id, at=time.time())
    store_many(resources.state, 2, first=2)
    record_crossing(resources.state, "m", 2, time.time())

    assert start_missing_cycles.fn(resources) == []
    assert started == []
