"""What happens to every handed-over record, however it came here: checked, compared with what is stored, stored."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from typing import TypeVar

from sqlalchemy.exc import DataError, IntegrityError

from retrain.boxes import Detections
from retrain.data_collection.capture_time import capture_time
from retrain.data_collection.likeness import LikenessIndex
from retrain.data_collection.metadata import (
    camera_of,
    check_model,
    check_names,
    check_release,
    fitting,
    json_metadata,
    recording_of,
)
from retrain.data_collection.prediction import inside, read_prediction
from retrain.data_collection.sample import DataSample, SampleKey
from retrain.data_collection.spool.offer import Offer, decode_offer
from retrain.data_collection.store.samples import Arrival, Draw, SampleStore
from retrain.duplicates.near_duplicates import Match
from retrain.duplicates.perceptual_hash import PerceptualHash, perceptual_hash
from retrain.errors import BadInput
from retrain.images import EncodedImage, read_image
from retrain.storage.schema import draws

logger = logging.getLogger(__name__)

READERS = 2
"""Threads that decode: Pillow lets go of the interpreter meanwhile."""
BATCH_RECORDS, BATCH_BYTES = 256, 64 * 2**20
_Given = TypeVar("_Given")
_Found = TypeVar("_Found")

_REFUSALS = (DataError, IntegrityError, OverflowError, UnicodeError)
"""What a frame's values may be refused with, each time anew. Anything else is no fault of a frame: it stays spooled."""


@dataclass
class DrainReport:
    """What one pass did.

    Attributes:
        outcomes: draws by outcome: stored, duplicate, near-duplicate, rejected.
        torn: records cut short by a kill before they were acknowledged.
        damaged: stretches of a segment that the disk changed after they were written.
        unreadable: records without a draw, because another version of Retrain wrote them; the log names each.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    torn: int = 0
    damaged: int = 0
    unreadable: int = 0


class Intake:
    """Checks records and adds them to the store. For one thread at a time, but `examine`."""

    def __init__(
        self,
        store: SampleStore,
        *,
        classes: Sequence[str] = (),
        likeness: LikenessIndex | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Set up.

        Args:
            classes: names in index order, for predictions of producers that were not told any.
            likeness: leaves out pictures that repeat a stored one; None keeps them.
        """
        self._store, self._classes, self._likeness, self._clock = store, tuple(classes), likeness, clock

    def begin(self) -> None:
        """Tidy up after a killed run and take in what others stored since. Nobody else may add as this owner."""
        self._store.forget_leftovers()
        if self._likeness is not None:
            self._likeness.refresh()

    def examine(
        self, record_id: str, body: bytes, find_image: Callable[[Offer], EncodedImage]
    ) -> Arrival | None:
        """What may be stored of a record: its draw, and if nothing is wrong its sample.

        Args:
            find_image: raises `BadInput` where there is none to be had.

        Returns:
            None for a record that cannot be read at all, which is logged.
        """
        try:
            offer = decode_offer(body)
        except BadInput as error:
            logger.warning("Record %s is left out: %s", record_id, error)
            return None
        draw = _draw(record_id, offer)
        try:
            draw = replace(draw, captured_at=capture_time(offer.metadata.get("captured_at"), offer.taken_at))
            check_model(offer.model)
            check_release(offer.release)
            check_names(camera_of(offer.metadata), offer.metadata)
            image = find_image(offer)
            sample = _sample(offer, draw, image, self._detections(offer, image))
        except BadInput as error:
            return _rejected(draw, str(error), offer.taken_at)
        thumbnail = image.thumbnail
        picture = None if self._likeness is None or thumbnail is None else perceptual_hash(thumbnail)
        return Arrival(draw, sample, image.data, picture, offer.taken_at, offer.audit_rate)

    def store(self, arrivals: Sequence[Arrival], report: DrainReport) -> None:
        """Store them and count what became of each draw that is new.

        What the index refuses of a frame is put aside as a rejected draw: one frame must not hold up all others.

        Raises:
            RetrainError: the store does not take them; nothing was added.
        """
        try:
            self._add(arrivals, report)
        except _REFUSALS as error:
            logger.warning(
                "%d frames cannot be stored together, so each is tried alone.", len(arrivals), exc_info=error
            )
            self._add_one_by_one(arrivals, report)

    def _add_one_by_one(self, arrivals: Sequence[Arrival], report: DrainReport) -> None:
        failed: list[tuple[Arrival, Exception]] = []
        stored = report.outcomes["stored"]
        for arrival in arrivals:
            try:
                self._add([arrival], report)
            except _REFUSALS as error:
                failed.append((arrival, error))
        for arrival, reason in failed:
            # While nothing at all can be stored, it is no fault of theirs, unless the database says so of its values.
            if report.outcomes["stored"] == stored and not isinstance(reason, DataError | IntegrityError):
                raise reason
            self._add([_rejected(arrival.draw, f"It cannot be stored: {reason!r}", arrival.taken_at)], report)

    def _add(self, arrivals: Sequence[Arrival], report: DrainReport) -> None:
        # A record may come twice where it is handed on over a network.
        once = {arrival.draw.id: arrival for arrival in arrivals}
        arriving: set[SampleKey] = set()
        kept = [self._unless_repeated(arrival, arriving) for arrival in once.values()]
        for draw in self._store.add(kept, self._clock()):
            report.outcomes[draw.outcome] += 1
            if draw.outcome == "rejected":
                logger.warning("A taken frame of %s was rejected: %s", draw.camera, draw.detail)

    def _detections(self, offer: Offer, image: EncodedImage) -> Detections:
        """By the classes that the producer knew, if it was told any: here may be other ones."""
        names = offer.classes or self._classes
        count = names if isinstance(names, int) else len(names)
        known = () if isinstance(names, int) else names
        return inside(
            read_prediction(offer.prediction, offer.confidence, known), image.width, image.height, count
        )

    def _unless_repeated(self, arrival: Arrival, arriving: set[SampleKey]) -> Arrival:
        """The draw alone where the picture repeats a stored one and was not drawn by the audit arm.

        What that arm drew is never left out. Of repeated pictures only its draws are kept, so its share is the chance
        with which such a one is stored, whatever the chance was with which it was taken.

        Args:
            arriving: samples that are stored together with it; grows.
        """
        sample, picture, draw = arrival.sample, arrival.picture, arrival.draw
        if self._likeness is None or sample is None or picture is None:
            return arrival
        # Asked for audit draws too: how likely a frame is stored must not depend on which arm drew it.
        match = self._match(sample, picture, arriving)
        if match is not None and not draw.audit:
            near = replace(draw, outcome="near-duplicate", sample_id=match.id)
            return Arrival(near, taken_at=arrival.taken_at)
        self._likeness.add(sample.model, sample.id, picture, sample.camera)
        arriving.add(sample.key)
        if match is None:
            return arrival
        return replace(arrival, sample=replace(sample, inclusion_probability=arrival.audit_rate))

    def _match(self, sample: DataSample, picture: PerceptualHash, arriving: set[SampleKey]) -> Match | None:
        """The other sample it repeats, which is stored or is about to be: what was deleted or never came is forgotten.

        None also where equal bytes are there: then it is a duplicate, whatever else it looks like.
        """
        assert self._likeness is not None
        if sample.key in arriving:
            return None
        while (match := self._likeness.find(sample.model, picture, sample.camera)) is not None:
            other = SampleKey(sample.model, match.id)
            stored = self._store.known([sample.key, other])
            if sample.key in stored:
                return None
            if other in arriving or other in stored:
                return match
            # A drain that failed half-way meets its own pictures again.
            self._likeness.forget(sample.model, match.id)
        return None


