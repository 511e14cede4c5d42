"""Cameras that look at handwritten digits, and their traffic: the production we can run on a laptop."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from retrain.boxes import Annotations
from retrain.errors import BadInput, NotFound
from retrain.simulation.backgrounds import CameraStyle, render_background
from retrain.simulation.drift import Drift
from retrain.simulation.scenes import DigitPool, Split, render_scene
from retrain.simulation.stable_random import stable_rng


@dataclass(frozen=True)
class Camera:
    """One source of frames: a name, its look, and how it drifts once drift starts."""

    id: str
    style: CameraStyle = field(default_factory=CameraStyle)
    drift: Drift = field(default_factory=Drift)


@dataclass(frozen=True)
class Frame:
    """One picture from one camera, with the truth that only the simulation knows.

    Attributes:
        recording: group key; frames of one recording share their background and must share a split.
        captured_at: seconds since the epoch.
        annotations: the true boxes.
        drifted: whether the camera's drift was in force.
    """

    camera: str
    index: int
    recording: str
    captured_at: float
    image: NDArray[np.uint8]
    annotations: Annotations
    drifted: bool


MODERATE = 0.9
"""Strength at which a champion of the demo loses 0.2 to 0.5 mAP50 but still sees something to be unsure about."""

FLEET = (
    Camera("dock-a", CameraStyle()),
    Camera("dock-b", CameraStyle(paper=(214, 224, 232), pattern="ruled", shading=56)),
    Camera(
        "gate-n", CameraStyle(paper=(240, 236, 200), pattern="grid", grain=8), Drift("moderate", MODERATE)
    ),
    Camera("gate-s", CameraStyle(paper=(206, 214, 200), shading=72, strokes=5), Drift("moderate", MODERATE)),
    Camera(
        "hall-1", CameraStyle(paper=(236, 214, 204), pattern="ruled", grain=9), Drift("moderate", MODERATE)
    ),
    Camera("hall-2", CameraStyle(paper=(222, 220, 226), grain=7, strokes=4), Drift("blinding")),
)
"""Two cameras that stay as they are, three that drift moderately, one that goes blind."""


class TrafficSimulator:
    """Frames of a fleet, each a pure function of (seed, split, camera, index)."""

    def __init__(
        self,
        cameras: Sequence[Camera] = FLEET,
        seed: int = 0,
        split: Split = "train",
        drift_from: int | None = None,
        *,
        size: int = 160,
        frames_per_recording: int = 10,
        started_at: float = 1_750_000_000.0,
        interval_s: float = 1.0,
    ) -> None:
        """Prepare the fleet.

        Args:
            cameras: each with an id of its own.
            seed: another seed gives other pages, digits and noise.
            split: which digits are written; production is `train`, held-out evaluation `test`.
            drift_from: first frame index with drift, on every camera that has one; None means never.
            size: side of the pictures, 160 to 320.
            frames_per_recording: frames that share one background and one group key.
            started_at: capture time of index 0.
            interval_s: time between two frames of one camera.
        """
        self.cameras = {camera.id: camera for camera in cameras}
        if len(self.cameras) != len(cameras):
            raise BadInput(f"Camera ids must differ, got {[camera.id for camera in cameras]}.")
        if frames_per_recording < 1:
            raise BadInput(f"frames_per_recording must be at least 1, got {frames_per_recording}.")
        self.seed = seed
        self.split = split
        self.drift_from = drift_from
        self._pool = DigitPool(split)
        self._size = size
        self._per_recording = frames_per_recording
        self._started_at = started_at
        self._interval_s = interval_s

    def frame(self, camera_id: str, index: int) -> Frame:
        """Frame `index` of a camera; asking twice gives the same bytes.

        Raises:
            NotFound: no such camera.
            BadInput: a negative index.
        """
        if camera_id not in self.cameras:
            raise NotFound(f"No camera {camera_id!r}. There are: {', '.join(self.cameras)}.")
        if index < 0:
            raise BadInput(f"A frame's index must be 0 or more, got {index}.")
        camera, recording = self.cameras[camera_id], index // self._per_recording
        page = render_background(
            stable_rng("page", self.seed, self.split, camera_id, recording), camera.style, self._size
        )
        rng = stable_rng("frame", self.seed, self.split, camera_id, index)
        scene = render_scene(rng, self._pool, self._size, style=camera.style, background=page)
        drifted = self.is_drifted(camera_id, index)
        return Frame(
            camera=camera_id,
            index=index,
            recording=f"{camera_id}-{recording:04d}",
            captured_at=self._started_at + index * self._interval_s,
            image=camera.drift.apply(rng, scene.image) if drifted else scene.image,
            annotations=scene.annotations,
            drifted=drifted,
        )

    def is_drifted(self, camera_id: str, index: int) -> bool:
        """Whether that camera's drift is in force at that frame."""
        has_drift = self.cameras[camera_id].drift.kind != "none"
        return has_drift and self.drift_from is not None and index >= self.drift_from
