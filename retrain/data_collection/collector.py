"""Keeps the production frames a strategy takes: image and index row, durable before `collect` returns."""

import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from sqlalchemy import Connection, insert, select

from retrain.boxes import Detections
from retrain.data_collection.prediction import Prediction, read_prediction
from retrain.data_collection.sample import DataSample, checked_size, image_key
from retrain.data_collection.strategies import (
    NO_BOXES,
    CollectionStrategy,
    Decision,
    FrameConfidence,
    checked_confidence,
    frame_confidence,
    make_strategy,
)
from retrain.errors import BadInput, StorageFull
from retrain.storage.blobs import BlobStore, LocalBlobs, open_blobs
from retrain.storage.digests import content_digest
from retrain.storage.schema import samples
from retrain.storage.state import StateStore, open_state

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CollectionStats:
    """What happened to every frame offered since the service started; the parts add up to `offered`."""

    offered: int
    stored: int
    skipped: Mapping[str, int]
    """Not taken: "no boxes" or "strategy"."""
    duplicates: int
    rejected: int
    """Unusable image, prediction, confidence or metadata."""
    lost: Mapping[str, int]
    """Taken but not stored, by cause: "full" or "error"."""


@dataclass(frozen=True)
class _Offer:
    image: bytes
    prediction: Prediction | None
    confidence: float | None
    metadata: Mapping[str, Any]
    release: str


