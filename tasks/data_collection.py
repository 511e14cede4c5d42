"""Watches how many new samples wait, and claims them for a cycle."""

import time
from collections.abc import Mapping
from typing import Any

from prefect import get_run_logger, task

from retrain.data_collection.triggers.crossings import (
    Crossing,
    decide,
    find_crossing,
    mark_emitted,
    record_crossing,
    select_samples,
    unhandled,
)
from tasks.collection_rules import trigger_policy
from tasks.cycle import CycleWork
from tasks.events import announce
from tasks.resources import Resources
from tasks.retrying import RETRYING


@task(name="watch samples", timeout_seconds=60, **RETRYING)
def watch_samples(resources: Resources) -> Crossing | None:
    """Record a crossing if the policy fires, then announce it.

    The record comes first: if the watcher dies before it announces, a later watch does, and if the announcement is
    lost, the reconcile flow finds the crossing without a cycle.
    """
    state, model, now = resources.state, resources.model, time.time()
    policy, classes = trigger_policy(resources.config), resources.config.model.classes
    crossing = record_crossing(state, model, policy, now, classes)
    if crossing is not None:
        announce_crossing(resources, crossing)
        return crossing
    decision = decide(state, model, policy, now, classes)
    get_run_logger().info("no new crossing: %s", "; ".join(decision.reasons))
    if policy.calendar.until(now) is None:
        _announce_lost(resources, now - resources.config.orchestration.reconcile_after_s)
    return None


def resolve_trigger(resources: Resources, trigger_id: str | None, manual_id: str) -> str:
    """The trigger a run answers: the one it was given, else the oldest unanswered crossing, else a manual start.

    Raises:
        NotFound: this model has no such crossing; samples would be claimed for nothing.
    """
    manual = f"{resources.model}-manual-"
    if trigger_id is None:
        waiting = unhandled(resources.state, resources.model, time.time())
        return waiting[0].id if waiting else manual + manual_id
    if not trigger_id.startswith(manual):
        find_crossing(resources.state, resources.model, trigger_id)
    return trigger_id


def announce_crossing(resources: Resources, crossing: Crossing) -> None:
    """Tell Prefect; its automation starts the cycle."""
    payload = {
        "trigger_id": crossing.id,
        "scope": crossing.scope,
        "count": crossing.count,
        "threshold": crossing.threshold,
    }
    announce("samples.threshold-crossed", crossing.model, crossing.id, payload)
    mark_emitted(resources.state, crossing.id, time.time())


def _announce_lost(resources: Resources, older_than: float) -> None:
    """Announce what a watcher recorded and did not live to announce.

    Two watchers may do so at once: the event has the same id, and the run it starts finds the cycle taken.
    """
    for crossing in unhandled(resources.state, resources.model, older_than):
        if crossing.emitted_at is None:
            get_run_logger().warning("%s was never announced; announcing it now", crossing.id)
            announce_crossing(resources, crossing)


@task(name="select samples", timeout_seconds=300, **RETRYING)
def select_batch(work: CycleWork) -> Mapping[str, Any]:
    """Claim the waiting samples for this cycle; there may be none, after a manual start."""

    def select() -> dict[str, Any]:
        resources = work.resources
        ids = select_samples(
            resources.state, resources.model, work.cycle.id, limit=100_000, guard=work.cycle.check
        )
        return {"sample_ids": ids}

    return work.cycle.stage("select", {"trigger": work.cycle.record.trigger_id}, select)
