"""SIGKILL at every boundary of the cycle, one after the other; started again each time, it ends with one of everything."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from retrain.cycle import list_cycles, stage_records
from retrain.data_collection.triggers import record_crossing
from retrain.detector import Detector
from retrain.serving.router import Router

pytestmark = pytest.mark.server

DRIVER = Path(__file__).with_name("driver.py")
KILL_POINTS = [
    "done:plan",
    "recorded:select",
    "done:annotate",
    "done:version",
    "recorded:version",
    "done:layout",
    "training",
    "done:train",
    "done:evaluate",
    "recorded:gate",
    "released",
    "done:register",
    "routed",
    "crowned",
    "done:promote",
    "recorded:promote",
]


def run_cycle(trigger, point="none"):
    return subprocess.run([sys.executable, DRIVER, trigger, point], capture_output=True, text=True, timeout=240)


def start_cycle(trigger, point="none"):
    return subprocess.Popen([sys.executable, DRIVER, trigger, point], stdout=subprocess.PIPE, text=True)


@pytest.fixture
def router(world):
    with Router("squares", world.routes, world.releases, Detector.load, replica="r1", poll_s=0.2) as router:
        yield router


@pytest.fixture
def trigger(world):
    return record_crossing(world.state, "squares", 40, time.time()).id


@pytest.mark.timeout(900)
def test_a_cycle_killed_at_every_boundary_has_each_effect_exactly_once(world, router, trigger):
    champion = router.served_digest

    for point in KILL_POINTS:
        killed = run_cycle(trigger, point)
        assert killed.returncode == -signal.SIGKILL, f"{point} was not reached:\n{killed.stdout}{killed.stderr}"
    finished = run_cycle(trigger)

    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert world.datasets.versions() == ["v1.0.0", "v1.1.0"]
    assert registered(world) == 2  # the first champion and this one
    assert [entry.kind for entry in world.ledger.entries("squares")] == [
        "promoted",
        "decided",
        "promoted",
    ]
    assert world.ledger.verify().intact
    cycle = next(one for one in list_cycles(world.state) if one.trigger_id == trigger)
    assert cycle.status == "promoted"
    assert cycle.attempts == len(KILL_POINTS) + 1
    assert router.served_digest == cycle.outcome["release"]["digest"] != champion
    assert world.registry.current("squares", "champion").digest == router.served_digest
    assert switches(world) == 1
    assert len({record.stage for record in stage_records(world.state, cycle.id)}) == 9


def test_a_finished_cycle_started_again_does_nothing(world, router, trigger):
    assert run_cycle(trigger).returncode == 0
    entries = [entry.hash for entry in world.ledger.entries("squares")]

    again = run_cycle(trigger)

    assert again.returncode == 0
    assert [entry.hash for entry in world.ledger.entries("squares")] == entries
    assert world.datasets.versions() == ["v1.0.0", "v1.1.0"]


def test_of_two_cycles_started_together_one_runs_and_the_other_says_which_is_active(world, router, trigger):
    both = [start_cycle(trigger), start_cycle(trigger)]

    outputs = [process.communicate(timeout=240)[0] for process in both]

    assert sorted(process.returncode for process in both) == [0, 3]
    refused = next(text for text, process in zip(outputs, both, strict=True) if process.returncode == 3)
    assert "CycleActive: " in refused
    assert "is active" in refused
    assert world.datasets.versions() == ["v1.0.0", "v1.1.0"]


def test_a_promotion_no_router_follows_is_taken_back(world, trigger):
    champion = world.routes.get("squares").control
    os.environ["RETRAIN_SERVING__ACK_TIMEOUT_S"] = "1"

    try:
        ended = run_cycle(trigger)
    finally:
        del os.environ["RETRAIN_SERVING__ACK_TIMEOUT_S"]

    assert ended.returncode == 3
    assert world.routes.get("squares").control == champion
    assert world.registry.current("squares", "champion").digest == champion


def registered(world):
    from mlflow import MlflowClient

    return len(MlflowClient(world.tracking_uri).search_model_versions("name = 'squares'"))


def switches(world):
    from retrain.storage.journal import Journal

    return sum(entry.kind == "route.switched" for entry in Journal(world.state, "route/squares").entries())