def whole_image(data: bytes) -> EncodedImage:
    """The image, proven to be whole.

    Raises:
        BadInput: it is not.
    """
    try:
        return read_image(data)
    except BadInput as error:
        raise BadInput(f"The image ({len(data)} bytes) {error}.") from error


def in_parallel(
    readers: Executor, work: Callable[[_Given], _Found], given: Sequence[_Given]
) -> Iterable[_Found]:
    """`map` in the threads of `readers`, or in this one when the interpreter is about to end and takes no work."""
    try:
        return readers.map(work, given)
    except RuntimeError:
        return map(work, given)


def _draw(record_id: str, offer: Offer) -> Draw:
    """Names as far as their columns take them: that a frame is rejected for one must be storable."""
    return Draw(
        record_id,
        fitting(offer.model, draws.c.model),
        fitting(camera_of(offer.metadata), draws.c.camera),
        fitting(offer.release, draws.c.release),
        offer.taken_at,
        offer.strategy,
        fitting(offer.reason, draws.c.reason),
        offer.probability,
        offer.audit,
        "stored",
    )


def _rejected(draw: Draw, why: str, taken_at: float | None) -> Arrival:
    rejected = replace(draw, outcome="rejected", detail=fitting(why, draws.c.detail), sample_id=None)
    return Arrival(rejected, taken_at=taken_at)


def _sample(offer: Offer, draw: Draw, image: EncodedImage, detections: Detections) -> DataSample:
    given = offer.metadata
    if given.get("captured_at") is not None:
        given = {**given, "captured_at": draw.captured_at}
    return DataSample(
        id=image.digest,
        model=offer.model,
        camera=draw.camera,
        recording=recording_of(offer.metadata, draw.camera),
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
        metadata=json_metadata(given),
    )
