"""What a cycle's models are judged by, and what was stored of them."""

from pathlib import Path

from retrain.dataset.version import DatasetItem, DatasetVersion
from retrain.evaluation.evaluation import Evaluation
from retrain.evaluation.run import EvaluationItem
from tasks.annotation import decode
from tasks.resources import Resources

FROZEN, NEW = "frozen test", "new frames"
"""Slices: the test split as the champion knew it, and what is new to it."""


def saved_evaluation(resources: Resources, cycle_id: str, who: str) -> Evaluation:
    """What the evaluate stage stored for `champion` or `challenger`."""
    return Evaluation.load(evaluation_file(resources, cycle_id, who))


def has_evaluations(resources: Resources, cycle_id: str) -> bool:
    """Whether the evaluate stage of a cycle stored both."""
    return all(evaluation_file(resources, cycle_id, who).exists() for who in ("champion", "challenger"))


def evaluation_file(resources: Resources, cycle_id: str, who: str) -> Path:
    return resources.home / "cycles" / cycle_id / f"{who}.json"


def test_slices(resources: Resources, name: str, known_version: str) -> dict[str, list[str]]:
    """Image ids of each slice of a version's test split."""
    known = {item.image for item in resources.datasets.get_version(known_version).items}
    test = [item.image for item in _judged(resources.datasets.get_version(name))]
    return {
        FROZEN: [image for image in test if image in known],
        NEW: [image for image in test if image not in known],
    }


def test_items(resources: Resources, name: str) -> list[EvaluationItem]:
    datasets = resources.datasets
    version = datasets.get_version(name)
    return [
        EvaluationItem(
            item.image,
            item.group,
            lambda item=item: decode(datasets.image_bytes(version, item)),  # type: ignore[misc]
            item.annotations,
        )
        for item in _judged(version)
    ]


def _judged(version: DatasetVersion) -> list[DatasetItem]:
    # A label that the champion made would be marked right by the champion.
    return [item for item in version.items if item.split == "test" and item.source != "auto"]
