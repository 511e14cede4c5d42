"""Serves one model in this process and follows its route, without ever failing a request over a switch."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from retrain.boxes import Detections
from retrain.errors import BadInput, RetrainError, Unavailable
from retrain.serving.release import Release, ReleaseStore, read_release
from retrain.serving.route import RouteRecord, RouteStore

Image = NDArray[np.uint8]
logger = logging.getLogger(__name__)


class Predictor(Protocol):
    """What a release is loaded into; `retrain.detector.Detector` is one."""

    def predict(self, images: Sequence[Image], confidence: float) -> list[Detections]: ...


@dataclass(frozen=True)
class Served:
    """One answer and the release that gave it.

    Attributes:
        detections: all boxes, weak ones too: what collection is to be shown.
        accepted: those that reach the threshold of their class in this release: what an application goes by.
    """

    detections: Detections
    accepted: Detections
    digest: str
    revision: int
    latency_s: float


@dataclass(frozen=True)
class RouterHealth:
    """What the router serves, and what keeps it from following the route (None: nothing)."""

    digest: str | None
    version: tuple[int, int] | None
    problem: str | None


@dataclass(frozen=True)
class _Loaded:
    release: Release
    predictor: Predictor
    # Detection heads cache their anchors in the forward pass: two threads in one model disturb each other.
    lock: threading.Lock = field(default_factory=threading.Lock)

    def predict(self, image: Image, confidence: float) -> Detections:
        """Boxes from a confidence on, and from a lower one where a class is accepted from there."""
        floor = min([confidence, *self.release.thresholds.values()])
        with self.lock:
            return self.predictor.predict([image], confidence=floor)[0]


@dataclass(frozen=True)
class _Serving:
    """Swapped as one reference, so a request sees either the old pair or the new one."""

    loaded: _Loaded
    record: RouteRecord


class Router:
    """One serving replica of one model. `predict` may be called from any thread."""

    def __init__(
        self,
        model: str,
        routes: RouteStore,
        releases: ReleaseStore,
        load: Callable[[Path], Predictor],
        *,
        replica: str,
        poll_s: float = 1.0,
        confidence: float = 0.05,
        golden: Sequence[Image] = (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Prepare; nothing is loaded before `start`.

        Args:
            load: makes a predictor from a verified release folder.
            replica: unique name of this process in the acknowledgements.
            confidence: boxes below this score are not returned, unless a class of the release is accepted from there.
            golden: frames a release must answer before it serves; by default one grey frame of its own size.
        """
        self._model, self._routes, self._releases, self._load = model, routes, releases, load
        self._replica, self._poll_s, self._confidence = replica, poll_s, confidence
        self._golden, self._clock = tuple(golden), clock
        self._serving: _Serving | None = None
        self._problem: str | None = None
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Load the route's control, acknowledge it and begin to follow the route.

        Raises:
            NotFound: the model has no route or the release is gone.
            BadInput: the release is damaged or fails its warm-up.
        """
        if self._thread is not None:
            raise BadInput(f"Router {self._replica!r} is already running.")
        record = self._routes.get(self._model)
        self._serving = _Serving(self._loaded(record.control), record)
        self._routes.acknowledge(self._model, self._replica, record, record.control, self._clock())
        self._stopping.clear()
        self._thread = threading.Thread(target=self._run, name=f"router-{self._replica}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop following and tell the route store that this replica is gone."""
        if self._thread is None:
            return
        self._stopping.set()
        self._thread.join()
        self._thread = None
        try:
            self._routes.retire(self._model, self._replica)
        except RetrainError as error:
            logger.warning("Router %s stopped but could not say so: %s", self._replica, error)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def predict(self, image: Image) -> Served:
        """Boxes in one image, best first, with the release that found them.

        Raises:
            Unavailable: the router was never started.
        """
        started = time.perf_counter()
        serving = self._current()
        release = serving.loaded.release
        detections = serving.loaded.predict(image, self._confidence)
        accepted = release.accepted(detections)
        latency = time.perf_counter() - started
        return Served(detections, accepted, release.digest, serving.record.revision, latency)

    @property
    def served_digest(self) -> str:
        return self._current().loaded.release.digest

    @property
    def release(self) -> Release:
        """The release that answers now."""
        return self._current().loaded.release

    def health(self) -> RouterHealth:
        if (serving := self._serving) is None:
            return RouterHealth(None, None, "not started")
        return RouterHealth(serving.loaded.release.digest, serving.record.version, self._problem)

    def _current(self) -> _Serving:
        if (serving := self._serving) is None:
            raise Unavailable(f"Router {self._replica!r} has not been started; call start() first.")
        return serving

    def _run(self) -> None:
        while not self._stopping.wait(self._poll_s):
            try:
                self._follow()
            # Whatever goes wrong in following (store, download, loader), the old release goes on answering.
            except Exception as error:
                self._report(f"{type(error).__name__}: {error}")
            else:
                self._report(None)

    def _report(self, problem: str | None) -> None:
        """Log a change of `problem` once, not at every poll."""
        if problem is not None and problem != self._problem:
            logger.warning(
                "Router %s cannot follow the route and keeps serving %s: %s",
                self._replica,
                self.served_digest,
                problem,
            )
        if problem is None and self._problem is not None:
            logger.info("Router %s follows the route again.", self._replica)
        self._problem = problem

    def _follow(self) -> None:
        """One poll: catch up with a newer route, then acknowledge what is really served."""
        record = self._routes.get(self._model)
        try:
            self._catch_up(record)
        finally:
            serving = self._current()
            digest = serving.loaded.release.digest
            self._routes.acknowledge(self._model, self._replica, serving.record, digest, self._clock())

    def _catch_up(self, record: RouteRecord) -> None:
        serving = self._current()
        if record.version < serving.record.version:
            raise Unavailable(
                f"The store shows route {record.version}, older than the served {serving.record.version}: "
                "it lost writes and is not followed."
            )
        if record.version == serving.record.version:
            return
        same = record.control == serving.loaded.release.digest
        loaded = serving.loaded if same else self._loaded(record.control)
        self._serving = _Serving(loaded, record)
        logger.info("Router %s serves %s at %s.", self._replica, record.control, record.version)

    def _loaded(self, digest: str) -> _Loaded:
        release = read_release(self._releases.fetch(digest))
        loaded = _Loaded(release, self._load(release.folder))
        grey = np.full((release.imgsz, release.imgsz, 3), 114, dtype=np.uint8)
        for image in self._golden or (grey,):
            _check_answer(loaded, image, self._confidence)
        return loaded


def _check_answer(loaded: _Loaded, image: Image, confidence: float) -> None:
    digest = loaded.release.digest
    try:
        answer = loaded.predict(image, confidence)
        answer = Detections.of(answer.boxes, answer.classes, answer.scores)
    except RetrainError as error:
        raise BadInput(f"Release {digest} fails its warm-up: {error}") from error
    known, highest = len(loaded.release.classes), int(answer.classes.max(initial=-1))
    if highest >= known:
        raise BadInput(f"Release {digest} fails its warm-up: it answers class {highest} but has {known}.")
