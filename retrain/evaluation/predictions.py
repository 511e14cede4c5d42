"""What a model found in the images it is judged by, in columns: one row per detection."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from retrain.boxes import Detections, FloatArray, IntArray
from retrain.errors import BadInput
from retrain.evaluation.sizes import may_be_sizes, own_sizes, sizes_from_json, sizes_to_json
from retrain.evaluation.truth import LARGEST_AREA, Truth


@dataclass(frozen=True, eq=False)
class Predictions:
    """Detections, by image and falling score, in an order that does not depend on the one they came in.

    Attributes:
        image: index of the image in `Truth.images`, shape (n,), rising.
        label: class, shape (n,).
        boxes: xyxy in pixels, shape (n, 4).
        scores: confidence in [0, 1], shape (n,).
        sizes: width and height in pixels, as stated, else `own_sizes` of the boxes, shape (n, 2).
    """

    image: IntArray
    label: IntArray
    boxes: FloatArray
    scores: FloatArray
    sizes: FloatArray

    @classmethod
    def of(cls, truth: Truth, found: Mapping[str, Detections]) -> "Predictions":
        """What was found in each image, by its id; put in order and checked.

        Raises:
            BadInput: an image that there is no truth of, one that nobody looked at, or as for `of_columns`.
        """
        if unknown := set(found).difference(truth.images):
            raise BadInput(
                f"{len(unknown)} images were predicted that are not among the {len(truth.images)} labelled ones, "
                f"first {min(unknown)!r}; predict the images of this set."
            )
        if missing := set(truth.images).difference(found):
            raise BadInput(
                f"{len(missing)} labelled images were not predicted, first {min(missing)!r}; say so of an "
                "image in which nothing was found."
            )
        each = [found[image] for image in truth.images]
        image = np.repeat(np.arange(len(each)), [len(one) for one in each]).astype(np.int64)
        boxes = np.concatenate([one.boxes for one in each])
        return cls.of_columns(
            truth,
            image,
            np.concatenate([one.classes for one in each]),
            boxes,
            np.concatenate([one.scores for one in each]),
            own_sizes(boxes),
        )

    @classmethod
    def of_columns(
        cls,
        truth: Truth,
        image: IntArray,
        label: IntArray,
        boxes: FloatArray,
        scores: FloatArray,
        sizes: FloatArray,
    ) -> "Predictions":
        """Columns in any order, put in order and checked; no image is asked for that has no row.

        Raises:
            BadInput: a class without a name, or a box, size or score that cannot be, such as NaN, which would poison
                every later sum.
        """
        if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
            raise BadInput(
                "A detection has a box or score that is not finite; the model's output cannot be scored."
            )
        if ((scores < 0) | (scores > 1)).any() or (boxes[:, 2:] < boxes[:, :2]).any():
            raise BadInput(
                "A detection has a score outside [0, 1] or a box turned inside out; the model's output cannot be "
                "scored."
            )
        if not (right := may_be_sizes(boxes, sizes)).all():
            row = int(right.argmin())
            raise BadInput(
                f"A detection has the size {sizes[row].tolist()}, which is not that of its box {boxes[row].tolist()}."
            )
        if len(sizes) and (largest := float((sizes[:, 0] * sizes[:, 1]).max())) > LARGEST_AREA:
            raise BadInput(
                f"A detection has a box of {largest:g} square pixels; COCO counts none above {LARGEST_AREA:g}. Is its "
                "box in pixels?"
            )
        if len(label) and label.max() >= len(truth.classes):
            raise BadInput(
                f"A detection has class {label.max()}, but there are {len(truth.classes)} classes; was the model "
                "trained for others?"
            )
        order = _order(image, label, boxes, scores, sizes)
        return cls(image[order], label[order], boxes[order], scores[order], sizes[order])

    def __len__(self) -> int:
        return len(self.image)

    def check(self, truth: Truth) -> None:
        """See whether these may be predictions of the images of `truth`, as `of` makes them.

        Raises:
            BadInput: columns of unequal length, an image or class that there is not, a box, size or score that cannot
                be, or another order.
        """
        if {len(self), len(self.label), len(self.boxes), len(self.sizes)} != {len(self.scores)}:
            raise BadInput("its detections have columns of unequal length")
        for what, column, right in (
            ("image", self.image, (self.image >= 0) & (self.image < len(truth.images))),
            ("class", self.label, (self.label >= 0) & (self.label < len(truth.classes))),
            ("score", self.scores, (self.scores >= 0) & (self.scores <= 1)),
            (
                "box",
                self.boxes,
                np.isfinite(self.boxes).all(axis=1) & (own_sizes(self.boxes) >= 0).all(axis=1),
            ),
            ("size", self.sizes, may_be_sizes(self.boxes, self.sizes)),
        ):
            if not right.all():
                raise BadInput(f"a detection has the {what} {column[int(right.argmin())].tolist()}")
        order = _order(self.image, self.label, self.boxes, self.scores, self.sizes)
        if (order != np.arange(len(order))).any():
            raise BadInput("its detections are in another order")

    def only(self, rows: IntArray) -> "Predictions":
        """In the images of these indices, rising, which are counted anew."""
        keep = np.isin(self.image, rows)
        image = np.searchsorted(rows, self.image[keep]).astype(np.int64)
        return Predictions(image, self.label[keep], self.boxes[keep], self.scores[keep], self.sizes[keep])

    def to_json(self) -> dict[str, Any]:
        """`from_json` gives back equal values."""
        return {
            "image": self.image.tolist(),
            "label": self.label.tolist(),
            "boxes": self.boxes.tolist(),
            "scores": self.scores.tolist(),
            **sizes_to_json(self.boxes, self.sizes),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Predictions":
        boxes = np.asarray(data["boxes"], dtype=np.float64).reshape(-1, 4)
        return cls(
            np.asarray(data["image"], dtype=np.int64),
            np.asarray(data["label"], dtype=np.int64),
            boxes,
            np.asarray(data["scores"], dtype=np.float64),
            sizes_from_json(data, boxes),
        )


def _order(
    image: IntArray, label: IntArray, boxes: FloatArray, scores: FloatArray, sizes: FloatArray
) -> IntArray:
    # Which of two equal scores comes first decides average precision.
    return np.lexsort((*sizes.T[::-1], *boxes.T[::-1], label, -scores, image))
