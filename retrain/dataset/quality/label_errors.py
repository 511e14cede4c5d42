"""Which labels are likely wrong, judged by a model: a wrong class, a badly placed box, or a missed object.

References:
    Tkachenko, Thyagarajan & Mueller (2023): ObjectLab: Automated Diagnosis of Mislabeled Images in Object
        Detection Data. arXiv 2309.00832.
    Northcutt, Jiang & Chuang (2021): Confident Learning: Estimating Uncertainty in Dataset Labels. JAIR 70.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import numpy as np

from retrain.boxes import Detections, IntArray
from retrain.dataset.quality.label_error_scores import (
    Scores,
    class_thresholds,
    confident_pairs,
    image_scores,
    softmin,
)
from retrain.dataset.version import DatasetItem
from retrain.errors import BadInput

LabelErrorKind = Literal["swap", "badly-placed", "overlooked"]
Box = tuple[float, float, float, float]


class Suspect(msgspec.Struct, frozen=True, gc=False):
    """A label, or a place without one, that the model disagrees with.

    Attributes:
        kind: wrong class, badly placed box or missed object.
        image: digest.
        object: id of the label; None for an overlooked object.
        score: in [0, 1], low = likely wrong.
        class_index: what the model says it is.
        box: where the model sees it, xyxy in pixels.
        confidence: of that prediction, in [0, 1].
    """

    kind: LabelErrorKind
    image: str
    object: str | None
    score: float
    class_index: int
    box: Box
    confidence: float


class ImageScore(msgspec.Struct, frozen=True, gc=False):
    """How well the labels of an image agree with the model, each in [0, 1], low = likely wrong.

    Attributes:
        score: geometric mean of the three kinds, as in ObjectLab.
        swap, badly_placed, overlooked: softmin over the labels, or over the predictions.
    """

    image: str
    score: float
    swap: float
    badly_placed: float
    overlooked: float


@dataclass(frozen=True)
class LabelErrorRanking:
    """All suspects, worst first; ties by image, kind and object.

    Attributes:
        suspects: every label and prediction with a score below 1. What is not listed has a score of 1.
        images: every image that was judged, worst first.
        thresholds: mean confidence of each class where the labels agree: from half of it on a prediction is evidence,
            from all of it on it counts in the joint.
        confident_joint: labels by given class (row) and class of a confident prediction on them (column), shape
            (classes, classes); off its diagonal it estimates how many labels have which wrong class.
        without_predictions: images that were not judged, sorted.
    """

    suspects: tuple[Suspect, ...]
    images: tuple[ImageScore, ...]
    thresholds: tuple[float, ...]
    confident_joint: IntArray
    without_predictions: tuple[str, ...]

    def of_kind(self, kind: LabelErrorKind) -> tuple[Suspect, ...]:
        """Worst first."""
        return tuple(suspect for suspect in self.suspects if suspect.kind == kind)

    def worst(self, n: int, kind: LabelErrorKind | None = None) -> tuple[Suspect, ...]:
        """The `n` labels to look at first, of one kind or of all."""
        if n < 0:
            raise BadInput(f"n must be 0 or more, got {n}.")
        return (self.suspects if kind is None else self.of_kind(kind))[:n]

    @property
    def expected_swaps(self) -> int:
        """Labels with a confident prediction of another class on them: about how many swaps to look for."""
        return int(self.confident_joint.sum() - np.trace(self.confident_joint))

    def to_json(self) -> dict[str, Any]:
        """Everything, JSON-ready."""
        return {
            "suspects": msgspec.to_builtins(self.suspects),
            "images": msgspec.to_builtins(self.images),
            "thresholds": list(self.thresholds),
            "confident_joint": self.confident_joint.tolist(),
            "without_predictions": list(self.without_predictions),
        }


def rank_label_errors(
    items: Iterable[DatasetItem], predictions: Mapping[str, Detections], classes: int
) -> LabelErrorRanking:
    """Compare labels with predictions and rank what is likely wrong.

    The predictions must come from a model that did not train on the image: train on k - 1 of k folds (split by
    group) and predict the last, or judge data that came after the model. A model that has seen a wrong label
    agrees with it. Predictions should reach down to a low confidence, 0.05 or so: what counts is decided here.

    Args:
        items: the labelled images, each once, with boxes as `check_item` wants them.
        predictions: image digest → what the model sees; an empty one says that it sees nothing. An image that is
            not in it is not judged.
        classes: how many classes there are.

    Raises:
        BadInput: predictions for none of the images or for an unknown one, or a class out of range.
    """
    ordered = sorted(items, key=lambda item: item.image)
    judged = [item for item in ordered if item.image in predictions]
    _check(ordered, judged, predictions, classes)
    pairs = [(item.annotations, predictions[item.image]) for item in judged]
    thresholds = class_thresholds(pairs, classes)
    joint = np.zeros((classes, classes), np.int64)
    suspects: list[Suspect] = []
    images: list[ImageScore] = []
    for item, (labels, predicted) in zip(judged, pairs, strict=True):
        scores = image_scores(labels, predicted, thresholds, math.hypot(item.width, item.height))
        suspects.extend(_suspects(item, predicted, scores))
        images.append(_image_score(item.image, scores))
        given, believed = confident_pairs(labels, predicted, thresholds).T
        np.add.at(joint, (given, believed), 1)
    return LabelErrorRanking(
        suspects=tuple(sorted(suspects, key=lambda s: (s.score, s.image, s.kind, s.object or "", s.box))),
        images=tuple(sorted(images, key=lambda s: (s.score, s.image))),
        thresholds=tuple(thresholds.tolist()),
        confident_joint=joint,
        without_predictions=tuple(item.image for item in ordered if item.image not in predictions),
    )


def _check(
    items: Sequence[DatasetItem],
    judged: Sequence[DatasetItem],
    predictions: Mapping[str, Detections],
    classes: int,
) -> None:
    if items and not judged:
        raise BadInput(f"There are predictions for none of the {len(items)} images. Keys are image digests.")
    if unknown := sorted(predictions.keys() - {item.image for item in judged}):
        raise BadInput(f"Predictions for {len(unknown)} unknown images, {unknown[0]} among them.")
    for item in judged:
        found = [*(o.class_index for o in item.objects), *predictions[item.image].classes.tolist()]
        if found and not 0 <= min(found) <= max(found) < classes:
            raise BadInput(
                f"Image {item.image}: classes must be 0 to {classes - 1}, got {min(found)} to {max(found)}."
            )


def _suspects(item: DatasetItem, predicted: Detections, scores: Scores) -> Iterator[Suspect]:
    by_label: tuple[tuple[LabelErrorKind, Any, IntArray], ...] = (
        ("swap", scores.swap, scores.swap_by),
        ("badly-placed", scores.badly_placed, scores.placed_by),
    )
    for kind, values, sources in by_label:
        for place in np.flatnonzero(values < 1):
            label = item.objects[place]
            yield _suspect(kind, item.image, label.id, float(values[place]), predicted, int(sources[place]))
    for source in np.flatnonzero(scores.overlooked < 1):
        score = float(scores.overlooked[source])
        yield _suspect("overlooked", item.image, None, score, predicted, int(source))


def _suspect(
    kind: LabelErrorKind, image: str, label: str | None, score: float, predicted: Detections, source: int
) -> Suspect:
    x1, y1, x2, y2 = predicted.boxes[source].tolist()
    return Suspect(
        kind=kind,
        image=image,
        object=label,
        score=score,
        class_index=int(predicted.classes[source]),
        box=(x1, y1, x2, y2),
        confidence=float(predicted.scores[source]),
    )


def _image_score(image: str, scores: Scores) -> ImageScore:
    swap, badly_placed, overlooked = (
        softmin(values) for values in (scores.swap, scores.badly_placed, scores.overlooked)
    )
    return ImageScore(image, math.cbrt(swap * badly_placed * overlooked), swap, badly_placed, overlooked)
