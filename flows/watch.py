"""The threshold watch: enough new samples become one recorded crossing and one Prefect event."""

from prefect import flow

from retrain.config import RetrainConfig
from tasks.data_collection import watch_samples
from tasks.resources import build_resources


@flow(
    name="watch",
    flow_run_name="watch samples",
    description="Records a crossing when enough new samples wait, and announces it as a Prefect event.",
    timeout_seconds=300,
    persist_result=False,
)
def watch_flow(config: RetrainConfig | None = None) -> str | None:
    """Check once.

    Args:
        config: unset, the configuration of the process that runs the flow.

    Returns:
        The id of the new crossing, or None.
    """
    crossing = watch_samples(build_resources(config))
    return None if crossing is None else crossing.id
