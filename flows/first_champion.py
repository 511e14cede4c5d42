"""The first model: trained from scratch on an existing dataset version, registered and routed."""

from collections.abc import Mapping, Sequence
from typing import Any

from prefect import flow

from retrain.config import RetrainConfig
from retrain.cycle import first_trigger
from retrain.dataset.version import DatasetVersion
from retrain.errors import BadInput, ConfigError
from tasks.cycle import cycle_work, finish_cycle
from tasks.dataset import lay_out
from tasks.resources import build_resources
from tasks.serving import register_release, serve_first
from tasks.thresholds import fit_serving_thresholds
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

    Raises:
        ConfigError: the version has other classes than the model.
        BadInput: it has nothing to train on or to choose the best epoch by.
    """
    resources = build_resources(config)
    stored = resources.datasets.get_version(version)
    _check(stored, resources.config.model.classes)
    described = {"name": stored.name, "digest": stored.digest}
    with cycle_work(resources, first_trigger(resources.state, resources.model)) as work:
        if work.cycle.record.status != "running":
            return dict(work.cycle.record.outcome or {})
        folders = lay_out(work, described, None)
        training = train(work, described, folders, None)
        confidence = fit_serving_thresholds(work, described, training)
        release = register_release(work, training, described, None, confidence)
        served = serve_first(work, release)
        return finish_cycle(work, "promoted", {"version": described, "release": release, "served": served})


def _check(version: DatasetVersion, classes: Sequence[str]) -> None:
    """Before anything is recorded, what would fail the cycle later."""
    if version.classes != tuple(classes):
        raise ConfigError(
            f"{version.name} has the classes {', '.join(version.classes)}, and model.classes is {', '.join(classes)}. "
            "Set model.classes to those of the dataset."
        )
    counts = version.images_by_split()
    if missing := [split for split in ("train", "val", "test") if not counts.get(split)]:
        raise BadInput(
            f"{version.name} has no images in {' and '.join(missing)}; add recordings, each of which goes to one split."
        )
