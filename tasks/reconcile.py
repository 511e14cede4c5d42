"""Starts cycles that should be running and are not: events are hints, the stored crossing is the truth."""

import time

from prefect import get_run_logger, task
from prefect.deployments import run_deployment

from retrain.cycle import list_cycles
from retrain.data_collection.triggers.crossings import Crossing, unhandled
from retrain.errors import RetrainError
from tasks.collection_rules import trigger_policy
from tasks.resources import Resources
from tasks.retrying import RETRYING

DEPLOYMENT = "continuous-retraining/retrain"


@task(name="start missing cycles", timeout_seconds=120, **RETRYING)
def start_missing_cycles(resources: Resources) -> list[str]:
    """Ask for a cycle run for every crossing that has waited too long and is not being worked on.

    Raises:
        RetrainError: a cycle has used up its attempts and needs a person.
    """
    orchestration, now = resources.config.orchestration, time.time()
    attempts = {cycle.trigger_id: cycle.attempts for cycle in list_cycles(resources.state, resources.model)}
    waiting = unhandled(resources.state, resources.model, now - orchestration.reconcile_after_s)
    if not waiting or _is_active(resources):
        return []
    exhausted = [one.id for one in waiting if attempts.get(one.id, 0) >= orchestration.max_attempts]
    if exhausted:
        raise RetrainError(
            f"Cycles for {', '.join(exhausted)} were started {orchestration.max_attempts} times without finishing. "
            "Look at their last flow run, then raise orchestration.max_attempts or run `retrain cycle abandon`."
        )
    calendar = trigger_policy(resources.config).calendar
    if (frozen_until := calendar.until(now)) is not None:
        names = ", ".join(one.id for one in waiting)
        get_run_logger().warning("%s: not started, frozen until %s", names, calendar.local(frozen_until))
        return []
    for crossing in waiting:
        _start(resources, crossing, attempts.get(crossing.id, 0) + 1, now)
    return [crossing.id for crossing in waiting]


@task(name="repair aliases", timeout_seconds=120, **RETRYING)
def repair_aliases(resources: Resources) -> list[str]:
    """Show in MLflow what a process decided and did not live to write there; names the aliases repaired."""
    repaired = [record.alias for record in resources.registry.sync(resources.model)]
    if repaired:
        get_run_logger().warning("MLflow showed an older release as %s; repaired", ", ".join(repaired))
    return repaired


def _start(resources: Resources, crossing: Crossing, attempt: int, now: float) -> None:
    # A run that died before it opened its cycle used up no attempt; the period makes it a new run.
    period = int(now // max(resources.config.orchestration.reconcile_after_s, 60))
    run_deployment(
        DEPLOYMENT,
        parameters={"trigger_id": crossing.id},
        idempotency_key=f"{crossing.id}/attempt-{attempt}/{period}",
        timeout=0,
        as_subflow=False,
    )
    get_run_logger().warning("started attempt %d of the cycle for %s", attempt, crossing.id)


def _is_active(resources: Resources) -> bool:
    """Whether a live process holds the model's cycle lease; a run asked for now would only be turned away."""
    return resources.leases.is_held(f"cycle-{resources.model}")
