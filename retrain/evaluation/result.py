"""What an evaluation or a comparison says, with everything that its numbers depend on."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from retrain.evaluation.asked_metrics import values_of
from retrain.evaluation.comparator import Comparison
from retrain.evaluation.evaluation import Evaluation
from retrain.evaluation.served_confidence import ServedConfidence, shown_confidence
from retrain.evaluation.speed import SpeedReport


@dataclass(frozen=True)
class Served:
    """The operating point of precision, recall and F1, and where it comes from."""

    confidence: ServedConfidence
    origin: str

    def __str__(self) -> str:
        return shown_confidence(self.confidence)


@dataclass(frozen=True)
class EvaluationResult:
    """One model on one set of images.

    Attributes:
        model: as it was asked for.
        digest: sha256 of its weights or file.
        imgsz: side in pixels of the square that images were fitted into; None where it is not known.
        asked: names of metrics.
        dropped_classes: of the model, that the data has not: what was found of them did not count.
        notes: what a reader of the numbers should know.
        speed: None unless it was asked for.
    """

    model: str
    digest: str
    runtime: str
    imgsz: int | None
    data: str
    evaluation: Evaluation
    asked: tuple[str, ...]
    served: Served
    dropped_classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    speed: SpeedReport | None = None

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """What was asked for, by name; NaN where nothing defines it."""
        found: dict[str, Any] = values_of(self.evaluation.summary, self.asked)
        return found if self.speed is None else {**found, "speed": self.speed}

    @property
    def sentence(self) -> str:
        """The result in one line."""
        summary = self.evaluation.summary
        return (
            f"{self.model} on {self.data}: mAP50-95 {shown(summary.map50_95)}, mAP50 {shown(summary.map50)}; "
            f"precision {shown(summary.precision)} and recall {shown(summary.recall)} at confidence "
            f"{self.served} ({summary.n_images} images, {summary.n_groups} recordings, "
            f"{summary.n_objects} objects)."
        )

    def to_json(self) -> dict[str, Any]:
        """Equal for equal models and data; only `speed`, where it was asked for, is of the moment."""
        summary = self.evaluation.summary
        document = {
            "model": self.model,
            "model_digest": self.digest,
            "runtime": self.runtime,
            "imgsz": self.imgsz,
            "data": self.data,
            "data_digest": self.evaluation.truth.digest,
            "classes": list(self.evaluation.truth.classes),
            "protocol": self.evaluation.protocol.to_json(),
            "confidence": self.served.confidence,
            "confidence_from": self.served.origin,
            "metrics": {name: _plain(value) for name, value in values_of(summary, self.asked).items()},
            "summary": summary.to_json(),
            "dropped_classes": list(self.dropped_classes),
            "notes": list(self.notes),
        }
        return document if self.speed is None else {**document, "speed": self.speed.to_json()}


@dataclass(frozen=True)
class Difference:
    """A model against the first of a comparison."""

    model: str
    comparison: Comparison


@dataclass(frozen=True)
class ComparedModels:
    """Several models on the same images.

    Attributes:
        results: one for each model, in the order asked.
        differences: of each but the first, to the first.
    """

    results: tuple[EvaluationResult, ...]
    differences: tuple[Difference, ...]

    @property
    def sentence(self) -> str:
        """How each stands to the first, in one line each."""
        first = self.results[0].model
        return "\n".join(
            f"{each.model} against {first}: {each.comparison.reason}" for each in self.differences
        )

    def table(self) -> list[dict[str, Any]]:
        """A row for each model: the asked metrics, and the differences to the first by the metric's name."""
        return [self._row(result) for result in self.results]

    def to_json(self) -> dict[str, Any]:
        """Equal for equal models and data, but for the speeds."""
        return {
            "models": [result.to_json() for result in self.results],
            "differences": [
                {"model": each.model, "against": self.results[0].model, **each.comparison.to_json()}
                for each in self.differences
            ],
        }

    def _row(self, result: EvaluationResult) -> dict[str, Any]:
        own: Mapping[str, Comparison] = {
            each.comparison.metric: each.comparison for each in self.differences if each.model == result.model
        }
        return {"model": result.model, **result.metrics, "differences": own}


def shown(value: float | None) -> str:
    """A score as people read it."""
    return "-" if value is None or math.isnan(value) else f"{value:.4f}"


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else value
