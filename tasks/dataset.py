"""Turns a cycle's labels into a dataset version and lays its images out for training."""

import re
import time
from collections.abc import Callable, Mapping
from typing import Any

from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact

from retrain.data_collection.triggers.crossings import cycle_samples
from retrain.dataset.candidates import PackedImage
from retrain.dataset.diff import DatasetDiff
from retrain.dataset.materialise import materialise
from retrain.dataset.version import DatasetItem, DatasetVersion
from retrain.errors import BadInput, Conflict
from tasks.cycle import CycleWork
from tasks.resources import Resources
from tasks.retrying import RETRYING


@task(name="plan cycle", timeout_seconds=120, **RETRYING)
def plan_cycle(work: CycleWork) -> Mapping[str, Any]:
    """Fix what this cycle compares with and what its dataset version is called, before anything is made.

    Without this record a cycle killed after tagging a version would, when started again, build a second one.
    """

    def plan() -> dict[str, Any]:
        resources = work.resources
        champion = resources.registry.current(resources.model, "champion")
        routed = resources.routes.get(resources.model).control
        if routed != champion.digest:
            raise Conflict(
                f"The route serves {routed[:12]}, but the champion is {champion.digest[:12]}: a promotion was left "
                f"half done. Finish its cycle, or point the route back, before starting another."
            )
        versions = resources.datasets.versions()
        return {
            "champion": champion.digest,
            "champion_version": champion.version,
            # What the champion learnt from; everything newer is new to it, also labels of cycles that kept it.
            "known_version": resources.releases.open(champion.digest).lineage.dataset_version,
            "parent_version": versions[-1],
            "version": next_version(versions),
            "planned_at": time.time(),
        }

    return work.cycle.stage("plan", {"trigger": work.cycle.record.trigger_id}, plan)


@task(name="build dataset version", task_run_name="build {plan[version]}", timeout_seconds=3600, **RETRYING)
def build_version(work: CycleWork, plan: Mapping[str, Any]) -> Mapping[str, Any]:
    """A version that adds this cycle's labelled samples to the champion's; proven by reading it back at its tag.

    Samples that cannot be added are left out with the reason: those whose picture is in the dataset already, with
    other labels or in another split, must not stop an unattended loop.
    """

    def build() -> dict[str, Any]:
        resources = work.resources
        labels = resources.annotations.load(work.cycle.id)
        samples = [sample for sample in cycle_samples(resources.state, work.cycle.id) if sample.id in labels]
        if not samples:
            raise BadInput(
                "None of the cycle's samples got a label; set annotation.reviewer or lower the threshold."
            )
        datasets, name = resources.datasets, plan["version"]
        draft = datasets.create_version(name, f"cycle {work.cycle.id}", parent=plan["parent_version"])
        report = datasets.add_images(
            draft,
            [PackedImage(resources.samples.pack_file(sample), sample.file_name) for sample in samples],
            [labels[sample.id].annotations for sample in samples],
            groups=[sample.recording for sample in samples],
            sources=[labels[sample.id].source for sample in samples],
            metadata=[
                {"camera": sample.camera, "captured_at": sample.captured_at, "cycle": work.cycle.id}
                for sample in samples
            ],
            on_error="skip",
        )
        left_out = {
            sample.id: report.rejected[sample.file_name]
            for sample in samples
            if sample.file_name in report.rejected
        }
        leaking = datasets.leave_out_leaks(draft) if len(left_out) < len(samples) else {}
        left_out |= {image: f"would leak: {reason}" for image, reason in leaking.items()}
        for sample_id, reason in left_out.items():
            get_run_logger().warning("sample %s is left out of %s: %s", sample_id, name, reason)
        if len(left_out) == len(samples):
            first, why = next(iter(left_out.items()))
            raise BadInput(
                f"None of the cycle's {len(samples)} labelled samples can be added to {name}; "
                f"the first, {first}, {why}."
            )
        version = datasets.commit(name)
        difference = datasets.diff(plan["parent_version"], name)
        create_markdown_artifact(key="dataset-version", markdown=f"```\n{difference.to_text()}\n```")
        return {
            "name": version.name,
            "digest": version.digest,
            "diff": _counts(difference),
            "left_out": left_out,
        }

    return work.cycle.stage("version", {"version": plan["version"], "parent": plan["parent_version"]}, build)


@task(name="lay out training images", timeout_seconds=3600, **RETRYING)
def lay_out(work: CycleWork, version: Mapping[str, Any], known_version: str | None) -> Mapping[str, Any]:
    """Folders for the trainer: the new training images, a replay of older ones, and the validation images."""

    def layout() -> dict[str, Any]:
        resources = work.resources
        whole = resources.datasets.get_version(version["name"])
        known = frozenset(
            item.image
            for item in (resources.datasets.get_version(known_version).items if known_version else ())
        )
        share = resources.config.training.replay_fraction

        def is_new(item: DatasetItem) -> bool:
            return item.split == "train" and item.image not in known

        def is_replayed(item: DatasetItem) -> bool:
            return item.split == "train" and item.image in known and _fraction(item.image) < share

        parts = [_folder(resources, whole, is_new), _folder(resources, whole, is_replayed)]
        return {
            "train": [part for part in parts if part is not None],
            "val": _folder(resources, whole, lambda item: item.split == "val"),
        }

    return work.cycle.stage("layout", {"version": version["name"], "known": known_version}, layout)


def _counts(difference: DatasetDiff) -> dict[str, Any]:
    """What a reader of the cycle needs; the digests of every added image are in the version itself."""
    return {
        "before": difference.before,
        "after": difference.after,
        "splits": dict(difference.images_by_split),
        "classes": dict(difference.objects_by_class),
    }


_VERSION = re.compile(r"v(\d+)\.(\d+)\.(\d+)")


def next_version(names: list[str]) -> str:
    """The minor version after the newest: v1.0.0, then v1.1.0."""
    parsed = [tuple(map(int, found.groups())) for name in names if (found := _VERSION.fullmatch(name))]
    if not parsed:
        return "v1.0.0"
    major, minor, _ = max(parsed)
    return f"v{major}.{minor + 1}.0"


def _folder(
    resources: Resources, version: DatasetVersion, wanted: Callable[[DatasetItem], bool]
) -> str | None:
    if not any(wanted(item) for item in version.items):
        return None
    folder = materialise(version, resources.datasets, wanted, resources.home / "cache" / "materialised")
    return str(folder.relative_to(resources.home))


def _fraction(digest: str) -> float:
    """A number in [0, 1) that depends on the image alone, so that the same images are replayed every time."""
    return int(digest[:8], 16) / 2**32
