"""What the settings of data collection change: which frames are kept, which repeat another, what crosses a threshold.

Each probe runs the same story under the configuration it is given; see `test_every_key_matters`.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from prefect.logging import disable_run_logger
from sqlalchemy import select

from retrain.boxes import Detections
from retrain.data_collection.triggers.crossings import record_crossing
from retrain.errors import Unavailable
from retrain.storage.schema import draws
from tasks.data_collection import trigger_policy
from tasks.resources import Resources
from tasks.retention import delete_expired
from tests.unit.data_collection.pictures import changed, jpeg, mirrored, picture
from tests.unit.data_collection.stored_rows import answer, store_many

Probe = Callable[[Resources, pytest.MonkeyPatch], Any]


@dataclass(frozen=True)
class Case:
    """Another value than the default, what shows the difference, and what else is set to be able to see it."""

    other: Any
    probe: Probe
    both: Mapping[str, Any] = field(default_factory=dict)
    """Set on both sides."""
    beside: Mapping[str, Any] = field(default_factory=dict)
    """Set with the other value, where one key cannot change alone."""


def decisions(resources: Resources, patch: pytest.MonkeyPatch) -> Any:
    """Whether each of many frames is taken, and how likely that was."""
    frames = [*of_all_scores(), *of_two_boxes(), *empty(), *read_twice(), *moving()]
    # The reasons name the configured numbers, which alone would prove nothing.
    with resources.collection_service(seed=0, background=False) as service:
        return [service.collect(image=b"any", **frame)[::2] for frame in frames]


def of_all_scores() -> Iterator[Mapping[str, Any]]:
    for number in range(60):
        yield {"prediction": boxes(((50, 50), number % 20 / 20, number // 20))}


def of_two_boxes() -> Iterator[Mapping[str, Any]]:
    for low, high in ((0.3, 0.5), (0.45, 0.55), (0.5, 0.9)):
        yield {"prediction": boxes(((50, 50), high), ((200, 50), low))}


def empty() -> Iterator[Mapping[str, Any]]:
    yield from ({"prediction": Detections.empty()} for _ in range(20))


def read_twice() -> Iterator[Mapping[str, Any]]:
    """Frames read once more, mirrored or by another model: a little beside the first time, or with a box more."""
    first = ((50, 50), 0.9)
    again = [boxes(((50 + shift, 50), 0.9)) for shift in range(0, 50, 5)]
    again += [boxes(first, ((200, 50), score)) for score in (0.1, 0.3, 0.6)]
    for second in again:
        yield {"prediction": boxes(first), "flipped": second}
        yield {"prediction": boxes(first), "shadow": second}


def moving() -> Iterator[Mapping[str, Any]]:
    """One object in each recording of a camera, lost at its end."""
    still, fast = [(300, 200)] * 4, [(100 + 17 * step, 200) for step in range(6)]
    yield from recording("lost in the middle", still)
    yield from recording("lost near the edge", [(30, 200)] * 4)
    yield from recording("lost while it moved fast", fast)
    yield from recording("lost after a pause", still, pause_s=3.0)
    yield from recording("faint", still, score=0.4)
    cameras = [recording(f"at the same time {number}", still) for number in range(3)]
    for frames in zip(*cameras, strict=True):
        yield from frames


def recording(
    camera: str, places: Iterable[tuple[float, float]], *, pause_s: float = 1.0, score: float = 0.9
) -> Iterator[Mapping[str, Any]]:
    """A frame every second with the object at one of the places, and one without it `pause_s` later."""
    seen = [boxes((place, score)) for place in places]
    for second, prediction in enumerate(seen):
        yield {"prediction": prediction, "metadata": seen_by(camera, 1000.0 + second)}
    yield {"prediction": Detections.empty(), "metadata": seen_by(camera, 999.0 + len(seen) + pause_s)}


def seen_by(camera: str, at: float) -> Mapping[str, Any]:
    return {"camera_id": camera, "captured_at": at, "width": 640, "height": 480}


def boxes(*found: tuple[Any, ...]) -> Detections:
    """A box of 40 x 40 pixels for each (left and upper edge, score[, class])."""
    corners = [[x, y, x + 40, y + 40] for (x, y), *_ in found]
    classes = [label[0] if label else 0 for _, _, *label in found]
    return Detections.of(corners, classes, [score for _, score, *_ in found])


def repeats(resources: Resources, patch: pytest.MonkeyPatch) -> Any:
    """What became of pictures that repeat others in one way or another, and which sample they were said to repeat."""
    offers = [("east", jpeg(picture(number))) for number in range(4)]
    offers += [
        ("east", jpeg(picture(0), 30)),  # blocks change a bit of the hash
        ("east", jpeg(mirrored(picture(1)), 60)),
        ("east", jpeg(changed(picture(2)), 60)),
        ("west", jpeg(picture(3), 60)),
        ("east", jpeg(picture(2), 60)),  # to its hash the changed one is as near, and newer
    ]
    with resources.collection_service(seed=0, background=False) as service:
        for number, (camera, image) in enumerate(offers):
            metadata = {"camera_id": camera, "captured_at": float(number)}
            service.collect(image=image, confidence=0.1, metadata=metadata)
        service.flush()
    query = select(draws.c.outcome, draws.c.sample_id).order_by(draws.c.captured_at)
    with resources.state.read() as connection:
        return [tuple(row) for row in connection.execute(query)]


AFTERNOON = 1_750_000_000.0
"""2025-06-15 15:06:40 UTC."""


def crossings(resources: Resources, patch: pytest.MonkeyPatch) -> Any:
    """Whose threshold crossed at each of four looks.

    Between them samples of two cameras arrive, and every crossing is answered by a cycle that gives up before it
    selected any.
    """
    state, model, classes = resources.state, resources.model, resources.config.model.classes
    policy = trigger_policy(resources.config)
    arriving: Sequence[Mapping[str, Any]] = (
        {"count": 6, "camera": "east", "classes": [0]},
        {"count": 6, "camera": "west"},
        {"count": 0},
        {"count": 5, "camera": "west"},
    )
    crossed = []
    for number, samples in enumerate(arriving):
        look = AFTERNOON + 20 * number
        if samples["count"]:
            store_many(state, first=100 * number, at=look - 10, model=model, **samples)
        crossing = record_crossing(state, model, policy, look, classes)
        if crossing is not None:
            answer(state, crossing.id, model=model, at=look + 5, status="abandoned")
        crossed.append(crossing and (crossing.scope, crossing.count))
    return crossed


def strategy(name: str, **settings: Any) -> Mapping[str, Any]:
    """The strategy and what it needs."""
    return {
        "model.classes": ["a", "b", "c"],
        "data_collection.strategy": name,
        **{f"data_collection.settings.{key}": value for key, value in settings.items()},
    }


TEN = {"data_collection.retrain_threshold": 10}
FROZEN = {**TEN, "data_collection.trigger.freeze": ["2025-06-15T15:00/2025-06-15T15:07:10"]}


def handed_on(resources: Resources, patch: pytest.MonkeyPatch) -> Any:
    """Whether a frame is stored from here, or waits for a Redis that is not there."""
    with resources.collection_service(background=False) as service:
        service.collect(image=jpeg(picture(1)), confidence=0.1)
        try:
            service.flush()
        except Unavailable as error:
            return str(error)[:20]
        return "stored"


def kept(resources: Resources, patch: pytest.MonkeyPatch) -> Any:
    """Which of two samples, one of them old, retention leaves."""
    with resources.collection_service(background=False) as service:
        for number, age in ((1, 0.0), (2, 10 * 86_400.0)):
            details = {"camera_id": "east", "captured_at": time.time() - age}
            service.collect(image=jpeg(picture(number)), confidence=0.1, metadata=details)
        service.flush()
    with disable_run_logger():
        return delete_expired.fn(resources)


COLLECTION_CASES: dict[str, Case] = {
    "data_collection.retention.max_age_days": Case(5.0, kept),
    "data_collection.retention.max_bytes": Case(1, kept),
    "data_collection.redis_url": Case("redis://127.0.0.1:1/0", handed_on),
    "data_collection.settings.boundary_low": Case(0.3, decisions, strategy("boundary")),
    "data_collection.settings.boundary_high": Case(0.7, decisions, strategy("boundary")),
    "data_collection.settings.band_low": Case(0.3, decisions, strategy("band")),
    "data_collection.settings.band_high": Case(0.7, decisions, strategy("band")),
    "data_collection.settings.band_boxes": Case(2, decisions, strategy("band")),
    "data_collection.settings.class_thresholds": Case(
        {"a": 0.5, "b": 0.8}, decisions, strategy("per_class", class_thresholds={"a": 0.5})
    ),
    "data_collection.settings.targets": Case(
        {"a": 0.5, "b": 0.5}, decisions, strategy("rare_class", targets={"a": 0.5})
    ),
    "data_collection.settings.weights": Case(
        {"boundary": 0.5, "no_detections": 1.0}, decisions, strategy("combined", weights={"boundary": 1.0})
    ),
    "data_collection.settings.no_detections_rate": Case(0.5, decisions, strategy("no_detections")),
    "data_collection.settings.match_iou": Case(0.8, decisions, strategy("flip_disagreement")),
    "data_collection.settings.score_floor": Case(0.5, decisions, strategy("shadow_disagreement")),
    "data_collection.settings.track_frames": Case(5, decisions, strategy("track_gap")),
    "data_collection.settings.track_iou": Case(0.6, decisions, strategy("track_gap")),
    "data_collection.settings.track_border": Case(0.1, decisions, strategy("track_gap")),
    "data_collection.settings.track_pause_s": Case(2.0, decisions, strategy("track_gap")),
    "data_collection.settings.max_cameras": Case(2, decisions, strategy("track_gap")),
    "data_collection.near_duplicates.enabled": Case(False, repeats),
    "data_collection.near_duplicates.max_distance": Case(0, repeats),
    "data_collection.near_duplicates.max_difference": Case(50.0, repeats),
    "data_collection.near_duplicates.mirrored": Case(False, repeats),
    "data_collection.near_duplicates.max_candidates": Case(1, repeats),
    "data_collection.near_duplicates.scope": Case("global", repeats),
    "data_collection.near_duplicates.capacity": Case(2, repeats),
    "data_collection.trigger.class_thresholds": Case({"object": 3}, crossings, TEN),
    "data_collection.trigger.camera_thresholds": Case({"east": 3}, crossings, TEN),
    "data_collection.trigger.rearm_fraction": Case(1.0, crossings, TEN),
    "data_collection.trigger.cooldown_s": Case(1000.0, crossings, TEN),
    "data_collection.trigger.min_interval_s": Case(1000.0, crossings, TEN),
    "data_collection.trigger.freeze": Case(["Sun 15:00 - Sun 16:00"], crossings, TEN),
    "data_collection.trigger.timezone": Case("Asia/Tokyo", crossings, FROZEN),
}
