"""How a model was asked and how its answers were scored: recorded beside every number, since each part changes it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from retrain.errors import BadInput
from retrain.evaluation.matching import IOU_THRESHOLDS, MAX_DETECTIONS
from retrain.evaluation.truth import LARGEST_AREA

AREAS = {
    "all": (0.0, LARGEST_AREA),
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, LARGEST_AREA),
}
"""Square pixels of an object, as in COCO."""

_SCORING: Mapping[str, Any] = {
    "matching": "COCO: greedy by score, each takes the free object of its class with the highest IoU",
    "iou_thresholds": [round(float(value), 2) for value in IOU_THRESHOLDS],
    "max_counted": MAX_DETECTIONS,
    "interpolation": "101 recall levels",
    "crowd": "detections in crowds do not count",
    "areas": {name: list(limits) for name, limits in AREAS.items()},
}


@dataclass(frozen=True)
class EvaluationProtocol:
    """How a model is asked.

    Attributes:
        confidence: lowest score of a detection; average precision needs all of low confidence too.
        nms_iou: overlap above which the weaker of two boxes of one class is dropped.
        max_detections: per image, of all classes.
        runtime: what runs the model.
        image_size: side in pixels of the square that images are fitted into; None is the model's own.
    """

    confidence: float = 0.001
    nms_iou: float = 0.7
    max_detections: int = 300
    runtime: str = "torch"
    image_size: int | None = None

    def __post_init__(self) -> None:
        for name in ("confidence", "nms_iou"):
            if not 0 <= getattr(self, name) <= 1:
                raise BadInput(f"{name} must be in [0, 1], got {getattr(self, name)}.")
        if self.max_detections < 1:
            raise BadInput(f"max_detections must be at least 1, got {self.max_detections}.")

    @property
    def asking(self) -> dict[str, Any]:
        """Arguments of a detector's `predict`."""
        return {
            "confidence": self.confidence,
            "iou": self.nms_iou,
            "max_detections": self.max_detections,
        }

    def to_json(self) -> dict[str, Any]:
        """With how answers are scored, which is not to be chosen."""
        return {**asdict(self), **_SCORING}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "EvaluationProtocol":
        """What `to_json` gave.

        Raises:
            BadInput: it was scored in another way than now, so its numbers are not comparable.
        """
        own = {name: data[name] for name in cls.__dataclass_fields__}
        if other := [name for name, value in _SCORING.items() if data.get(name) != value]:
            raise BadInput(f"It was scored with other {', '.join(other)} than now; evaluate again.")
        return cls(**own)
