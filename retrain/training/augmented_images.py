"""Training images changed by the dataset's augmentation pipeline, before Ultralytics' own transforms see them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrain.boxes import Annotations, xyxy_to_yolo, yolo_to_xyxy
from retrain.dataset.augmenter import DatasetAugmenter
from retrain.training.labelled_images import LabelledImages


class AugmentedImages(LabelledImages):
    """`LabelledImages` of which every one is augmented as the present `epoch` sees it, each part of a mosaic too.

    The pipeline gets images as they are cached, in training size; the cached pixels stay the original. An image's
    outcome depends on seed, name and epoch alone, so loader processes and a resumed job give the same. An image that
    an epoch shows twice is therefore the same twice here, and told apart only by Ultralytics' transforms.

    Args:
        pipeline: as `DatasetAugmenter` takes it, not empty.
        seed: of the job.
        settings: as for `LabelledImages`.
    """

    def __init__(self, pipeline: Sequence[Mapping[str, Any]], seed: int, **settings: Any) -> None:
        self._augmenter = DatasetAugmenter(pipeline, seed)
        super().__init__(**settings)

    def update_labels_info(self, label: dict[str, Any]) -> dict[str, Any]:
        # Ultralytics' place for changes to what was loaded: single images, mosaics and mixups all pass through it.
        return super().update_labels_info(self._augmented(label))

    def _augmented(self, label: dict[str, Any]) -> dict[str, Any]:
        image, known = _scene(label["img"], label)
        name = Path(label["im_file"]).stem
        changed, seen = self._augmenter.augment(image, known, name, self.epoch, _Partners(self))
        if changed is image:
            return label
        height, width = changed.shape[:2]
        if (height, width) != image.shape[:2]:
            # A quarter turn.
            label |= {key: label[key][::-1] for key in ("ori_shape", "ratio_pad")}
        boxes = xyxy_to_yolo(seen.boxes, width, height)
        return label | {
            "img": _reversed_channels(changed),
            "resized_shape": (height, width),
            "bboxes": boxes.astype(np.float32),
            "cls": seen.classes.astype(np.float32)[:, None],
        }


class _Partners:
    """All images of the training set, unchanged, in its order."""

    def __init__(self, images: LabelledImages) -> None:
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, position: int) -> tuple[NDArray[np.uint8], Annotations]:
        return _scene(self._images.load_image(position)[0], self._images.labels[position])


def _scene(pixels: Any, label: Mapping[str, Any]) -> tuple[NDArray[np.uint8], Annotations]:
    """The augmenter's form of Ultralytics': BGR pixels, and labels as fractions of the image in float32.

    Boxes without an area are left out, as Ultralytics' transforms do later.
    """
    height, width = pixels.shape[:2]
    boxes = yolo_to_xyxy(label["bboxes"].astype(np.float64), width, height)
    # A box that ends at the edge may end past it by the rounding of float32.
    boxes = np.clip(boxes, 0.0, [width, height, width, height])
    solid = (boxes[:, 0] < boxes[:, 2]) & (boxes[:, 1] < boxes[:, 3])
    classes = label["cls"].reshape(-1).astype(np.int64)
    return _reversed_channels(pixels), Annotations(boxes[solid], classes[solid])


def _reversed_channels(pixels: Any) -> Any:
    """BGR as RGB and the other way round, in an array of its own."""
    return np.ascontiguousarray(pixels[..., ::-1])
