"""One box convention for the whole project: float xyxy in pixels, origin at the top-left corner of the image.

`x2`, `y2` are exclusive edges (a box over one pixel has width 1), so width is `x2 - x1`. Converters at the
borders (YOLO, COCO, VOC) translate to this; nothing inside the project uses anything else.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrain.errors import BadInput

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Annotations:
    """Boxes said to be true in one image.

    Attributes:
        boxes: xyxy in pixels, shape (n, 4).
        classes: class indices, shape (n,).
    """

    boxes: FloatArray
    classes: IntArray

    @classmethod
    def of(
        cls, boxes: Sequence[Sequence[float]] | FloatArray, classes: Sequence[int] | IntArray
    ) -> "Annotations":
        """Check and convert plain sequences.

        Raises:
            BadInput: a box that is not four finite numbers with x2 >= x1 and y2 >= y1, or unequal lengths.
        """
        return cls(_checked_boxes(boxes), _checked_classes(classes, len(boxes)))

    @classmethod
    def empty(cls) -> "Annotations":
        return cls.of([], [])

    def __len__(self) -> int:
        return len(self.boxes)

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready mapping; `from_json` gives back equal values."""
        return {"boxes": self.boxes.tolist(), "classes": self.classes.tolist()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Annotations":
        return cls.of(data["boxes"], data["classes"])


@dataclass(frozen=True)
class Detections:
    """Boxes a model proposes in one image, best score first.

    Attributes:
        boxes: xyxy in pixels, shape (n, 4).
        classes: class indices, shape (n,).
        scores: confidence in [0, 1], shape (n,).
    """

    boxes: FloatArray
    classes: IntArray
    scores: FloatArray

    @classmethod
    def of(
        cls,
        boxes: Sequence[Sequence[float]] | FloatArray,
        classes: Sequence[int] | IntArray,
        scores: Sequence[float] | FloatArray,
    ) -> "Detections":
        """Check, convert and order by falling score (ties keep their order).

        Raises:
            BadInput: boxes or classes as for `Annotations.of`, or a score outside [0, 1].
        """
        checked, labels = _checked_boxes(boxes), _checked_classes(classes, len(boxes))
        confidence = np.asarray(scores, dtype=np.float64).reshape(-1)
        if len(confidence) != len(checked):
            raise BadInput(
                f"Every box needs one score, got {len(checked)} boxes and {len(confidence)} scores."
            )
        if not np.all((confidence >= 0) & (confidence <= 1)):
            raise BadInput(f"Scores must be in [0, 1], got {confidence.tolist()}.")
        order = np.argsort(-confidence, kind="stable")
        return cls(checked[order], labels[order], confidence[order])

    @classmethod
    def empty(cls) -> "Detections":
        return cls.of([], [], [])

    def __len__(self) -> int:
        return len(self.boxes)

    def above(self, score: float) -> "Detections":
        """Only those with a score of at least `score`."""
        keep = self.scores >= score
        return Detections(self.boxes[keep], self.classes[keep], self.scores[keep])

    def as_annotations(self) -> Annotations:
        """The boxes taken as true, scores dropped (a pseudo-label)."""
        return Annotations(self.boxes, self.classes)

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready mapping; `from_json` gives back equal values."""
        return {
            "boxes": self.boxes.tolist(),
            "classes": self.classes.tolist(),
            "scores": self.scores.tolist(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Detections":
        return cls.of(data["boxes"], data["classes"], data["scores"])


def iou_matrix(a: FloatArray, b: FloatArray) -> FloatArray:
    """Intersection over union of every box in `a` with every box in `b`.

    Args:
        a: xyxy in pixels, shape (n, 4).
        b: xyxy in pixels, shape (m, 4).

    Returns:
        Shape (n, m), in [0, 1]. Two boxes of zero area have IoU 0, not NaN.
    """
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    overlap = np.prod(np.clip(high - low, 0.0, None), axis=2)
    area_a = np.prod(a[:, 2:] - a[:, :2], axis=1)
    area_b = np.prod(b[:, 2:] - b[:, :2], axis=1)
    union = area_a[:, None] + area_b[None, :] - overlap
    shares: FloatArray = np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0)
    return shares


def xyxy_to_yolo(boxes: FloatArray, width: int, height: int) -> FloatArray:
    """Centre x, centre y, width, height as fractions of the image, shape (n, 4)."""
    scale = np.array([width, height, width, height], dtype=np.float64)
    centre, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    fractions: FloatArray = np.concatenate([centre, size], axis=1) / scale
    return fractions


def yolo_to_xyxy(boxes: FloatArray, width: int, height: int) -> FloatArray:
    """Inverse of `xyxy_to_yolo`, shape (n, 4)."""
    scale = np.array([width, height, width, height], dtype=np.float64)
    centre, half = boxes[:, :2], boxes[:, 2:] / 2
    corners: FloatArray = np.concatenate([centre - half, centre + half], axis=1) * scale
    return corners


def _checked_boxes(boxes: Sequence[Sequence[float]] | FloatArray) -> FloatArray:
    try:
        array = np.asarray(boxes, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise BadInput(f"Boxes must be four numbers each, got {boxes!r:.200}.") from error
    if array.size == 0:
        return np.zeros((0, 4))
    if array.ndim != 2 or array.shape[1] != 4:
        raise BadInput(f"Boxes must have shape (n, 4), got {array.shape}.")
    if not np.all(np.isfinite(array)):
        raise BadInput(f"Boxes must be finite, got {array[~np.isfinite(array).all(axis=1)][0].tolist()}.")
    upside_down = (array[:, 2] < array[:, 0]) | (array[:, 3] < array[:, 1])
    if upside_down.any():
        raise BadInput(
            f"Boxes are x1, y1, x2, y2 with x2 >= x1 and y2 >= y1, got {array[upside_down][0].tolist()}."
        )
    return array


def _checked_classes(classes: Sequence[int] | IntArray, count: int) -> IntArray:
    array = np.asarray(classes).reshape(-1)
    if len(array) != count:
        raise BadInput(f"Every box needs one class, got {count} boxes and {len(array)} classes.")
    if array.size and (not np.issubdtype(array.dtype, np.integer) or array.min() < 0):
        raise BadInput(f"Classes must be indices from 0, got {array.tolist()}.")
    return array.astype(np.int64)
