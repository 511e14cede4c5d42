"""Finds what lost events and dead processes left behind, and starts it."""

from prefect import flow

from retrain.config import RetrainConfig
from tasks.reconcile import repair_aliases, start_missing_cycles
from tasks.resources import build_resources
from tasks.retention import delete_expired


@flow(
    name="reconcile",
    flow_run_name="reconcile",
    description="Starts cycles whose event was lost or whose process died; repairs aliases; applies retention.",
    timeout_seconds=300,
    persist_result=False,
)
def reconcile_flow(config: RetrainConfig | None = None) -> list[str]:
    """Check once.

    Args:
        config: unset, the configuration of the process that runs the flow.

    Returns:
        Trigger ids for which a cycle run was started.
    """
    resources = build_resources(config)
    repair_aliases(resources)
    delete_expired(resources)
    return start_missing_cycles(resources)
