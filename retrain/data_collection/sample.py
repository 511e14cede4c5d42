"""A sample: one production image with what the model said about it and why it was kept."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import Row

from retrain.boxes import Detections


class SampleKey(NamedTuple):
    """What a sample is known by: two models that see the same image have a sample each."""

    model: str
    id: str


@dataclass(frozen=True)
class DataSample:
    """One stored sample.

    Attributes:
        id: digest of the encoded image bytes; a model has the same image once.
        camera, recording: where it comes from; a recording is never split over train and test.
        strategy: the rule that took it.
        inclusion_probability: chance that this frame came to be stored, given those before it, for unbiased estimates
            from samples; of a picture that repeats a stored one the audit arm's alone.
        confidence: the frame's one number; None when the model saw nothing it was at all sure of.
        release: digest of the release that predicted it.
        pack, file_name: the pack that holds its image, and the image's name inside.
    """

    id: str
    model: str
    camera: str
    recording: str
    captured_at: float
    strategy: str
    inclusion_probability: float
    confidence: float | None
    release: str
    pack: str
    file_name: str
    width: int
    height: int
    prediction: Detections
    metadata: Mapping[str, Any]

    @property
    def key(self) -> SampleKey:
        return SampleKey(self.model, self.id)

    def to_row(self, stored_at: float) -> dict[str, Any]:
        """Column values of the `samples` table."""
        return {
            **vars(self),
            "prediction": self.prediction.to_json(),
            "metadata": dict(self.metadata),
            "stored_at": stored_at,
        }

    @classmethod
    def from_row(cls, row: Row[Any]) -> "DataSample":
        values = {name: row._mapping[name] for name in cls.__dataclass_fields__}
        return cls(**{**values, "prediction": Detections.from_json(values["prediction"])})
