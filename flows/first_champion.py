"""The first model: trained from scratch on an existing dataset version, registered and routed."""

from collections.abc import Mapping
from typing import Any

from prefect import flow

from retrain.config import RetrainConfig
from retrain.cycle import first_trigger
from tasks.cycle import cycle_work, finish_cycle
from tasks.dataset import lay_out
from tasks.resources import build_resources
from tasks.serving import register_release, serve_first
from tasks.training import train


@flow(
    name="first-champion",
    flow_run_name="first champion from {version}",
    description="Trains, registers and routes the first model of a detector that has none yet.",
    timeout_seconds=8 * 24 * 3600,
    persist_result=False,
)
def first_champion_flow(version: str, config: RetrainConfig | None = None) -> Mapping[str, Any]:
    """Make the first champion.

    Args:
        version: an existing dataset version, such as v1.0.0.
        config: unset, the configuration of the process that runs the flow.
    """
    resources = build_resources(config)
    stored = resources.datasets.get_version(version)
    described = {"name": stored.name, "digest": stored.digest}
    with cycle_work(resources, first_trigger(resources.state, resources.model)) as work:
        if work.cycle.record.status != "running":
            return dict(work.cycle.record.outcome or {})
        folders = lay_out(work, described, None)
        training = train(work, described, folders, None)
        release = register_release(work, training, described, None)
        served = serve_first(work, release)
        return finish_cycle(work, "promoted", {"version": described, "release": release, "served": served})
