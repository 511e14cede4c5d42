"""Augmentation declared as data: the same image of the same epoch is augmented the same way everywhere.

OpenCV moves the pixels; the boxes are ours, as every wrapper has a convention of its own. Looked at instead:
albumentations (no longer maintained, its successor is AGPL) and torchvision v2 (torch in a part that needs none).
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from retrain.boxes import Annotations
from retrain.dataset.augmentation.pipeline import read_pipeline
from retrain.dataset.augmentation.scene import Draws, PartnerSource, RgbImage, Scene
from retrain.dataset.augmentation.step import Step
from retrain.errors import BadInput
from retrain.storage.digests import content_digest


class DatasetAugmenter:
    """Augments labelled images by a pipeline.

    Chances come from (seed, image id, epoch, position of the step) alone: neither the order of calls nor threads,
    processes or other users of random numbers change them, and a step keeps its draws when another one's parameters
    change. Safe to share between threads, and pickles.

    Args:
        pipeline: `[{"step": "flip", "probability": 0.5}, …]`; `augmentation.pipeline.describe` lists what may be there.
        seed: another seed is another, independent augmentation.

    Raises:
        ConfigError: an unknown step or parameter or an impossible value; all of them are named.
    """

    def __init__(self, pipeline: Sequence[Mapping[str, Any]], seed: int = 0) -> None:
        self.steps = read_pipeline(pipeline)
        self.seed = seed

    @property
    def needs_partners(self) -> bool:
        """Whether a step mixes in other images."""
        return any(step.needs_partners for step in self.steps)

    def augment(
        self,
        image: RgbImage,
        annotations: Annotations,
        image_id: str,
        epoch: int,
        partners: PartnerSource = (),
    ) -> tuple[RgbImage, Annotations]:
        """The image and boxes as this epoch sees them.

        Args:
            image: RGB, uint8, shape (height, width, 3), sides of 1 to 32766 pixels. Never written to.
            annotations: boxes with an area inside the image.
            image_id: what the image is called for good, as its digest.
            partners: other images for steps that mix; drawn by position, so their order must be fixed.

        Returns:
            The same kind of image (the given one, if no step was drawn) with boxes inside it of at least 1 px a side
            wherever a step moved them, and the class of each. Only `quarter_turn` changes the size.

        Raises:
            BadInput: an image or box that is not as described, or a step that mixes without `partners`.
        """
        if self.needs_partners and not len(partners):
            mixing = next(step.name for step in self.steps if step.needs_partners)
            raise BadInput(f"Step {mixing!r} mixes in other images, but `partners` is empty.")
        scene = Scene.of(image, annotations, image_id)
        for step, rng in self._drawn(image_id, epoch):
            scene = step.apply(scene, Draws(rng, partners))
        return scene.image, scene.annotations

    def steps_drawn(self, image_id: str, epoch: int) -> tuple[str, ...]:
        """Names of the steps that `augment` takes for this image in this epoch, in order."""
        return tuple(step.name for step, _ in self._drawn(image_id, epoch))

    def _drawn(self, image_id: str, epoch: int) -> Iterator[tuple[Step, np.random.Generator]]:
        # JSON keeps ("a", 11) and ("a1", 1) apart.
        identity = content_digest(json.dumps([self.seed, image_id, epoch]).encode())
        for index, step in enumerate(self.steps):
            rng = np.random.default_rng(np.random.SeedSequence(int(identity, 16), spawn_key=(index,)))
            if rng.random() < step.probability:
                yield step, rng
