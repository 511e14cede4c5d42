"""Turns a cycle's labels into a dataset version and lays its images out for training."""

import difflib
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import astuple, fields
from functools import partial
from typing import Any

from prefect import get_run_logger, task

from retrain.annotation.review import StoredAnnotation
from retrain.data_collection.sample import DataSample
from retrain.data_collection.triggers.crossings import cycle_samples
from retrain.dataset.comparing.diff import DatasetDiff
from retrain.dataset.drafting.candidates import PackedImage
from retrain.dataset.drafting.draft import Draft
from retrain.dataset.measuring.coverage import camera_of
from retrain.dataset.reading.balance import sampling_weights
from retrain.dataset.reading.replay import ReplayRatios, Stratum, choose_replay
from retrain.dataset.reading.selection import count_selected, write_selection
from retrain.dataset.version import DatasetItem, DatasetVersion
from retrain.errors import BadInput, Conflict
from tasks.cycle import CycleWork
from tasks.dataset_review import publish_review
from tasks.resources import Resources
from tasks.retrying import RETRYING

_STRATUM = [field.name for field in fields(Stratum)]
"""Columns of what a layout records of its replay, one row per stratum."""


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
            "parent_version": resources.datasets.newest(),
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
        left_out = _add(work, draft, samples, labels)
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
        return {
            "name": version.name,
            "digest": version.digest,
            "diff": _counts(difference),
            "left_out": left_out,
            "review": publish_review(work, difference, left_out),
        }

    return work.cycle.stage("version", {"version": plan["version"], "parent": plan["parent_version"]}, build)


@task(name="lay out training images", timeout_seconds=3600, **RETRYING)
def lay_out(work: CycleWork, version: Mapping[str, Any], known_version: str | None) -> Mapping[str, Any]:
    """Lists for the trainer: the new training images, a replay of older ones, and the validation images.

    The trainer reads the images from the version's packs; none is copied.
    """

    def layout() -> dict[str, Any]:
        datasets, config = work.resources.datasets, work.resources.config
        whole = datasets.get_version(version["name"])
        known = datasets.get_version(known_version).by_image if known_version else {}
        train = whole.in_split("train")
        settings = config.training
        ratios = ReplayRatios(settings.replay_fraction, settings.replay_by_class, settings.replay_by_camera)
        chosen = choose_replay(train, known, whole.classes, ratios)
        _warn_of_unknown_cameras(ratios, train)
        new, replayed = chosen.new, chosen.replayed
        if not new and not replayed:
            raise BadInput(
                f"{whole.name} has no training image that {known_version} has not, and training.replay_fraction "
                f"{settings.replay_fraction:g} takes none of the others; raise it."
            )
        weights = _weights([*new, *replayed], whole) if config.dataset.balance_classes else None
        parts = [_select(work.resources, whole, part, weights) for part in (new, replayed) if part]
        val = _select(work.resources, whole, whole.in_split("val"), by_camera=True)
        # Read back, packs included, because nothing is looked at again before training has begun.
        counts = {place: count_selected(work.resources.home / place) for place in (*parts, val)}
        strata = [list(astuple(stratum)) for stratum in chosen.strata]
        return {"train": parts, "val": val, "images": counts, "replay": {"columns": _STRATUM, "rows": strata}}

    return work.cycle.stage("layout", {"version": version["name"], "known": known_version}, layout)


def _add(
    work: CycleWork, draft: Draft, samples: Sequence[DataSample], labels: Mapping[str, StoredAnnotation]
) -> dict[str, str]:
    """Add to a draft what can be added; sample id to reason for the others."""
    resources = work.resources
    report = resources.datasets.add_images(
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
    leaking = resources.datasets.leave_out_leaks(draft) if len(left_out) < len(samples) else {}
    return left_out | {image: f"would leak: {reason}" for image, reason in leaking.items()}


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


def _select(
    resources: Resources,
    version: DatasetVersion,
    items: Sequence[DatasetItem],
    weights: Mapping[str, float] | None = None,
    *,
    by_camera: bool = False,
) -> str:
    """A selection file, named by its content, as seen from the home folder."""
    pack_file = partial(resources.datasets.pack_file, version)
    drawn = None if weights is None else [weights[item.image] for item in items]
    target = resources.home / "cache" / "selections"
    place = write_selection(version, items, pack_file, target, drawn, by_camera=by_camera)
    return str(place.relative_to(resources.home))


def _weights(items: Sequence[DatasetItem], version: DatasetVersion) -> dict[str, float]:
    """How often to draw each image, for all that are trained on together: image digest to weight."""
    weights = sampling_weights(items, len(version.classes)).tolist()
    return {item.image: weight for item, weight in zip(items, weights, strict=True)}


def _warn_of_unknown_cameras(ratios: ReplayRatios, items: Sequence[DatasetItem]) -> None:
    # No error: a camera may be named before its first image is labelled.
    cameras = {camera for item in items if (camera := camera_of(item.metadata)) is not None}
    for name in sorted(ratios.by_camera.keys() - cameras):
        near = difflib.get_close_matches(name, cameras, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        get_run_logger().warning(
            "training.replay_by_camera names %r, of which there is no training image%s", name, hint
        )
