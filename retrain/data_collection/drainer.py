"""Empties a spool into the sample store: checks, hashes, packs and indexes what production handed over."""

import fcntl
import json
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from retrain.boxes import Detections
from retrain.data_collection.likeness import LikenessIndex
from retrain.data_collection.offer import Offer, decode_offer, encoded, unchanged_file
from retrain.data_collection.perceptual_hash import perceptual_hash
from retrain.data_collection.prediction import inside, read_prediction
from retrain.data_collection.sample import DataSample
from retrain.data_collection.sample_store import Arrival, Draw, SampleStore
from retrain.data_collection.spool_reader import SpooledRecord, SpoolSegment, segments
from retrain.errors import BadInput
from retrain.images import EncodedImage, read_image

logger = logging.getLogger(__name__)

_BATCH = 256
_BATCH_BYTES = 64 * 2**20
_READERS = 2
"""Threads that decode: Pillow lets go of the interpreter meanwhile."""
_LONGEST = 300


@dataclass
class DrainReport:
    """What one pass did.

    Attributes:
        outcomes: draws by outcome: stored, duplicate, near-duplicate, rejected.
        torn: records cut short by a kill before they were acknowledged.
        damaged: stretches of a segment that the disk changed after they were written.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    torn: int = 0
    damaged: int = 0


@dataclass(frozen=True)
class _Batch:
    """Records in order, perhaps of several segments, and how far each of those is read with them."""

    records: list[SpooledRecord] = field(default_factory=list)
    ends: dict[SpoolSegment, int] = field(default_factory=dict)


class Drainer:
    """Any number may exist for one spool; one at a time works."""

    def __init__(
        self,
        spool: Path,
        store: SampleStore,
        *,
        classes: Sequence[str] = (),
        likeness: LikenessIndex | None = None,
        flush_s: float = 5.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Set up.

        Args:
            classes: names in index order, for predictions that name their class.
            likeness: leaves out pictures that repeat a stored one; None keeps them.
            flush_s: how often whoever runs this in the background should call `drain`.
        """
        self.spool, self.flush_s = spool, flush_s
        self._store, self._classes, self._clock = store, tuple(classes), clock
        self._likeness = likeness

    def drain(self, stop: threading.Event | None = None, *, wait: bool = False) -> DrainReport:
        """Store everything that is in the spool now, and remove the segments that are done.

        Killed anywhere and called again, every record is stored once.

        Args:
            stop: set, it ends after the current batch.
            wait: for another drainer of this spool at work; otherwise nothing is done beside it.

        Raises:
            RetrainError: the store does not take it; nothing is lost, the next call goes on.
        """
        report = DrainReport()
        with self._alone(wait=wait) as alone, ExitStack() as locks:
            if not alone:
                return report
            self._store.forget_leftovers()
            if self._likeness is not None:
                self._likeness.refresh()
            with ThreadPoolExecutor(_READERS) as readers:
                locked = [one for one in segments(self.spool) if one.lock()]
                for segment in locked:
                    locks.callback(segment.unlock)
                # Asked before reading: a writer that ends later may still append behind what is read here.
                finished = [segment for segment in locked if segment.is_finished()]
                for batch in _batches(locked):
                    self._keep(batch, readers, report)
                    if stop is not None and stop.is_set():
                        return report
            for segment in finished:
                report.torn += segment.torn_bytes() > 0
                segment.remove()
        return report

    def _keep(self, batch: _Batch, readers: ThreadPoolExecutor, report: DrainReport) -> None:
        intact = [record for record in batch.records if record.intact]
        report.damaged += len(batch.records) - len(intact)
        arrivals = [found for found in readers.map(self._examine, intact) if found is not None]
        for draw in self._store.add(list(map(self._unless_repeated, arrivals)), self._clock()):
            report.outcomes[draw.outcome] += 1
            if draw.outcome == "rejected":
                logger.warning("A taken frame of %s was rejected: %s", draw.camera, draw.detail)
        for segment, end in batch.ends.items():
            segment.consumed(end)
        for record in batch.records:
            if record.image_file is not None:
                record.image_file.unlink(missing_ok=True)

    def _examine(self, record: SpooledRecord) -> Arrival | None:
        try:
            offer = decode_offer(record.body)
        except BadInput as error:
            logger.warning("Record %s is left out: %s", record.id, error)
            return None
        draw = _draw(record.id, offer)
        try:
            image = _image(record, offer)
            detections = read_prediction(offer.prediction, offer.confidence, self._classes)
            sample = _sample(
                offer, draw, image, inside(detections, image.width, image.height, len(self._classes))
            )
        except BadInput as error:
            return Arrival(replace(draw, outcome="rejected", detail=str(error)[:500]))
        picture = None if self._likeness is None else perceptual_hash(image.thumbnail)
        return Arrival(draw, sample, image.data, picture)

    def _unless_repeated(self, arrival: Arrival) -> Arrival:
        """The draw alone where the picture repeats a stored one. What the audit arm drew is never left out."""
        sample, picture, draw = arrival.sample, arrival.picture, arrival.draw
        if self._likeness is None or sample is None or picture is None:
            return arrival
        if not draw.audit:
            match = self._likeness.find(sample.model, picture, sample.camera)
            # A drain that failed half-way meets its own pictures again.
            if match is not None and match.id != sample.id:
                return Arrival(replace(draw, outcome="near-duplicate", sample_id=match.id))
        self._likeness.add(sample.model, sample.id, picture, sample.camera)
        return arrival

    @contextmanager
    def _alone(self, *, wait: bool) -> Iterator[bool]:
        """Whether this is the only drainer of the spool at work."""
        self.spool.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.spool / ".draining", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
        finally:
            os.close(descriptor)


