"""What is true of the images that models are judged by, in columns: one row per object."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from retrain.boxes import Annotations, FloatArray, IntArray
from retrain.errors import BadInput, NotFound
from retrain.evaluation.sizes import are_own, may_be_sizes, own_sizes, sizes_from_json, sizes_to_json

BoolArray = NDArray[np.bool_]
LARGEST_AREA = 1e10
"""Square pixels. COCO leaves larger objects out of all its numbers, and so would every other count have to."""


@dataclass(frozen=True)
class LabelledImage:
    """What is true of one image.

    Attributes:
        group: its recording, the unit that resampling draws.
        crowd: which objects stand for many; what is found in them counts neither for nor against a model. None: none.
        areas: of the objects in square pixels, where they are not those of their boxes.
        sizes: width and height of each object, where they were stated: differences of corners are rounded.
        attributes: what images are told apart by, such as their camera.
        position: among the images; those of one position are ordered by id. Of equal scores in two images that in the
            earlier one counts first.
    """

    image_id: str
    group: str
    objects: Annotations
    crowd: Sequence[bool] | None = None
    areas: Sequence[float] | None = None
    sizes: Sequence[Sequence[float]] | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    position: int = 0


@dataclass(frozen=True, eq=False)
class Truth:
    """Labelled images, in an order that does not depend on the one they came in.

    Attributes:
        images: ids, by position and rising.
        groups: recording of each image.
        classes: names, by index.
        attributes: of each image.
        image: index of the image that each object is in, shape (n,), rising.
        label: class of each object, shape (n,).
        boxes: xyxy in pixels, shape (n, 4).
        crowd: shape (n,).
        area: in square pixels, shape (n,).
        sizes: width and height in pixels, as stated, else `own_sizes` of the boxes, shape (n, 2).
    """

    images: tuple[str, ...]
    groups: tuple[str, ...]
    classes: tuple[str, ...]
    attributes: tuple[Mapping[str, Any], ...]
    image: IntArray
    label: IntArray
    boxes: FloatArray
    crowd: BoolArray
    area: FloatArray
    sizes: FloatArray

    @classmethod
    def of(cls, images: Iterable[LabelledImage], classes: Sequence[str]) -> "Truth":
        """Put in order and check.

        Raises:
            BadInput: no image, no class, an image twice, a class that has no name, not as many crowds, areas or sizes
                as objects, or sizes that are not those of the boxes.
        """
        ordered = sorted(images, key=lambda each: (each.position, each.image_id))
        if not ordered:
            raise BadInput("There is no image to evaluate on; check the split and the slice.")
        if not classes:
            raise BadInput("There are no classes, so there is nothing to judge a model by; check the labels.")
        ids = [each.image_id for each in ordered]
        if len(set(ids)) < len(ids):
            raise BadInput(f"{len(ids) - len(set(ids))} images are in the evaluation set twice.")
        counts = [len(each.objects) for each in ordered]
        image = np.repeat(np.arange(len(ordered)), counts).astype(np.int64)
        label = np.concatenate([each.objects.classes for each in ordered])
        boxes = np.concatenate([each.objects.boxes for each in ordered])
        if len(label) and label.max() >= len(classes):
            wrong = ids[image[label.argmax()]]
            raise BadInput(
                f"Image {wrong!r} has an object of class {label.max()}, but there are {len(classes)} classes."
            )
        crowd = np.concatenate([_per_object(each, each.crowd, "crowd", False) for each in ordered])
        starts = np.cumsum(counts)[:-1]
        own_size = np.split(own_sizes(boxes), starts)
        sizes = np.concatenate(
            [_per_object(each, each.sizes, "sizes", own) for each, own in zip(ordered, own_size, strict=True)]
        ).astype(np.float64)
        if not (right := may_be_sizes(boxes, sizes)).all():
            row = int(right.argmin())
            raise BadInput(
                f"Image {ids[image[row]]!r} has an object of the size {sizes[row].tolist()}, which is not that of its "
                f"box {boxes[row].tolist()}."
            )
        own_area = np.split(sizes[:, 0] * sizes[:, 1], starts)
        area = np.concatenate(
            [_per_object(each, each.areas, "areas", own) for each, own in zip(ordered, own_area, strict=True)]
        )
        if len(area) and not 0 <= (extreme := float(area[np.abs(area).argmax()])) <= LARGEST_AREA:
            wrong = ids[image[np.abs(area).argmax()]]
            raise BadInput(
                f"Image {wrong!r} has an object of {extreme:g} square pixels; COCO counts none above "
                f"{LARGEST_AREA:g}. Correct the label."
            )
        # Which of two equal overlaps is taken depends on the order of the objects.
        order = np.lexsort((*sizes.T[::-1], *boxes.T[::-1], label, crowd, image))
        return cls(
            tuple(ids),
            tuple(each.group for each in ordered),
            tuple(classes),
            tuple(each.attributes for each in ordered),
            image[order],
            label[order],
            boxes[order],
            crowd[order].astype(bool),
            area[order].astype(np.float64),
            sizes[order],
        )

    def __len__(self) -> int:
        return len(self.image)

    @cached_property
    def group_of(self) -> IntArray:
        """Index of each image's group among the groups in rising order, shape (images,)."""
        return np.unique(self.groups, return_inverse=True)[1].astype(np.int64)

    @cached_property
    def digest(self) -> str:
        """The same for the same images, groups, classes and objects; attributes do not count."""
        digest = blake3("\0".join((*self.images, "", *self.groups, "", *self.classes)).encode())
        # Sizes that say nothing new are left out, as they were before there were any.
        stated = () if are_own(self.boxes, self.sizes) else (self.sizes,)
        for column in (self.image, self.label, self.boxes, self.crowd, self.area, *stated):
            digest.update(np.ascontiguousarray(column).tobytes())
        return digest.hexdigest()

    def rows_of(self, image_ids: Collection[str]) -> IntArray:
        """Indices of these images, rising.

        Raises:
            NotFound: an id is not among them.
        """
        wanted = set(image_ids)
        if missing := wanted.difference(self.images):
            raise NotFound(f"{len(missing)} images of the slice were not evaluated, first {min(missing)!r}.")
        return np.array([row for row, image in enumerate(self.images) if image in wanted], dtype=np.int64)

    def only(self, rows: IntArray) -> "Truth":
        """Of the images of these indices, rising."""
        keep = np.isin(self.image, rows)
        return Truth(
            tuple(self.images[row] for row in rows),
            tuple(self.groups[row] for row in rows),
            self.classes,
            tuple(self.attributes[row] for row in rows),
            np.searchsorted(rows, self.image[keep]).astype(np.int64),
            self.label[keep],
            self.boxes[keep],
            self.crowd[keep],
            self.area[keep],
            self.sizes[keep],
        )

    def to_json(self) -> dict[str, Any]:
        """`from_json` gives back what has the same digest and attributes."""
        return {
            "images": list(self.images),
            "groups": list(self.groups),
            "classes": list(self.classes),
            "attributes": [dict(each) for each in self.attributes],
            "image": self.image.tolist(),
            "label": self.label.tolist(),
            "boxes": self.boxes.tolist(),
            "crowd": np.flatnonzero(self.crowd).tolist(),
            "area": self.area.tolist(),
            **sizes_to_json(self.boxes, self.sizes),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Truth":
        crowd = np.zeros(len(data["image"]), dtype=bool)
        crowd[data["crowd"]] = True
        boxes = np.asarray(data["boxes"], dtype=np.float64).reshape(-1, 4)
        return cls(
            tuple(data["images"]),
            tuple(data["groups"]),
            tuple(data["classes"]),
            tuple(data["attributes"]),
            np.asarray(data["image"], dtype=np.int64),
            np.asarray(data["label"], dtype=np.int64),
            boxes,
            crowd,
            np.asarray(data["area"], dtype=np.float64),
            sizes_from_json(data, boxes),
        )


def _per_object(
    image: LabelledImage, values: Sequence[Any] | None, name: str, otherwise: Any
) -> NDArray[Any]:
    """A row for each object: of `values`, else of what has their shape or is the same for all."""
    shape = (len(image.objects), *np.shape(otherwise)[1:])
    if values is None:
        return np.broadcast_to(otherwise, shape)
    if len(values) != len(image.objects):
        raise BadInput(
            f"Image {image.image_id!r} has {len(image.objects)} objects, but {len(values)} values of {name}."
        )
    try:
        return np.asarray(values).reshape(shape)
    except ValueError as error:
        raise BadInput(f"Image {image.image_id!r} needs values of {name} in the shape {shape}.") from error
