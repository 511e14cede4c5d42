"""SIGKILL at every boundary of the cycle; started again each time, it ends with exactly one of everything."""

import os
import signal
import time

import httpx
import pytest

from retrain.cycle import list_cycles, stage_records
from retrain.data_collection.triggers.crossings import record_crossing
from retrain.detector import Detector
from retrain.serving.router import Router
from tasks.proofs import prove_cycle

pytestmark = pytest.mark.server

KILL_POINTS = [
    "done:plan",
    "recorded:select",
    "done:annotate",
    "done:version",
    "recorded:version",
    "done:layout",
    "training",
    "done:train",
    "done:thresholds",
    "done:evaluate",
    "recorded:gate",
    "done:report",
    "released",
    "done:register",
    "routed",
    "crowned",
    "done:promote",
    "recorded:promote",
]

# What a kill inside the promotion leaves: (route moved, alias moved, entries in the ledger).
HALF_DONE = {"routed": (True, False, 2), "crowned": (True, True, 2)}


def half_done(world, champion):
    moved = world.routes.get("squares").control != champion
    crowned = world.registry.current("squares", "champion").digest != champion
    return moved, crowned, len(world.ledger.entries("squares"))


@pytest.fixture
def router(world):
    with Router("squares", world.routes, world.releases, Detector.load, replica="r1", poll_s=0.2) as router:
        yield router


@pytest.fixture
def trigger(world):
    return record_crossing(world.state, "squares", 40, time.time()).id


@pytest.mark.timeout(900)
def test_a_cycle_killed_at_every_boundary_has_each_effect_exactly_once(world, driver, router, trigger):
    champion = router.served_digest

    for point in KILL_POINTS:
        killed = driver.run(trigger, point)
        assert killed.returncode == -signal.SIGKILL, f"{point} was not reached:\n{killed.output}"
        if point in HALF_DONE:
            assert half_done(world, champion) == HALF_DONE[point]
    finished = driver.run(trigger)

    assert finished.returncode == 0, finished.output
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
    assert len({record.stage for record in stage_records(world.state, cycle.id)}) == 12


def test_a_finished_cycle_started_again_does_nothing(finished_world, driver):
    entries = [entry.hash for entry in finished_world.ledger.entries("squares")]

    again = driver.run(list_cycles(finished_world.state)[-1].trigger_id)

    assert again.returncode == 0
    assert [entry.hash for entry in finished_world.ledger.entries("squares")] == entries
    assert finished_world.datasets.versions() == ["v1.0.0", "v1.1.0"]


def test_a_cycle_whose_page_cannot_be_drawn_goes_on_and_says_why(world, driver, router, trigger):
    ended = driver.run(trigger, "undrawable")

    assert ended.returncode == 0, ended.output
    assert f"The page of cycle cycle-{trigger} could not be drawn." in ended.output
    assert "Traceback" in ended.output
    cycle = list_cycles(world.state)[-1]
    assert cycle.status == "promoted"
    assert not world.evaluation_page(cycle.id).exists()
    (proof,) = (proof for proof in prove_cycle(world, cycle.id) if proof.stage == "report")
    assert proof.holds
    assert proof.said == "no page is recorded, because it could not be drawn: ValueError: no glyph for it"
    shown = httpx.get(f"{os.environ['PREFECT_API_URL']}/artifacts/gate/latest", timeout=10).json()["data"]
    assert shown.startswith("## better\n")
    assert shown.endswith("\nThe page could not be drawn: ValueError: no glyph for it")


def test_of_two_cycles_started_together_one_runs_and_the_other_says_which_is_active(
    world, driver, router, trigger
):
    both = [driver.start(trigger), driver.start(trigger)]

    ended = sorted((driver.wait(pid) for pid in both), key=lambda one: one.returncode)

    assert [one.returncode for one in ended] == [0, 3], ended
    assert "CycleActive: " in ended[1].output
    assert "is active" in ended[1].output
    assert world.datasets.versions() == ["v1.0.0", "v1.1.0"]


def test_a_promotion_no_router_follows_is_taken_back(world, driver, trigger):
    champion = world.routes.get("squares").control

    ended = driver.run(trigger, RETRAIN_SERVING__ACK_TIMEOUT_S="1")

    assert ended.returncode == 3
    assert "live replicas of 'squares' serve release" in ended.output
    assert switches(world) == 2  # there and back
    assert [entry.kind for entry in world.ledger.entries("squares")] == ["promoted", "decided", "withdrawn"]
    assert world.routes.get("squares").control == champion
    assert world.registry.current("squares", "champion").digest == champion


def registered(world):
    from mlflow import MlflowClient

    return len(MlflowClient(world.tracking_uri).search_model_versions("name = 'squares'"))


def switches(world):
    from retrain.storage.journal import Journal

    return sum(entry.kind == "route.switched" for entry in Journal(world.state, "route/squares").entries())
