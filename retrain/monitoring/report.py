"""What one pass of the loop did, as plain values: the report is drawn from these and from nothing else.

`None` means *not measured* and is shown in those words; no field has a default, so whoever fills the report
says of each whether it was measured. Times are seconds since the epoch; scores are in [0, 1].
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import ConfigDict, PlainSerializer, PlainValidator, TypeAdapter, ValidationError, with_config

from retrain.boxes import Annotations, Detections
from retrain.errors import BadInput

Verdict = Literal["better", "worse", "inconclusive", "invalid"]
Outcome = Literal["promoted", "kept_champion"]


def _read_annotations(value: Any) -> Annotations:
    return value if isinstance(value, Annotations) else Annotations.from_json(value)


def _read_detections(value: Any) -> Detections:
    return value if isinstance(value, Detections) else Detections.from_json(value)


TruthBoxes = Annotated[Annotations, PlainValidator(_read_annotations), PlainSerializer(Annotations.to_json)]
ModelBoxes = Annotated[Detections, PlainValidator(_read_detections), PlainSerializer(Detections.to_json)]


@dataclass(frozen=True)
class ModelVersion:
    """One trained model, as people call it (`v1`) and as machines do (the release digest)."""

    label: str
    digest: str
    registry_version: str | None
    dataset: str | None


@dataclass(frozen=True)
class Interval:
    """A difference (new minus old) with its confidence interval; `level` as a fraction, e.g. 0.95."""

    value: float
    low: float
    high: float
    level: float


@dataclass(frozen=True)
class Comparison:
    """One metric of the old and the new model on the same images."""

    before: float | None
    after: float | None
    difference: Interval | None
    verdict: Verdict | None


@dataclass(frozen=True)
class SliceScores:
    """Both models on one held-out set; `groups` are the units the bootstrap drew (recordings)."""

    kind: Literal["clean", "drifted", "other"]
    title: str
    images: int | None
    groups: int | None
    map50: Comparison
    map50_95: Comparison


@dataclass(frozen=True)
class CameraSeries:
    """The incident as one camera saw it.

    Attributes:
        drift: what happened to it in words; None for a camera that did not drift.
        drift_from: where on the x axis it began.
        points: (x, y), y in [0, 1]; y is None where there was nothing to measure.
    """

    camera: str
    drift: str | None
    drift_from: float | None
    points: tuple[tuple[float, float | None], ...]


@dataclass(frozen=True)
class Incident:
    """A live signal per camera over the traffic, e.g. metric "F1, rolling over 40 frames"."""

    metric: str
    better: Literal["higher", "lower"]
    x_title: str
    crossed_at: float | None
    switched_at: float | None
    cameras: tuple[CameraSeries, ...]


@dataclass(frozen=True)
class Picture:
    """One image as PNG bytes, with its size in pixels."""

    png: bytes
    width: int
    height: int

    @classmethod
    def of(cls, image: NDArray[np.uint8]) -> "Picture":
        """Encode a uint8 RGB array of shape (height, width, 3)."""
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise BadInput(f"A picture needs a uint8 RGB array, got {image.dtype} of shape {image.shape}.")
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, format="PNG", optimize=True)
        return cls(buffer.getvalue(), width=image.shape[1], height=image.shape[0])


@dataclass(frozen=True)
class FramePair:
    """One frame as both models saw it."""

    camera: str
    caption: str
    picture: Picture
    truth: TruthBoxes
    before: ModelBoxes
    after: ModelBoxes


@dataclass(frozen=True)
class CameraLook:
    """How a camera's frames look before and after its drift (`drifted` is empty when it has none)."""

    camera: str
    drift: str | None
    clean: tuple[Picture, ...]
    drifted: tuple[Picture, ...]


@dataclass(frozen=True)
class EpochPoint:
    epoch: int
    map50: float | None
    losses: dict[str, float | None]


@dataclass(frozen=True)
class TrainingCurve:
    """`which` says whose colour the curve gets: the old model's or the new one's."""

    title: str
    which: Literal["before", "after"]
    seconds: float | None
    train_images: int | None
    epochs: tuple[EpochPoint, ...]


@dataclass(frozen=True)
class LabelCounts:
    """Where the collected samples went; each is counted in exactly one of auto, human, left_out or waiting.

    Attributes:
        auto: labels of the model taken unreviewed.
        human: labelled or corrected by hand.
        left_out: selected for this cycle, then dropped.
    """

    collected: int
    auto: int
    human: int
    left_out: int

    def __post_init__(self) -> None:
        if self.waiting < 0 or min(self.collected, self.auto, self.human, self.left_out) < 0:
            raise BadInput(
                f"Label counts must not be negative and must add up to at most the collected samples, got "
                f"collected={self.collected}, auto={self.auto}, human={self.human}, left_out={self.left_out}."
            )

    @property
    def labelled(self) -> int:
        return self.auto + self.human

    @property
    def waiting(self) -> int:
        """Collected, but not part of this cycle."""
        return self.collected - self.auto - self.human - self.left_out


