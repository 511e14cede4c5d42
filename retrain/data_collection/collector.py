"""Keeps the production frames that are worth it: handed over durably in microseconds, everything slow elsewhere."""

import logging
import os
import random
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

from sqlalchemy import URL

from retrain.data_collection.background import BackgroundDrainer, SpoolDrainer
from retrain.data_collection.checks import check_fraction
from retrain.data_collection.frame import Frame, FrameConfidence
from retrain.data_collection.frame_reader import FrameReader
from retrain.data_collection.hand_over import HandOver, Image
from retrain.data_collection.likeness import LikenessIndex, Scope
from retrain.data_collection.metadata import (
    UNKNOWN_CAMERA,
    camera_of,
    check_model,
    check_names,
    check_release,
)
from retrain.data_collection.queue import DataCollectionQueue, SpoolLimits
from retrain.data_collection.quota import Quota
from retrain.data_collection.redaction import Redact
from retrain.data_collection.spool.offer import ChannelOrder, Offer, plain_prediction
from retrain.data_collection.statistics.counters import DROPPED_OLDEST, Counts, OutcomeCounters
from retrain.data_collection.statistics.records import shown_classes
from retrain.data_collection.store.drainer import Drainer
from retrain.data_collection.store.intake import Intake
from retrain.data_collection.store.samples import SampleStore, owner_of
from retrain.data_collection.strategies.balance import ClassCounts
from retrain.data_collection.strategies.names import CollectionStrategy
from retrain.data_collection.strategies.rules import make_strategy
from retrain.duplicates.near_duplicates import NearDuplicateRule
from retrain.errors import BadInput, ConfigError, StorageFull
from retrain.storage.blobs import BlobStore
from retrain.storage.local_blobs import LocalBlobs
from retrain.storage.open_blobs import open_blobs
from retrain.storage.state import StateStore, open_state

if TYPE_CHECKING:
    from retrain.data_collection.redis_backend.forwarder import StreamForwarder

logger = logging.getLogger(__name__)

AUDIT = "audit"
"""Name of the arm that draws a fixed random share, whatever the strategy wants."""
TAKEN, REJECTED = "taken", "rejected"
"""Outcomes in the counters, beside the reasons of skipped frames and "dropped: …"."""
_ON_ONE_NUMBER = {"uncertainty", "random", "boundary", "all"}
_MOST_KINDS = 500


class Decision(NamedTuple):
    """Taken or not, why, and with what probability a frame like this is taken."""

    taken: bool
    reason: str
    inclusion_probability: float


