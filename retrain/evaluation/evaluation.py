"""What one model found in one set of labelled images, whole: later questions are answered without the model."""

import json
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from retrain.boxes import IntArray
from retrain.errors import BadInput, NotFound
from retrain.evaluation.average_precision import AveragePrecision
from retrain.evaluation.matching import Matches, match
from retrain.evaluation.metrics import MetricCalculator, MetricSummary
from retrain.evaluation.predictions import Predictions
from retrain.evaluation.protocol import EvaluationProtocol
from retrain.evaluation.served_confidence import ServedConfidence, limits
from retrain.evaluation.truth import BoolArray, Truth
from retrain.storage.files import write_whole

_FORMAT = 2


@dataclass(frozen=True, eq=False)
class Evaluation:
    """One model on one set of images.

    Attributes:
        protocol: how it was asked.
        confidence: from which boxes are served; the operating point of precision, recall and F1.
    """

    truth: Truth
    predictions: Predictions
    protocol: EvaluationProtocol
    confidence: ServedConfidence

    @cached_property
    def matches(self) -> Matches:
        return match(self.truth, self.predictions)

    @cached_property
    def served(self) -> BoolArray:
        """Detections that count at `confidence`, shape (detections,)."""
        return self.served_from(self.confidence)

    def served_from(self, confidence: ServedConfidence) -> BoolArray:
        """Detections that would count at another confidence, shape (detections,)."""
        enough = limits(confidence, self.truth.classes)[self.predictions.label]
        return self.matches.counted & (self.predictions.scores >= enough)

    @cached_property
    def calculator(self) -> MetricCalculator:
        return MetricCalculator(self.truth, self.predictions, self.matches)

    @cached_property
    def summary(self) -> MetricSummary:
        return self.calculator.summary(self.confidence)

    def average_precision(self, units: IntArray | None = None) -> AveragePrecision:
        """For weightings of images, or of units such as `truth.group_of`."""
        return self.calculator.average_precision(units)

    def only(self, image_ids: Collection[str]) -> "Evaluation":
        """The slice of these images.

        Raises:
            NotFound: an id was not evaluated.
        """
        rows = self.truth.rows_of(image_ids)
        return Evaluation(self.truth.only(rows), self.predictions.only(rows), self.protocol, self.confidence)

    def save(self, path: Path) -> None:
        """Write as JSON; the file is complete or absent, also when the disk is full or the process is killed."""
        document = {
            "format": _FORMAT,
            "protocol": self.protocol.to_json(),
            "confidence": self.confidence,
            "truth_digest": self.truth.digest,
            "summary": self.summary.to_json(),
            "truth": self.truth.to_json(),
            "predictions": self.predictions.to_json(),
        }
        write_whole(path, json.dumps(document, allow_nan=False).encode())

    @classmethod
    def load(cls, path: Path) -> "Evaluation":
        """Read what `save` wrote.

        Raises:
            NotFound: no such file.
            BadInput: not an evaluation, damaged, or scored in another way than now.
        """
        document = _document(path)
        try:
            if document["format"] != _FORMAT:
                raise BadInput(f"it has format {document['format']}, not {_FORMAT}")
            loaded = cls(
                Truth.from_json(document["truth"]),
                Predictions.from_json(document["predictions"]),
                EvaluationProtocol.from_json(document["protocol"]),
                document["confidence"],
            )
            if loaded.truth.digest != document["truth_digest"]:
                raise BadInput("its images or objects were changed")
            if len(loaded.truth.attributes) != len(loaded.truth.images):
                raise BadInput("it has not as many attributes as images")
            limits(loaded.confidence, loaded.truth.classes)
            loaded.predictions.check(loaded.truth)
        except (ValueError, KeyError, TypeError, IndexError, OverflowError) as error:
            raise _damaged(path, error) from error
        return loaded


def _document(path: Path) -> Any:
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise NotFound(f"No evaluation at {path}; run the evaluate stage first.") from error
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise _damaged(path, error) from error
    if isinstance(document, dict) and "format" not in document:
        raise BadInput(
            f"{path} is not a stored evaluation; give a file that `retrain evaluate` wrote by --save, not by --json."
        )
    return document


def _damaged(path: Path, error: Exception) -> BadInput:
    return BadInput(f"{path} is not a stored evaluation ({error}); delete it and evaluate again.")