class DataCollectionService:
    """Offers every frame to a strategy and stores those taken, each image exactly once.

    Safe to call from several threads and processes on one storage.
    """

    def __init__(
        self,
        storage_path: str | Path,
        collection_strategy: CollectionStrategy = "uncertainty",
        confidence_threshold: float = 0.7,
        sample_rate: float = 0.1,
        s3_bucket: str | None = None,
        *,
        blobs: BlobStore | None = None,
        state: StateStore | None = None,
        model: str = "detector",
        release: str = "",
        classes: Sequence[str] = (),
        confidence_rule: FrameConfidence = "minimum",
        boundary: tuple[float, float] = (0.4, 0.6),
        seed: int = 0,
        on_error: Literal["count", "raise"] = "count",
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Open the storage.

        Args:
            storage_path: folder of images and index, unless `s3_bucket`, `blobs` or `state` replace them.
            release: digest of the release that predicts, when `collect` is not told.
            classes: class names in index order, to read predictions that name their class.
            on_error: "count" never raises into the inference loop; "raise" shows every failure.

        Raises:
            ConfigError: unknown strategy or a parameter out of range.
        """
        self._strategy_name = collection_strategy
        self._strategy = make_strategy(
            collection_strategy,
            confidence_threshold=confidence_threshold,
            sample_rate=sample_rate,
            boundary_low=boundary[0],
            boundary_high=boundary[1],
            seed=seed,
        )
        folder = Path(storage_path)
        self._folder = folder
        if blobs is None:
            blobs = open_blobs(f"s3://{s3_bucket}") if s3_bucket else LocalBlobs(folder / "blobs")
        self._blobs = blobs
        self._owns_state = state is None
        self._state = state or open_state(f"sqlite:///{folder.absolute() / 'index.sqlite'}")
        self._model, self._release, self._classes = model, release, tuple(classes)
        self._rule, self._on_error, self._clock = confidence_rule, on_error, clock
        self._counts: Counter[str] = Counter()
        self._warned: set[str] = set()
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the index if this service opened it. Nothing waits in memory."""
        if self._owns_state:
            self._state.close()

    def collect(
        self,
        image_path: str | Path | None = None,
        prediction: Prediction | None = None,
        confidence: float | None = None,
        metadata: Mapping[str, Any] | None = None,
        *,
        image: bytes | None = None,
        release: str | None = None,
    ) -> Decision:
        """Store the frame if the strategy takes it; when this returns `taken`, it survives a kill.

        Args:
            image_path: the encoded image in a file; or give its bytes as `image`.
            prediction: boxes in pixels. A mapping has `class`, `bbox` (x1, y1, x2, y2) and perhaps `score`.
            confidence: the frame's confidence; by default computed from the prediction.
            metadata: JSON values. `camera_id`, `recording` (default: the camera) and `captured_at` (default:
                now) become columns.

        Returns:
            Not taken with reason "duplicate", "rejected: …" or "lost: …" where storing was not possible.
        """
        self._count("offered")
        try:
            data = _image_bytes(image_path, image)
            by = self._release if release is None else release
            decision = self._collect(_Offer(data, prediction, confidence, metadata or {}, by))
        # By default collection never stops the inference it runs in; each failure is counted and logged.
        except Exception as error:
            decision = self._failed(error)
            if self._on_error == "raise":
                raise
        return decision

    def stats(self) -> CollectionStats:
        with self._lock:
            counts = Counter(self._counts)
        return CollectionStats(
            offered=counts["offered"],
            stored=counts["stored"],
            skipped={NO_BOXES: counts[NO_BOXES], "strategy": counts["strategy"]},
            duplicates=counts["duplicate"],
            rejected=counts["rejected"],
            lost={"full": counts["full"], "error": counts["error"]},
        )

    def _collect(self, offer: _Offer) -> Decision:
        detections = read_prediction(offer.prediction, checked_confidence(offer.confidence), self._classes)
        confidence = offer.confidence
        if confidence is None:
            confidence = frame_confidence(detections, self._rule)
        digest = content_digest(offer.image)
        decision = self._strategy(confidence, digest)
        if not decision.taken:
            self._count(NO_BOXES if decision.reason == NO_BOXES else "strategy")
            return decision
        sample = self._sample(offer, digest, detections, confidence, decision)
        if not self._store(sample, offer.image):
            self._count("duplicate")
            return Decision(False, "duplicate", decision.inclusion_probability)
        self._count("stored")
        with self._lock:
            self._warned.clear()
        return decision

    def _sample(
        self, offer: _Offer, digest: str, detections: Detections, confidence: float | None, decision: Decision
    ) -> DataSample:
        width, height = checked_size(offer.image)
        camera = str(offer.metadata.get("camera_id", "unknown"))
        try:
            metadata = json.loads(json.dumps(dict(offer.metadata), allow_nan=False))
            captured_at = float(offer.metadata.get("captured_at", self._clock()))
        except (TypeError, ValueError) as error:
            raise BadInput(f"Metadata must hold JSON values only: {error}.") from error
        return DataSample(
            id=digest,
            model=self._model,
            camera=camera,
            recording=str(offer.metadata.get("recording", camera)),
            captured_at=captured_at,
            strategy=self._strategy_name,
            inclusion_probability=decision.inclusion_probability,
            confidence=confidence,
            release=offer.release,
            image_key=image_key(digest),
            width=width,
            height=height,
            prediction=detections,
            metadata=metadata,
        )

    def _store(self, sample: DataSample, data: bytes) -> bool:
        """Image first, index row second: a row never points to nothing.

        A kill in between leaves an image without a row, which the next offer of the same image completes.
        """
        with self._state.read() as connection:
            if _is_indexed(connection, sample.id):
                return False
        self._blobs.put(sample.image_key, data)
        with self._state.write() as connection:
            # Another thread or process may have stored the same image since.
            if _is_indexed(connection, sample.id):
                return False
            connection.execute(insert(samples).values(**sample.to_row(self._clock())))
        return True

    def _failed(self, error: Exception) -> Decision:
        if isinstance(error, BadInput):
            self._count("rejected")
            logger.debug("Frame rejected: %s", error)
            return Decision(False, f"rejected: {error}", 0.0)
        cause = "full" if isinstance(error, StorageFull) else "error"
        self._count(cause)
        with self._lock:
            first = cause not in self._warned
            self._warned.add(cause)
        if first:
            logger.warning(
                "Frames for %s are being lost (%s); said once until one is stored again: %s",
                self._folder,
                cause,
                error,
                exc_info=None if cause == "full" else error,
            )
        return Decision(False, f"lost: {error}", 0.0)

    def _count(self, name: str) -> None:
        with self._lock:
            self._counts[name] += 1


def _image_bytes(path: str | Path | None, image: bytes | None) -> bytes:
    if (path is None) == (image is None):
        raise BadInput("Give either image_path or image.")
    if image is not None:
        return image
    assert path is not None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise BadInput(f"The image {path} cannot be read: {error.strerror}.") from error


def _is_indexed(connection: Connection, digest: str) -> bool:
    return connection.execute(select(samples.c.id).where(samples.c.id == digest)).one_or_none() is not None
