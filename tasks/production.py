"""The demo's production process: cameras send frames, a router answers them, unsure ones are collected."""

import io
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from retrain.boxes import Detections, iou_matrix
from retrain.serving.router import Router
from retrain.simulation.traffic import Frame
from tasks.resources import PRODUCTION_START, Resources

_SAME_OBJECT_IOU = 0.5


@dataclass(frozen=True)
class Observation:
    """One answered frame, judged by the simulator's truth (which production itself does not have).

    Attributes:
        f1: of the boxes that its release accepts, at IoU 0.5.
    """

    camera: str
    index: int
    drifted: bool
    digest: str
    taken: bool
    f1: float
    at: float


@dataclass
class Production:
    """Serves simulated traffic with one router; `observations` holds every answered frame in order."""

    resources: Resources
    observations: list[Observation] = field(default_factory=list)

    def __enter__(self) -> Self:
        from retrain.detector import Detector

        resources, settings = self.resources, self.resources.config
        self._lock = threading.Lock()
        self._index = PRODUCTION_START
        self.router = Router(
            resources.model,
            resources.routes,
            resources.releases,
            Detector.load,
            replica="demo-router",
            poll_s=settings.serving.poll_s,
        )
        self.router.start()
        self.collector = resources.collection_service(seed=settings.simulation.seed)
        return self

    def __exit__(self, *_: object) -> None:
        self.router.stop()
        self.collector.close()

    @property
    def frames_per_camera(self) -> int:
        return self._index - PRODUCTION_START

    def serve_round(self, *, collect: bool = True) -> None:
        """Answer the next frame of every camera."""
        with self._lock:
            index, self._index = self._index, self._index + 1
        for camera in self.resources.traffic.cameras:
            self.observations.append(
                self._serve(self.resources.traffic.frame(camera, index), collect=collect)
            )
        if collect:
            # What counts towards the threshold is what is stored.
            self.collector.flush()

    def keep_serving(self, seconds_per_round: float) -> "BackgroundTraffic":
        """Go on at a slow, steady rate while something else is waited for."""
        return BackgroundTraffic(self, seconds_per_round)

    def _serve(self, frame: Frame, *, collect: bool) -> Observation:
        answer = self.router.predict(frame.image)
        taken = False
        if collect:
            metadata = {
                "camera_id": frame.camera,
                "recording": frame.recording,
                "captured_at": frame.captured_at,
                "frame_index": frame.index,
                "width": frame.image.shape[1],
                "height": frame.image.shape[0],
            }
            image, boxes = encode(frame.image), answer.detections
            decision = self.collector.collect(
                image=image, prediction=boxes, metadata=metadata, release=answer.digest
            )
            taken = decision.taken
        return Observation(
            frame.camera,
            frame.index,
            frame.drifted,
            answer.digest,
            taken,
            _f1(frame, answer.accepted),
            time.time(),
        )


class BackgroundTraffic:
    """A thread that serves rounds until the block ends; an error in it is raised at the end of the block."""

    def __init__(self, production: Production, seconds_per_round: float) -> None:
        self._production, self._pause = production, seconds_per_round
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="traffic", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._error is not None and kind is None:
            raise self._error

    def _run(self) -> None:
        while not self._stop.wait(self._pause):
            try:
                self._production.serve_round()
            # Any failure of production must end the demo, and threads cannot raise into their starter.
            except BaseException as error:
                self._error = error
                return


def encode(image: NDArray[np.uint8]) -> bytes:
    """Lossless PNG bytes of an RGB array."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def rolling(observations: list[Observation], camera: str, window: int) -> Iterator[tuple[int, float]]:
    """Frame index and mean F1 of the last `window` frames of a camera."""
    mine = [one for one in observations if one.camera == camera]
    for end in range(window, len(mine) + 1):
        yield mine[end - 1].index, float(np.mean([one.f1 for one in mine[end - window : end]]))


def _f1(frame: Frame, shown: Detections) -> float:
    truth = frame.annotations
    overlap = iou_matrix(shown.boxes, truth.boxes)
    overlap[shown.classes[:, None] != truth.classes[None, :]] = 0.0
    found = 0
    for row in range(len(shown)):
        if len(truth) and overlap[row].max() >= _SAME_OBJECT_IOU:
            overlap[:, int(overlap[row].argmax())] = 0.0
            found += 1
    total = len(shown) + len(truth)
    return 1.0 if total == 0 else 2 * found / total
