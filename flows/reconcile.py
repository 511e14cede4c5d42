"""Finds what lost events and dead processes left behind, and starts it."""

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State

from retrain.config import RetrainConfig
from retrain.errors import RetrainError
from tasks.reconcile import repair_aliases, start_missing_cycles
from tasks.resources import build_resources
from tasks.retention import delete_expired


@flow(
    name="reconcile",
    flow_run_name="reconcile",
    description="Starts cycles whose event was lost or whose process died; repairs aliases; applies retention.",
    # More than its tasks may take together: a long deletion is ended by the limit of its own task.
    timeout_seconds=2 * 3600,
    persist_result=False,
)
def reconcile_flow(config: RetrainConfig | None = None) -> list[str]:
    """Check once. Each step is done although one before it failed: a damaged pack must not keep cycles from starting.

    Args:
        config: unset, the configuration of the process that runs the flow.

    Returns:
        Trigger ids for which a cycle run was started.

    Raises:
        RetrainError: what failed; of several steps, all of it.
    """
    resources = build_resources(config)
    started = start_missing_cycles(resources, return_state=True)
    states: list[State[Any]] = [
        started,
        repair_aliases(resources, return_state=True),
        delete_expired(resources, return_state=True),
    ]
    if failed := [state for state in states if not state.is_completed()]:
        errors = [state.result(raise_on_failure=False) for state in failed]
        raise errors[0] if len(errors) == 1 else RetrainError("; ".join(map(str, errors)))
    triggers: list[str] = started.result()
    return triggers
