"""From waiting samples to a finished cycle, through a real server, automation and worker, and nothing else."""

import os
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from flows.reconcile import reconcile_flow
from flows.watch import watch_flow
from retrain.cycle import list_cycles, stage_records
from retrain.data_collection.triggers.crossings import record_crossing, unhandled
from tasks.events import announce
from tests.small_world import WAITING, collect

pytestmark = pytest.mark.server


def finished_cycle(world, trigger, timeout_s=150):
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        found = [one for one in list_cycles(world.state) if one.trigger_id == trigger and one.finished_at]
        if found:
            return found[0]
        time.sleep(0.5)
    pytest.fail(f"the cycle of {trigger} did not finish in {timeout_s} s: {list_cycles(world.state)}")


def runs_for(stack, trigger):
    query = {"flows": {"name": {"any_": ["continuous-retraining"]}}, "limit": 200}
    reply = httpx.post(f"{stack.api_url}/flow_runs/filter", json=query, timeout=10)
    reply.raise_for_status()
    return [run for run in reply.json() if run["parameters"].get("trigger_id") == trigger]


def test_a_burst_of_fifty_crossings_becomes_one_finished_cycle_through_event_and_automation(stack, world):
    trigger = watch_flow(world.config)
    for number in range(49):
        announce("samples.threshold-crossed", "squares", f"burst-{number}", {"trigger_id": trigger})

    cycle = finished_cycle(world, trigger)

    # One epoch on sixteen squares proves nothing better, and the gate must say so.
    assert cycle.status == "kept_champion"
    assert cycle.attempts == 1
    assert [run["created_by"]["type"] for run in runs_for(stack, trigger)] == ["AUTOMATION"]
    assert len(list_cycles(world.state)) == 2  # the one that made the first champion, and this
    done = [record.stage for record in stage_records(world.state, cycle.id)]
    assert done == [
        "plan",
        "select",
        "annotate",
        "version",
        "layout",
        "train",
        "thresholds",
        "evaluate",
        "gate",
        "report",
    ]
    assert world.datasets.versions() == ["v1.0.0", "v1.1.0"]
    assert len(world.ledger.entries("squares")) == 1


def test_an_event_of_another_model_starts_no_cycle_of_this_one(stack, world):
    announce("samples.threshold-crossed", "other", "other-1", {"trigger_id": "other-samples-1"})

    deadline = time.monotonic() + 60
    while not (runs := [run for run in runs_for(stack, "other-samples-1") if run["end_time"]]):
        assert time.monotonic() < deadline
        time.sleep(0.5)

    assert runs[0]["state_type"] == "FAILED"
    assert "no crossing 'other-samples-1'" in runs[0]["state"]["message"]
    assert len(list_cycles(world.state)) == 2


def test_watching_again_announces_nothing_new(world):
    assert watch_flow(world.config) is None


def test_a_lost_event_is_found_by_reconcile_and_its_cycle_runs_once(world):
    collect(world, first=300)
    # Recorded but never announced: what a server that was down at the moment of crossing leaves behind.
    crossing = record_crossing(world.state, "squares", WAITING, time.time())
    at_once = world.config.model_copy(
        update={"orchestration": world.config.orchestration.model_copy(update={"reconcile_after_s": 0.0})}
    )

    first, second = reconcile_flow(at_once), reconcile_flow(at_once)
    cycle = finished_cycle(world, crossing.id)

    assert first == [crossing.id]
    assert second in ([crossing.id], [])  # asked again, Prefect gives back the same run
    assert cycle.status == "kept_champion"
    assert cycle.attempts == 1
    assert unhandled(world.state, "squares", time.time()) == []
    assert reconcile_flow(at_once) == []


def test_a_cycle_run_by_hand_says_how_it_ended(stack, world):
    """Both with the cycle of a crossing that is through, and with a new one for which no sample waits."""
    done = next(one for one in list_cycles(world.state) if one.status == "kept_champion")
    verdict = done.outcome["gate"]["verdict"]

    again, by_hand = (
        subprocess.run(
            [sys.executable, "-c", "from flows.cli import main; main()", "cycle", "run", *arguments],
            env={**os.environ, "RETRAIN_HOME": str(world.home), "PYTHONPATH": str(Path.cwd())},
            capture_output=True,
            text=True,
            timeout=300,
        )
        for arguments in (("--trigger", done.trigger_id), ())
    )

    assert (again.returncode, again.stdout) == (0, f"{done.id}: kept_champion ({verdict})\n"), again.stderr
    new = list_cycles(world.state)[-1].id
    assert (by_hand.returncode, by_hand.stdout) == (0, f"{new}: nothing_to_do (no sample waited)\n"), (
        by_hand.stderr
    )
