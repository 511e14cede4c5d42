"""Turns what a caller hands over into what strategies see, and checks it all where the caller asked for errors."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrain.data_collection.capture_time import capture_time
from retrain.data_collection.frame import Frame, FrameConfidence, Seen, checked_confidence, scores_confidence
from retrain.data_collection.metadata import json_metadata
from retrain.data_collection.prediction import has_class_names, inside, read_prediction
from retrain.data_collection.spool.offer import Offer, plain_prediction
from retrain.errors import BadInput
from retrain.images import read_image


class FrameReader:
    """Reads predictions of one model.

    Args:
        classes: names in index order, for predictions that name their class.
        rule: how the scores of a frame's boxes become its one confidence.
    """

    def __init__(self, classes: Sequence[str], rule: FrameConfidence, clock: Callable[[], float]) -> None:
        self._classes, self._rule, self._clock = tuple(classes), rule, clock

    def confidence(self, given: float | None, prediction: Any) -> float | None:
        """The confidence that was given, checked, or that of the prediction; None when it has no box."""
        if given is None:
            given = scores_confidence(self._seen(prediction).scores, self._rule)
        return checked_confidence(given)

    def frame(
        self,
        confidence: float | None,
        prediction: Any,
        camera: str,
        details: Mapping[str, Any],
        flipped: Any,
        shadow: Any,
    ) -> Frame:
        """For strategies that look at boxes."""
        return Frame(
            confidence,
            *self._seen(prediction),
            camera=camera,
            captured_at=capture_time(details.get("captured_at"), self._clock()),
            width=details.get("width", 0),
            height=details.get("height", 0),
            flipped=None if flipped is None else self._seen(plain_prediction(flipped)),
            shadow=None if shadow is None else self._seen(plain_prediction(shadow)),
        )

    def classes_for(self, prediction: Any) -> int | tuple[str, ...]:
        """What whoever reads the prediction later must know of the classes, see `Offer`."""
        return self._classes if has_class_names(prediction) else len(self._classes)

    def check(
        self,
        offer: Offer,
        path: str | os.PathLike[str] | None,
        image: bytes | NDArray[np.uint8] | None,
    ) -> None:
        """Find now what is otherwise found, and counted, when the record is read.

        Args:
            offer: as it is read then.

        Raises:
            BadInput: the image cannot be decoded, the prediction does not fit it, or metadata are no JSON values.
        """
        captured_at = capture_time(offer.metadata.get("captured_at"), offer.taken_at)
        json_metadata({**offer.metadata, "captured_at": captured_at})
        detections = read_prediction(offer.prediction, offer.confidence, self._classes)
        if isinstance(image, np.ndarray):
            inside(detections, image.shape[1], image.shape[0], len(self._classes))
            return
        try:
            found = read_image(os.fspath(path) if path is not None else bytes(image or b""))
        except BadInput as error:
            raise BadInput(f"The image {error}.") from error
        inside(detections, found.width, found.height, len(self._classes))

    def _seen(self, prediction: Any) -> Seen:
        if isinstance(prediction, Mapping) and "boxes" in prediction and "scores" in prediction:
            return Seen(prediction["boxes"], prediction["classes"], prediction["scores"])
        return Seen.of(read_prediction(prediction, None, self._classes))