@dataclass(frozen=True)
class CameraLabels:
    camera: str
    counts: LabelCounts


@dataclass(frozen=True)
class LabelQuality:
    """Labels of one source against the simulator's truth."""

    source: str
    boxes: int
    precision: float | None
    recall: float | None
    mean_iou: float | None


@dataclass(frozen=True)
class Labels:
    total: LabelCounts
    cameras: tuple[CameraLabels, ...]
    quality: tuple[LabelQuality, ...]


@dataclass(frozen=True)
class Stage:
    """One step with its time; `proof` is what was read back afterwards, None when nothing was."""

    name: str
    process: str
    started_at: float
    finished_at: float
    proof: str | None

    @property
    def seconds(self) -> float:
        return self.finished_at - self.started_at


@dataclass(frozen=True)
class Moment:
    """One step on the way from the crossed threshold (the first) to the new model serving (the last)."""

    title: str
    at: float | None
    proof: str | None


@dataclass(frozen=True)
class Count:
    """How many there were of `name` in the old and in the new dataset version."""

    name: str
    before: int
    after: int


@dataclass(frozen=True)
class DatasetDiff:
    before: str
    after: str
    splits: tuple[Count, ...]
    classes: tuple[Count, ...]
    proof: str | None


@dataclass(frozen=True)
class LedgerEntry:
    seq: int
    kind: str
    at: float
    summary: str
    previous_hash: str
    hash: str


@dataclass(frozen=True)
class Ledger:
    """`verified` is the result of recomputing the hash chain; `check` says it in words."""

    entries: tuple[LedgerEntry, ...]
    verified: bool | None
    check: str | None


@dataclass(frozen=True)
class Link:
    """`target` is an http or file address, or a path or command to copy."""

    group: str
    title: str
    target: str


@dataclass(frozen=True)
class SystemFacts:
    platform: str
    cpu: str | None
    cores: int | None
    memory_bytes: int | None
    peak_rss_bytes: int | None
    versions: dict[str, str]


@with_config(ConfigDict(extra="forbid", ser_json_bytes="base64", val_json_bytes="base64"))
@dataclass(frozen=True)
class LoopReport:
    """Everything the page shows.

    Attributes:
        reason: the gate's rule and finding, one sentence.
        before: the champion when the loop began; `after` the challenger, None when there was none.
        serving_digest: of the release the router acknowledged last, read back.
        drawn_confidence: detections below this are not drawn in `frame_pairs`.
        opening: how to open the links, e.g. "Run `retrain up` first."
    """

    model: str
    outcome: Outcome
    reason: str
    started_at: float
    finished_at: float
    before: ModelVersion
    after: ModelVersion | None
    serving_digest: str | None
    classes: tuple[str, ...]
    scores: tuple[SliceScores, ...]
    incident: Incident | None
    frame_pairs: tuple[FramePair, ...]
    drawn_confidence: float
    cameras: tuple[CameraLook, ...]
    training: tuple[TrainingCurve, ...]
    labels: Labels | None
    stages: tuple[Stage, ...]
    reaction: tuple[Moment, ...]
    dataset: DatasetDiff | None
    ledger: Ledger | None
    links: tuple[Link, ...]
    opening: str
    system: SystemFacts | None

    @property
    def reaction_s(self) -> float | None:
        """Seconds from crossing the threshold to serving; None unless both ends were measured."""
        if len(self.reaction) < 2 or self.reaction[0].at is None or self.reaction[-1].at is None:
            return None
        return self.reaction[-1].at - self.reaction[0].at

    def slice(self, kind: str) -> SliceScores | None:
        """The first held-out set of that kind."""
        return next((scores for scores in self.scores if scores.kind == kind), None)

    def to_json(self) -> str:
        """JSON text that `from_json` reads back to equal values.

        Raises:
            BadInput: a value that would not survive, e.g. NaN where a number is required.
        """
        try:
            text = _adapter().dump_json(self, indent=1, warnings="error").decode()
        except ValueError as error:  # pydantic's serialisation error names the field and the value
            said = " ".join(str(error).split())
            raise BadInput(f"The report holds a value of the wrong type: {said}") from error
        LoopReport.from_json(text)
        return text

    @classmethod
    def from_json(cls, text: str | bytes) -> "LoopReport":
        """Raises: BadInput, naming every field that is missing, unknown or of the wrong kind."""
        try:
            return _adapter().validate_json(text)
        except ValidationError as error:
            raise BadInput(f"Not a loop report: {_faults(error)}") from error


def _adapter() -> TypeAdapter[LoopReport]:
    return TypeAdapter(LoopReport)


def _faults(error: ValidationError) -> str:
    faults: list[Mapping[str, Any]] = [dict(fault) for fault in error.errors(include_url=False)]
    said = [f"{'.'.join(map(str, fault['loc'])) or 'text'}: {fault['msg']}" for fault in faults]
    return "; ".join(said[:10]) + (f"; and {len(said) - 10} more" if len(said) > 10 else "") + "."
