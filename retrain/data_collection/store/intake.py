"""What happens to every handed-over record, however it came here: checked, compared with what is stored, stored."""

import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from retrain.boxes import Detections
from retrain.data_collection.duplicates.likeness import LikenessIndex
from retrain.data_collection.duplicates.near_duplicates import Match
from retrain.data_collection.duplicates.perceptual_hash import PerceptualHash, perceptual_hash
from retrain.data_collection.prediction import inside, read_prediction
from retrain.data_collection.sample import DataSample, SampleKey
from retrain.data_collection.spool.offer import Offer, decode_offer
from retrain.data_collection.store.samples import FORGOTTEN, Arrival, Draw, SampleStore
from retrain.errors import BadInput
from retrain.images import EncodedImage, read_image

logger = logging.getLogger(__name__)

READERS = 2
"""Threads that decode: Pillow lets go of the interpreter meanwhile."""
BATCH_RECORDS, BATCH_BYTES = 256, 64 * 2**20
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
class StoredImage:
    """An image that is stored and was decoded then, so that it need not be sent again."""

    digest: str
    width: int
    height: int
    file_name: str = ""


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
            classes: names in index order, for predictions that name their class.
            likeness: leaves out pictures that repeat a stored one; None keeps them.
        """
        self._store, self._classes, self._likeness, self._clock = store, tuple(classes), likeness, clock

    def begin(self) -> None:
        """Tidy up after a killed run and take in what others stored since. Nobody else may add as this owner."""
        self._store.forget_leftovers()
        if self._likeness is not None:
            self._likeness.refresh()

    def examine(
        self, record_id: str, body: bytes, find_image: Callable[[Offer], EncodedImage | StoredImage]
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
            image = find_image(offer)
            detections = read_prediction(offer.prediction, offer.confidence, self._classes)
            sample = _sample(
                offer, draw, image, inside(detections, image.width, image.height, len(self._classes))
            )
        except BadInput as error:
            rejected = replace(draw, outcome="rejected", detail=str(error)[:500])
            return Arrival(rejected, taken_at=offer.taken_at)
        if isinstance(image, StoredImage):
            duplicate = replace(draw, outcome="duplicate", sample_id=image.digest)
            return Arrival(duplicate, taken_at=offer.taken_at)
        picture = None if self._likeness is None else perceptual_hash(image.thumbnail)
        return Arrival(draw, sample, image.data, picture, offer.taken_at)

    def store(self, arrivals: Sequence[Arrival], report: DrainReport) -> list[DataSample]:
        """Store them and count what became of each draw that is new.

        Returns:
            Those whose images are in the index now, stored by this call or before.

        Raises:
            RetrainError: the store does not take them; nothing was added.
        """
        # A record may come twice where it is handed on over a network.
        once = {arrival.draw.id: arrival for arrival in arrivals}
        arriving: set[str] = set()
        kept = [self._unless_repeated(arrival, arriving) for arrival in once.values()]
        refused: set[str] = set()
        for draw in self._store.add(kept, self._clock()):
            report.outcomes[draw.outcome] += 1
            if draw.outcome == FORGOTTEN:
                refused.add(draw.id)
            if draw.outcome == "rejected":
                logger.warning("A taken frame of %s was rejected: %s", draw.camera, draw.detail)
        return [
            arrival.sample
            for arrival in kept
            if arrival.sample is not None and arrival.draw.id not in refused
        ]

    def _unless_repeated(self, arrival: Arrival, arriving: set[str]) -> Arrival:
        """The draw alone where the picture repeats a stored one. What the audit arm drew is never left out.

        Args:
            arriving: samples that are stored together with it; grows.
        """
        sample, picture, draw = arrival.sample, arrival.picture, arrival.draw
        if self._likeness is None or sample is None or picture is None:
            return arrival
        if not draw.audit:
            match = self._match(sample, picture, arriving)
            # A drain that failed half-way meets its own pictures again.
            if match is not None and match.id != sample.id:
                near = replace(draw, outcome="near-duplicate", sample_id=match.id)
                return Arrival(near, taken_at=arrival.taken_at)
        self._likeness.add(sample.model, sample.id, picture, sample.camera)
        arriving.add(sample.id)
        return arrival

    def _match(self, sample: DataSample, picture: PerceptualHash, arriving: set[str]) -> Match | None:
        """The sample it repeats, which is stored or is about to be: what was deleted or never came is forgotten."""
        assert self._likeness is not None
        while (match := self._likeness.find(sample.model, picture, sample.camera)) is not None:
            if (
                match.id in arriving
                or match.id == sample.id
                or self._store.known([SampleKey(sample.model, match.id)])
            ):
                return match
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


def _sample(
    offer: Offer, draw: Draw, image: EncodedImage | StoredImage, detections: Detections
) -> DataSample:
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
