"""Run a detector over labelled images and keep what every later question about it needs."""

import json
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrain.boxes import Annotations, Detections
from retrain.errors import BadInput, NotFound
from retrain.evaluation.matching import ImageMatch, match
from retrain.evaluation.metrics import MetricSummary, summarise
from retrain.storage.files import write_whole

Image = NDArray[np.uint8]
Predict = Callable[[Sequence[Image]], Sequence[Detections]]


class EvaluationItem(NamedTuple):
    """One labelled image; `group` is its recording, the unit that resampling draws."""

    image_id: str
    group: str
    load: Callable[[], Image]
    truth: Annotations


@dataclass(frozen=True)
class Evaluation:
    """One model on one set of images: match records, not just their averages.

    Comparisons and slices are computed from this without running a model again.
    """

    image_ids: tuple[str, ...]
    groups: tuple[str, ...]
    matches: tuple[ImageMatch, ...]
    n_classes: int
    confidence: float

    @cached_property
    def summary(self) -> MetricSummary:
        return summarise(self.matches, self.n_classes, confidence=self.confidence)

    def only(self, image_ids: Collection[str]) -> "Evaluation":
        """The slice of these images, in the order evaluated.

        Raises:
            NotFound: an id was not evaluated.
        """
        wanted = set(image_ids)
        if missing := wanted - set(self.image_ids):
            raise NotFound(f"{len(missing)} images of the slice were not evaluated, first {min(missing)!r}.")
        keep = [index for index, image_id in enumerate(self.image_ids) if image_id in wanted]
        return Evaluation(
            tuple(self.image_ids[index] for index in keep),
            tuple(self.groups[index] for index in keep),
            tuple(self.matches[index] for index in keep),
            self.n_classes,
            self.confidence,
        )

    def save(self, path: Path) -> None:
        """Write as JSON; the file is complete or absent, also when the disk is full or the process is killed."""
        document = {
            "n_classes": self.n_classes,
            "confidence": self.confidence,
            "summary": self.summary.to_json(),
            "images": [
                {"id": image_id, "group": group, **item.to_json()}
                for image_id, group, item in zip(self.image_ids, self.groups, self.matches, strict=True)
            ],
        }
        write_whole(path, json.dumps(document, allow_nan=False).encode())

    @classmethod
    def load(cls, path: Path) -> "Evaluation":
        """Read what `save` wrote.

        Raises:
            NotFound: no such file.
            BadInput: not an evaluation.
        """
        try:
            document = json.loads(path.read_bytes())
            images = document["images"]
            return cls(
                tuple(image["id"] for image in images),
                tuple(image["group"] for image in images),
                tuple(ImageMatch.from_json(image) for image in images),
                document["n_classes"],
                document["confidence"],
            )
        except FileNotFoundError as error:
            raise NotFound(f"No evaluation at {path}; run the evaluate stage first.") from error
        except (ValueError, KeyError, TypeError) as error:
            raise BadInput(
                f"{path} is not a stored evaluation ({error}); delete it and evaluate again."
            ) from error


def evaluate(
    predict: Predict,
    items: Iterable[EvaluationItem],
    n_classes: int,
    *,
    batch_size: int = 16,
    confidence: float = 0.25,
    on_progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Predict every image once, `batch_size` at a time, and match it against its truth.

    Args:
        predict: gives one `Detections` per image; ask it for all of low confidence too, mAP needs them.
        confidence: operating point of precision, recall and F1.
        on_progress: told how many images are done, after each batch.

    Raises:
        BadInput: no image, an image twice, a class outside the range, or a wrong number of predictions.
    """
    image_ids: list[str] = []
    groups: list[str] = []
    matches: list[ImageMatch] = []
    for batch in _batches(items, batch_size):
        predictions = predict([item.load() for item in batch])
        if len(predictions) != len(batch):
            raise BadInput(f"The detector gave {len(predictions)} answers for {len(batch)} images.")
        matches += [match(found, item.truth) for found, item in zip(predictions, batch, strict=True)]
        image_ids += [item.image_id for item in batch]
        groups += [item.group for item in batch]
        if on_progress:
            on_progress(len(image_ids))
    if not image_ids:
        raise BadInput("There is no image to evaluate on; check the split and the slice.")
    if len(set(image_ids)) < len(image_ids):
        raise BadInput(f"{len(image_ids) - len(set(image_ids))} images are in the evaluation set twice.")
    result = Evaluation(tuple(image_ids), tuple(groups), tuple(matches), n_classes, confidence)
    _ = result.summary  # Refuses classes outside the range here, not at the first reader.
    return result


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
