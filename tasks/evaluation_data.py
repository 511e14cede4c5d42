"""What a cycle's models are judged by, what they learnt from, and what was stored of them."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from retrain.dataset.measuring.coverage import camera_of
from retrain.dataset.version import DatasetItem, DatasetVersion
from retrain.evaluation.change import Comparison
from retrain.evaluation.costs import Costs
from retrain.evaluation.evaluation import Evaluation
from retrain.evaluation.run import EvaluationItem
from tasks.gate_rules import CAMERA, FROZEN, NEW
from tasks.resources import Resources

COSTS = "costs"
"""Beside the comparisons in what the evaluate stage records, where its policy has limits."""
_ATTRIBUTES = ("camera", "source")


def saved_evaluation(resources: Resources, cycle_id: str, who: str) -> Evaluation:
    """What the evaluate stage stored for `champion` or `challenger`."""
    return Evaluation.load(evaluation_file(resources, cycle_id, who))


def has_evaluations(resources: Resources, cycle_id: str) -> bool:
    """Whether the evaluate stage of a cycle stored both."""
    return all(evaluation_file(resources, cycle_id, who).exists() for who in ("champion", "challenger"))


def evaluation_file(resources: Resources, cycle_id: str, who: str) -> Path:
    return resources.home / "cycles" / cycle_id / f"{who}.json"


def recorded_comparisons(evaluated: Mapping[str, Any]) -> dict[str, Comparison]:
    """By slice, in what the evaluate stage recorded."""
    return {name: Comparison.from_json(one) for name, one in evaluated.items() if name != COSTS}


def recorded_costs(evaluated: Mapping[str, Any]) -> Costs | None:
    """None where the evaluate stage had nothing to measure."""
    return Costs.from_json(evaluated[COSTS]) if COSTS in evaluated else None


def test_slices(resources: Resources, name: str, known_version: str) -> dict[str, list[str]]:
    """Image ids of each slice of a version's test split."""
    known = {item.image for item in resources.datasets.get_version(known_version).items}
    test = [item.image for item in _judged(resources.datasets.get_version(name))]
    return {
        FROZEN: [image for image in test if image in known],
        NEW: [image for image in test if image not in known],
    }


def camera_slices(resources: Resources, name: str) -> dict[str, list[str]]:
    """Image ids of each camera of a version's test split, by `camera: <name>`."""
    found: dict[str, list[str]] = {}
    for item in _judged(resources.datasets.get_version(name)):
        if (camera := camera_of(item.metadata)) is not None:
            found.setdefault(f"{CAMERA}{camera}", []).append(item.image)
    return found


def learnt_images(resources: Resources, name: str, known_version: str) -> set[str]:
    """All that champion and challenger may have learnt from: training and validation images of both versions.

    What is replayed is among them. A challenger that starts from the champion's weights knows the champion's images
    too, even if the newer version calls them test images.
    """
    versions = (resources.datasets.get_version(one) for one in (name, known_version))
    return {item.image for version in versions for item in version.items if item.split != "test"}


def judged_items(resources: Resources, name: str, split: str = "test") -> list[EvaluationItem]:
    """Images of a version's split that no model labelled."""
    # It loads all dataset formats, which most tasks do without.
    from retrain.evaluation.labelled_data import version_items

    version = resources.datasets.get_version(name)
    # The rest of the metadata, such as where an image was taken, is no business of a stored evaluation.
    return [
        replace(item, attributes={key: item.attributes[key] for key in _ATTRIBUTES if key in item.attributes})
        for item in version_items(resources.datasets, version, _judged(version, split))
    ]


def _judged(version: DatasetVersion, split: str = "test") -> list[DatasetItem]:
    # A label that the champion made would be marked right by the champion.
    return [item for item in version.items if item.split == split and item.source != "auto"]
