"""What the demo takes from its simulated world: a first labelled dataset, and held-out truth to score against."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from prefect import task

from retrain.evaluation.comparator import Comparison, compare
from retrain.evaluation.evaluation import Evaluation
from retrain.evaluation.run import EvaluationItem, evaluate
from retrain.evaluation.served_confidence import plain
from retrain.serving.release import read_release
from retrain.simulation.traffic import FLEET, Camera, Frame, TrafficSimulator
from tasks.production import encode
from tasks.resources import Resources
from tasks.retrying import RETRYING

_HELDOUT_SEED_OFFSET = 7_919
_DRIFT_START = 1_000_000
"""Index from which the held-out world is drifted; far from every clean index."""


@task(name="make first dataset version", timeout_seconds=600, **RETRYING)
def make_first_version(resources: Resources) -> Mapping[str, Any]:
    """Clean frames of every camera with their true labels, committed and tagged as v1.0.0."""
    datasets, config = resources.datasets, resources.config
    frames = list(_history(resources.traffic, config.simulation.train_frames))
    draft = datasets.create_version(
        "v1.0.0",
        "clean frames of every camera",
        splits=config.dataset.splits.model_dump(),
        classes=config.model.classes,
    )
    datasets.add_images(
        draft,
        [encode(frame.image) for frame in frames],
        [frame.annotations for frame in frames],
        groups=[frame.recording for frame in frames],
        sources=["seed"] * len(frames),
        metadata=[{"camera": frame.camera} for frame in frames],
    )
    version = datasets.commit("v1.0.0")
    return {"name": version.name, "digest": version.digest, "images": len(version.items)}


@task(name="score on held-out truth", timeout_seconds=1800, **RETRYING)
def score_heldout(resources: Resources, before: str, after: str) -> dict[str, dict[str, Comparison]]:
    """Two releases on frames neither has seen, written with digits neither has seen, with exact truth.

    Returns:
        For each condition (clean, drifted, blinding), the comparison per metric.
    """
    evaluations = {digest: _evaluate_release(resources, digest) for digest in (before, after)}
    settings = resources.config.evaluation
    return {
        condition: {
            metric: compare(
                evaluations[before][condition],
                evaluations[after][condition],
                metric,
                resamples=settings.resamples,
                level=settings.level,
            )
            for metric in ("map50", "map50_95")
        }
        for condition in evaluations[before]
    }


def heldout_frames(resources: Resources) -> dict[str, list[Frame]]:
    """Frames per condition: clean (every camera before drift), drifted (moderate drift), blinding."""
    config = resources.config
    world = TrafficSimulator(
        FLEET,
        seed=config.simulation.seed + _HELDOUT_SEED_OFFSET,
        split="test",
        drift_from=_DRIFT_START,
        size=config.training.image_size,
        frames_per_recording=4,
    )
    count = config.simulation.heldout_frames
    kinds = {
        kind: [camera for camera in FLEET if camera.drift.kind == kind] for kind in ("moderate", "blinding")
    }
    return {
        "clean": list(_spread(world, FLEET, 0, count)),
        "drifted": list(_spread(world, kinds["moderate"], _DRIFT_START, count)),
        "blinding": list(_spread(world, kinds["blinding"], _DRIFT_START, count // 2)),
    }


def _evaluate_release(resources: Resources, digest: str) -> dict[str, Evaluation]:
    from retrain.detector import Detector

    folder = resources.releases.fetch(digest)
    detector = Detector.load(folder)
    return {
        condition: evaluate(
            detector.predict,
            [_item(frame) for frame in frames],
            resources.config.model.classes,
            confidence=plain(read_release(folder).thresholds),
        )
        for condition, frames in heldout_frames(resources).items()
    }


def _item(frame: Frame) -> EvaluationItem:
    return EvaluationItem(
        f"{frame.camera}-{frame.index}", frame.recording, lambda: frame.image, frame.annotations
    )


def _history(traffic: TrafficSimulator, count: int) -> Iterator[Frame]:
    yield from _spread(traffic, list(traffic.cameras.values()), 0, count)


def _spread(world: TrafficSimulator, cameras: Sequence[Camera], start: int, count: int) -> Iterator[Frame]:
    """`count` frames, equally many of every camera."""
    for position in range(count):
        yield world.frame(cameras[position % len(cameras)].id, start + position // len(cameras))