def _batches(locked: Sequence[SpoolSegment]) -> Iterator[_Batch]:
    batch, size = _Batch(), 0
    for segment in locked:
        for record in segment.records():
            batch.records.append(record)
            batch.ends[segment] = record.end
            size += len(record.body) + record.image_bytes
            if len(batch.records) >= _BATCH or size >= _BATCH_BYTES:
                yield batch
                batch, size = _Batch(), 0
    if batch.records:
        yield batch


def _image(record: SpooledRecord, offer: Offer) -> EncodedImage:
    data = record.image
    if record.image_file is not None:
        if offer.image is None:
            raise BadInput("The record of a linked image does not say what the file was like.")
        data = unchanged_file(record.image_file, offer.image)
    if offer.pixels is not None:
        data = encoded(data, offer.pixels)
    try:
        return read_image(data)
    except BadInput as error:
        raise BadInput(f"The image ({len(data)} bytes) {error}.") from error


def _draw(record_id: str, offer: Offer) -> Draw:
    camera = str(offer.metadata.get("camera_id", "unknown"))
    return Draw(
        record_id,
        offer.model,
        camera[:200],
        offer.release,
        _captured_at(offer),
        offer.strategy,
        offer.reason[:_LONGEST],
        offer.probability,
        offer.audit,
        "stored",
    )


def _captured_at(offer: Offer) -> float:
    given = offer.metadata.get("captured_at", offer.taken_at)
    return float(given) if isinstance(given, int | float) else offer.taken_at


def _sample(offer: Offer, draw: Draw, image: EncodedImage, detections: Detections) -> DataSample:
    try:
        metadata = json.loads(json.dumps(offer.metadata, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise BadInput(f"Metadata must hold JSON values only: {error}.") from error
    recording = str(offer.metadata.get("recording", draw.camera))
    if len(recording) > _LONGEST:
        raise BadInput(f"The recording's name has {len(recording)} characters; at most {_LONGEST} are kept.")
    return DataSample(
        id=image.digest,
        model=offer.model,
        camera=draw.camera,
        recording=recording,
        captured_at=draw.captured_at,
        strategy=offer.strategy,
        inclusion_probability=offer.probability,
        confidence=offer.confidence,
        release=offer.release,
        pack="",
        file_name=image.file_name,
        width=image.width,
        height=image.height,
        prediction=detections,
        metadata=metadata,
    )
