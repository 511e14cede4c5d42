"""Training images as the sampler draws them: augmented alike whoever loads them, in whatever order."""

from copy import copy
from typing import Any

from torch.utils.data import Dataset

from retrain.training.draws import Draw
from retrain.training.labelled_images import LabelledImages
from retrain.training.reproducible import seed_augmentation
from retrain.training.transforms import all_transforms
from retrain.training.ultralytics_parts import IterableSimpleNamespace


class DrawnImages(Dataset[dict[str, Any]]):
    """Ultralytics' transforms over images, seeded for each draw.

    What is done to an image is `open`, and from the epoch `closing` on `closed`.

    Args:
        images: made with `augment=True`.
        arguments: Ultralytics' settings.
        closing: epoch (from 0) from which mosaic and mixup are off.
    """

    def __init__(self, images: LabelledImages, arguments: IterableSimpleNamespace, closing: int) -> None:
        self.images = images
        self._seed, self.closing = arguments.seed, closing
        self.open = images.transforms
        images.close_mosaic(copy(arguments))
        self.closed = images.transforms
        for transform in all_transforms(self.open):
            # Else partners come from the images that this process loaded last, which depends on who loads what.
            if hasattr(transform, "buffer_enabled"):
                transform.buffer_enabled = False

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, draw: Draw) -> dict[str, Any]:
        self.images.epoch = draw.epoch
        seed_augmentation(self._seed, draw.epoch, draw.position)
        transforms = self.closed if draw.epoch >= self.closing else self.open
        transformed: dict[str, Any] = transforms(self.images.get_image_and_label(draw.image))
        return transformed
