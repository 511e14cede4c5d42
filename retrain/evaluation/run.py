"""Ask a detector about labelled images and keep all it answered."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from retrain.boxes import Annotations, Detections
from retrain.errors import BadInput
from retrain.evaluation.arguments import checked_list
from retrain.evaluation.evaluation import Evaluation
from retrain.evaluation.predictions import Predictions
from retrain.evaluation.protocol import EvaluationProtocol
from retrain.evaluation.served_confidence import ServedConfidence, limits, plain
from retrain.evaluation.truth import LabelledImage, Truth

Image = NDArray[np.uint8]


class Predict(Protocol):
    """Gives one `Detections` per image, as `retrain.detector.Detector.predict` does."""

    def __call__(
        self, images: Sequence[Image], /, *, confidence: float, iou: float, max_detections: int
    ) -> Sequence[Detections]: ...


@dataclass(frozen=True)
class EvaluationItem:
    """One labelled image that can be loaded; see `LabelledImage`."""

    image_id: str
    group: str
    load: Callable[[], Image]
    truth: Annotations
    crowd: Sequence[bool] | None = None
    areas: Sequence[float] | None = None
    sizes: Sequence[Sequence[float]] | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    position: int = 0

    @property
    def labelled(self) -> LabelledImage:
        return LabelledImage(
            self.image_id,
            self.group,
            self.truth,
            self.crowd,
            self.areas,
            self.sizes,
            self.attributes,
            self.position,
        )


def evaluate(
    predict: Predict,
    items: Iterable[EvaluationItem],
    classes: Sequence[str],
    *,
    protocol: EvaluationProtocol | None = None,
    batch_size: int = 16,
    confidence: ServedConfidence = 0.25,
    on_progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Predict every image once, `batch_size` at a time.

    Args:
        classes: names, by index; those of the detector are the same.
        protocol: how the detector is asked.
        confidence: from which boxes are served; the operating point of precision, recall and F1.
        on_progress: told how many images are done, after each batch.

    Raises:
        ConfigError: `classes` is no list.
        BadInput: a confidence out of range, no image, an image twice, a class outside the range, or a wrong number of
            predictions.
    """
    protocol = protocol or EvaluationProtocol()
    classes = checked_list(classes, "classes")
    # Told before the model is asked, not after.
    served = plain(dict(zip(classes, limits(confidence, classes).tolist(), strict=True)))
    images: list[LabelledImage] = []
    found: dict[str, Detections] = {}
    for batch in _batches(items, batch_size):
        pixels = [item.load() for item in batch]
        answers = predict(pixels, **protocol.asking)
        if len(answers) != len(batch):
            raise BadInput(f"The detector gave {len(answers)} answers for {len(batch)} images.")
        images += [_with_brightness(item.labelled, own) for item, own in zip(batch, pixels, strict=True)]
        found |= {item.image_id: answer for item, answer in zip(batch, answers, strict=True)}
        if on_progress:
            on_progress(len(images))
    truth = Truth.of(images, classes)
    result = Evaluation(truth, Predictions.of(truth, found), protocol, served)
    _ = result.summary  # What is wrong with it is told here, not to the first reader.
    return result


def _with_brightness(image: LabelledImage, pixels: Image) -> LabelledImage:
    """With the mean of its pixels from 0 to 255 among its attributes, unless it has one of that name."""
    return replace(image, attributes={"brightness": round(float(pixels.mean()), 1), **image.attributes})


def _batches(items: Iterable[EvaluationItem], size: int) -> Iterable[list[EvaluationItem]]:
    if size < 1:
        raise BadInput(f"batch_size must be at least 1, got {size}.")
    batch: list[EvaluationItem] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