class DataCollectionService:
    """Offers every frame to a strategy and keeps those taken, each image exactly once.

    When `collect` returns `taken`, the frame is in the spool on local disk and survives a kill of the process. A
    background thread checks, packs and indexes it. Safe for threads, forked children and several processes on one
    storage.
    """

    def __init__(
        self,
        storage_path: str | Path,
        collection_strategy: CollectionStrategy = "uncertainty",
        confidence_threshold: float = 0.7,
        sample_rate: float = 0.1,
        redis_url: str | None = None,
        s3_bucket: str | None = None,
        *,
        audit_rate: float = 0.01,
        settings: Mapping[str, Any] | None = None,
        quota: Quota | None = None,
        near_duplicates: NearDuplicateRule | None = NearDuplicateRule(),  # noqa: B008 - frozen
        likeness_scope: Scope = "camera",
        likeness_capacity: int = 100_000,
        blobs: BlobStore | None = None,
        state: StateStore | None = None,
        model: str = "detector",
        release: str = "",
        classes: Sequence[str] = (),
        confidence_rule: FrameConfidence = "minimum",
        limits: SpoolLimits = SpoolLimits(),  # noqa: B008 - frozen
        background: bool = True,
        flush_s: float = 5.0,
        redact: Redact | None = None,
        seed: int | None = None,
        on_error: Literal["count", "raise"] = "count",
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Open the storage.

        Args:
            storage_path: folder of spool, images and index; `s3_bucket`, `blobs` and `state` replace the last two.
            redis_url: of the Redis that frames are sent to from the spool, for `retrain collect drain` to store where
                its own configuration says; then `flush` and `close` mean sent, not stored, and a `s3_bucket` given here
                is only named in a warning.
            audit_rate: share of all frames that is kept whatever the strategy says; what unbiased estimates rest on.
            settings: further settings of the strategy, see `make_strategy`.
            near_duplicates: when a picture repeats a stored one and is left out; None keeps all but equal bytes.
            likeness_scope: compare within a camera, or over all; with the newest `likeness_capacity` samples.
            quota: how many frames the strategy may take; the audit arm is not limited.
            release: digest of the release that predicts, when `collect` is not told.
            classes: class names in index order, to read predictions that name their class and to refuse others;
                whoever drains goes by them, too.
            background: off, something else drains the spool (`retrain collect drain`).
            flush_s: how long a frame may wait before it is packed and indexed.
            redact: sees every taken frame before anything of it is written, see `redaction`.
            seed: of the coin that random arms flip; None takes one from the system.
            on_error: "count" never raises into the inference loop; "raise" shows every failure, and so checks each
                image before it is taken, which costs milliseconds.

        Raises:
            ConfigError: unknown strategy or a parameter out of range.
        """
        folder = Path(storage_path).absolute()
        self._strategy_name = collection_strategy
        options = {
            "confidence_threshold": confidence_threshold,
            "sample_rate": sample_rate,
            **(settings or {}),
        }
        self._class_counts = ClassCounts() if "targets" in options else None
        if self._class_counts is not None:
            options["counts"] = self._class_counts
        self._strategy = make_strategy(collection_strategy, **options)
        check_fraction("audit_rate", audit_rate)
        self._audit_rate = audit_rate
        self._quota = quota
        self._needs_boxes = collection_strategy not in _ON_ONE_NUMBER
        try:
            check_model(model)
            check_release(release)
        except BadInput as error:
            raise ConfigError(str(error)) from error
        self._model, self._release = model, release
        self._class_count = len(classes)
        self._reader = FrameReader(classes, confidence_rule, clock)
        self._on_error, self._clock = on_error, clock
        self._flip, self._seed = random.Random(seed).random, seed
        self._counters = OutcomeCounters()
        self._spool = DataCollectionQueue(folder / "spool", limits, on_dropped=self._dropped)
        self._hand_over = HandOver(self._spool, self._reader, redact, checks=on_error == "raise").put
        self._decisions: dict[tuple[bool, str, float], Decision] = {}
        self._warned: set[str] = set()
        self._own_state: StateStore | None = None
        self.drainer: SpoolDrainer
        if state is None and redis_url is None:
            # Not as text, in which a folder's name may hold a character that means something.
            own = URL.create("sqlite", database=str(folder / "index.sqlite"))
            state = self._own_state = open_state(own)
        if self._class_counts is not None and state is not None:
            with state.read() as connection:
                self._class_counts.go_on_from(*shown_classes(connection, model))
        if redis_url is not None:
            self.drainer = _forwarder(self._spool.folder, redis_url, flush_s)
            if s3_bucket is not None:
                logger.warning(
                    "Frames go to Redis, and whoever runs `retrain collect drain` stores them: set "
                    "data_collection.s3_bucket to %r there. This process writes nothing to the bucket.",
                    s3_bucket,
                )
        else:
            assert state is not None
            if blobs is None:
                blobs = open_blobs(f"s3://{s3_bucket}") if s3_bucket else LocalBlobs(folder / "blobs")
            likeness = None
            if near_duplicates is not None:
                likeness = LikenessIndex(state, near_duplicates, likeness_scope, likeness_capacity)
            store = SampleStore(state, blobs, folder / "cache", owner=owner_of(self._spool.folder))
            intake = Intake(store, classes=classes, likeness=likeness, clock=clock)
            self.drainer = Drainer(self._spool.folder, intake, flush_s=flush_s)
        self._background = BackgroundDrainer(self.drainer, self._publish) if background else None
        _services.add(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Store what waits in the spool; what cannot be stored within a minute stays there and is said in the log."""
        self._spool.close()
        if self._background is not None:
            self._background.close()
        try:
            self._publish()
        except OSError as error:
            logger.warning("Counts of the last collected frames are not published: %s", error)
        if self._own_state is not None:
            self._own_state.close()

    def flush(self) -> None:
        """Return when everything taken so far is stored.

        Raises:
            RetrainError: the store does not take it; nothing is lost, it stays in the spool.
        """
        self.drainer.drain(wait=True)

    def stats(self) -> Counts:
        """What became of the frames offered to this process."""
        return self._counters.read()

    def collect(
        self,
        image_path: str | os.PathLike[str] | None = None,
        prediction: Any = None,
        confidence: float | None = None,
        metadata: Mapping[str, Any] | None = None,
        *,
        image: Image | None = None,
        order: ChannelOrder = "RGB",
        release: str | None = None,
        flipped: Any = None,
        shadow: Any = None,
    ) -> Decision:
        """Keep the frame if the strategy or the audit arm takes it; when this returns `taken`, it survives a kill.

        Args:
            image_path: the encoded image in a file, which may be deleted afterwards but not written over; or give
                `image`: encoded bytes, or pixels as uint8 (height, width, 3) in `order`.
            prediction: boxes in pixels: `Detections`, Ultralytics `Results` (which bring their image too), or
                mappings with `class`, `bbox` (x1, y1, x2, y2) and perhaps `score`.
            confidence: the frame's confidence; by default computed from the prediction.
            metadata: plain values. `camera_id`, `recording` (default: the camera) and `captured_at` (default: now)
                become columns; `width` and `height` tell the size to strategies that need it.
            flipped: the prediction on the mirrored image, its boxes mirrored back.
            shadow: another model's prediction on the same frame.

        Returns:
            Not taken with reason "rejected: …" or "dropped: …" where it could not be.
        """
        camera = UNKNOWN_CAMERA
        try:
            details: Any = metadata if type(metadata) is dict else _details(metadata)
            name = details.get("camera_id")
            # Nearly every camera's name; of others it is asked whether counters and quotas can be kept under it.
            camera = name if type(name) is str and name.isascii() else camera_of(details)
            if type(prediction) is not dict:
                if image is None and image_path is None and hasattr(prediction, "orig_img"):
                    image, order = prediction.orig_img, "BGR"
                prediction = plain_prediction(prediction)
            # Checked here for nearly every caller, because calling the reader takes longer than the check.
            if type(confidence) is not float or not 0.0 <= confidence <= 1.0:
                confidence = self._reader.confidence(confidence, prediction)
            frame = (
                self._reader.frame(confidence, prediction, camera, details, flipped, shadow)
                if self._needs_boxes
                else Frame(confidence)
            )
            wanted, reason = self._strategy(frame)
            if wanted and self._quota is not None and not self._quota.room(camera, self._clock()):
                wanted, reason = 0.0, "quota used up"
            drawn = self._flip()
            # max() takes six times as long.
            probability = wanted if wanted > self._audit_rate else self._audit_rate  # noqa: FURB136
            if drawn >= probability:
                self._counters.count(camera, reason, confidence)
                return self._decision(False, reason, probability)
            by_strategy = drawn < wanted
            if release is None:
                release = self._release
            else:
                check_release(release)
            check_names(camera, details)
            offer = Offer(
                self._model,
                release,
                self._strategy_name if by_strategy else AUDIT,
                reason if by_strategy else AUDIT,
                probability,
                drawn < self._audit_rate,
                self._audit_rate,
                self._clock(),
                confidence,
                prediction,
                details,
                None,
                None,
                # Boxes as arrays have indices: no name is looked for in each of them.
                self._class_count
                if type(prediction) is dict and "boxes" in prediction
                else self._reader.classes_for(prediction),
            )
            self._hand_over(offer, image_path, image, order)
            self._counters.count(camera, TAKEN, confidence)
            if by_strategy and self._quota is not None:
                self._quota.take(camera, offer.taken_at)
            if self._class_counts is not None:
                self._class_counts.kept(frame)
            return self._decision(True, offer.reason, probability)
        # By default collection never stops the inference it runs in; each failure is counted and logged.
        except Exception as error:
            decision = self._failed(camera, error)
            if self._on_error == "raise":
                raise
            return decision

    def _decision(self, taken: bool, reason: str, probability: float) -> Decision:
        """Made once per kind: making one takes longer than finding it."""
        key = (taken, reason, probability)
        decision = self._decisions.get(key)
        if decision is None:
            decision = Decision(*key)
            # Reasons come from small fixed sets; should one ever not, memory stays bounded.
            if len(self._decisions) < _MOST_KINDS:
                self._decisions[key] = decision
        return decision

    def _after_fork(self) -> None:
        """A child must not repeat its parent's coin, and starts a thread of its own with its first frame."""

        def first() -> float:
            seed = None if self._seed is None else f"{self._seed}/{os.getpid()}"
            self._flip = random.Random(seed).random
            if self._background is not None:
                self._background.start()
            return self._flip()

        self._flip = first

    def _failed(self, camera: str, error: Exception) -> Decision:
        if isinstance(error, BadInput):
            self._counters.count(camera, REJECTED)
            logger.debug("Frame rejected: %s", error)
            return Decision(False, f"rejected: {error}", 0.0)
        cause = "full" if isinstance(error, StorageFull) else "error"
        self._counters.count(camera, f"dropped: {cause}")
        if cause not in self._warned:
            self._warned.add(cause)
            logger.warning(
                "Frames are being dropped (%s); said once, see the counters: %s",
                cause,
                error,
                exc_info=None if cause == "full" else error,
            )
        return Decision(False, f"dropped: {error}", 0.0)

    def _dropped(self, records: int) -> None:
        self._counters.add(DROPPED_OLDEST, records)
        logger.warning("The spool is full: %d frames that waited longest were dropped.", records)

    def _publish(self) -> None:
        parts = {"storing": self._background, "quota": self._quota}
        found = {name: part.standstill for name, part in parts.items() if part is not None}
        self._counters.publish(
            self._spool.folder, {name: one for name, one in found.items() if one is not None}
        )


def _forwarder(spool: Path, redis_url: str, flush_s: float) -> "StreamForwarder":
    from retrain.data_collection.redis_backend.connection import RedisConnection
    from retrain.data_collection.redis_backend.forwarder import StreamForwarder
    from retrain.data_collection.redis_backend.stream import RedisStream

    stream = RedisStream(RedisConnection(redis_url))
    return StreamForwarder(spool, stream, flush_s=flush_s)


def _details(metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    if metadata is None:
        return {}
    if not isinstance(metadata, Mapping):
        raise BadInput(f"Metadata must be a mapping, got {type(metadata).__name__}.")
    return dict(metadata)


_services: "weakref.WeakSet[DataCollectionService]" = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for service in list(_services):
        service._after_fork()


os.register_at_fork(after_in_child=_after_fork_in_child)
