"""Labels frames with the model itself where it is sure, and sends the rest to a person."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrain.boxes import Annotations, Detections
from retrain.errors import ConfigError

Image = NDArray[np.uint8]
Predict = Callable[[Sequence[Image]], Sequence[Detections]]

SCORE_FLOOR = 0.25
"""Boxes below this are never proposed."""


class AutoLabel(NamedTuple):
    """The model's proposal for one frame.

    Attributes:
        annotations: the proposed boxes, to be used as they are only when no review is needed.
        needs_review: a person must look before these boxes may be called true.
        reason: why, in words.
        proposal: the same boxes with their scores, to show to the person.
    """

    annotations: Annotations
    needs_review: bool
    reason: str
    proposal: Detections


class AutoLabeler:
    """Accepts a frame unseen only if the model found something and is sure of every box it shows."""

    def __init__(
        self,
        predict: Predict | None = None,
        model_path: str | Path | None = None,
        confidence_threshold: float = 0.8,
        require_review: bool = True,
        floor: float = SCORE_FLOOR,
    ) -> None:
        """Set the rule.

        Args:
            predict: boxes for a batch of images; or give `model_path`.
            model_path: folder of a release or a trained model.
            confidence_threshold: every box at or above `floor` must reach it.
            require_review: off accepts every frame, the unsure ones too.

        Raises:
            ConfigError: both or neither of `predict` and `model_path`, or a threshold out of range.
        """
        if (predict is None) == (model_path is None):
            raise ConfigError("An AutoLabeler needs either predict or model_path.")
        if not 0 <= floor <= confidence_threshold <= 1:
            raise ConfigError(
                "Thresholds must be 0 <= floor <= confidence_threshold <= 1, "
                f"got {floor} and {confidence_threshold}."
            )
        self._predict = predict if predict is not None else _loaded(Path(str(model_path)))
        self._threshold, self._floor = confidence_threshold, floor
        self._require_review = require_review

    def label_batch(self, images: Sequence[Image]) -> list[AutoLabel]:
        """One proposal per image, in order."""
        found = self._predict(images)
        return [self._label(detections) for _, detections in zip(images, found, strict=True)]

    def _label(self, detections: Detections) -> AutoLabel:
        shown = detections.above(self._floor)
        unsure = int((shown.scores < self._threshold).sum())
        if len(shown) == 0:
            doubt = "no boxes: an empty scene and a blind model look the same"
        elif unsure:
            doubt = f"{unsure} of {len(shown)} boxes score below {self._threshold:g}"
        else:
            return AutoLabel(shown.as_annotations(), False, f"all {len(shown)} boxes are sure", shown)
        reason = doubt if self._require_review else f"accepted unreviewed: {doubt}"
        return AutoLabel(shown.as_annotations(), self._require_review, reason, shown)


def _loaded(folder: Path) -> Predict:
    # Torch takes seconds to import and is not needed by callers that bring their own model.
    from retrain.detector import Detector

    return Detector.load(folder).predict
