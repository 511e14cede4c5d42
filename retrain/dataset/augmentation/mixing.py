"""Steps that mix in other images, with their objects."""

from typing import Annotated, ClassVar

import cv2
import numpy as np

from retrain.boxes import FloatArray
from retrain.dataset.augmentation.scene import Draws, RgbImage, Scene, areas
from retrain.dataset.augmentation.step import Fraction, MovingStep, Number, Span, WholeSpan, Within

_PLACES_TRIED = 10


class Mosaic(MovingStep):
    """Four images, this one among them, share one of its size (Bochkovskiy et al., 2020: YOLOv4)."""

    name: ClassVar = "mosaic"
    needs_partners: ClassVar = True

    centre: Annotated[Span, Within(0, 1)] = (0.35, 0.65)
    """Where they meet: share of the width and, drawn separately, of the height."""
    zoom: Annotated[Span, Within(1, 10)] = (1.0, 1.5)
    """Each image is enlarged by this beyond what fills its quarter; the part shown is drawn."""

    def apply(self, scene: Scene, draws: Draws) -> Scene:
        width, height = scene.width, scene.height
        x, y = round(draws.uniform(self.centre) * width), round(draws.uniform(self.centre) * height)
        quarters = [(0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height)]
        tiles = [scene, draws.partner(), draws.partner(), draws.partner()]
        canvas = Scene(np.empty_like(scene.image), np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0))
        for (left, top, right, bottom), tile in zip(quarters, draws.rng.permutation(4), strict=True):
            if left < right and top < bottom:
                zoom = draws.uniform(self.zoom)
                part = filling(tiles[tile], right - left, bottom - top, zoom, draws, self.min_visible)
                canvas.image[top:bottom, left:right] = part.image
                canvas = canvas.joined(part, left, top)
        return canvas


class Mixup(MovingStep):
    """Shines another image through this one, with the objects of both (Zhang et al., 2018; 2019 for boxes)."""

    name: ClassVar = "mixup"
    needs_partners: ClassVar = True

    alpha: Annotated[Number, Within(0.01, 1000)] = 32.0
    """The share of each image is Beta(alpha, alpha): near a half when large, near 0 or 1 when small."""
    min_share: Annotated[Number, Within(0, 0.5)] = 0.1
    """Objects of an image whose share is smaller are left out: nobody could see them."""

    def apply(self, scene: Scene, draws: Draws) -> Scene:
        share = float(draws.rng.beta(self.alpha, self.alpha))
        other = filling(draws.partner(), scene.width, scene.height, 1.0, draws, self.min_visible)
        if np.array_equal(scene.image, other.image):
            # A source may hold the image itself; every object would be there twice.
            return scene
        image = cv2.addWeighted(scene.image, share, other.image, 1 - share, 0)
        seen = [part for part, of_it in ((scene, share), (other, 1 - share)) if of_it >= self.min_share]
        mixed = seen[0].with_image(image)
        return mixed.joined(seen[1]) if len(seen) == 2 else mixed


class CopyPaste(MovingStep):
    """Pastes objects of another image (Ghiasi et al., 2021), cut out by their boxes with soft edges.

    What else shows in the cut-out is labelled too. A paste goes where no object gets covered beyond `max_coverage`, by
    all pastes together; when ten drawn places all would, it is left out.
    """

    name: ClassVar = "copy_paste"
    needs_partners: ClassVar = True

    objects: Annotated[WholeSpan, Within(1, 100)] = (1, 3)
    """How many are pasted at most."""
    scale: Annotated[Span, Within(0.1, 10)] = (0.8, 1.25)
    """Factor of their size in pixels."""
    max_coverage: Fraction = 0.2
    """Share of an object's box that may come to lie under pastes."""
    feather_px: Annotated[Number, Within(0, 50)] = 2.0
    """Width of the soft edge, inside the cut-out."""

    def apply(self, scene: Scene, draws: Draws) -> Scene:
        count, partner = draws.whole(self.objects), draws.partner()
        pasted = scene.with_image(scene.image.copy())
        hidden = np.zeros(len(scene.boxes))
        for index in draws.rng.permutation(len(partner.boxes))[:count]:
            patch = self._cut_out(partner, partner.boxes[index], draws.uniform(self.scale))
            place = self._place(patch, pasted, hidden, draws)
            if place is not None:
                hidden += coverage(pasted.boxes, *place, patch)
                _blend(pasted.image, patch.image, *place, self.feather_px)
                pasted, hidden = pasted.joined(patch, *place), np.append(hidden, np.zeros(len(patch.boxes)))
        return pasted.covered(hidden, self.min_visible)

    def _cut_out(self, partner: Scene, box: FloatArray, factor: float) -> Scene:
        left, top = np.floor(box[:2]).astype(int).tolist()
        right, bottom = np.ceil(box[2:]).astype(int).tolist()
        patch = partner.window(left, top, right - left, bottom - top, self.min_visible)
        return patch.resized(max(round(patch.width * factor), 1), max(round(patch.height * factor), 1))

    def _place(self, patch: Scene, scene: Scene, hidden: FloatArray, draws: Draws) -> tuple[int, int] | None:
        right, down = scene.width - patch.width, scene.height - patch.height
        if right < 0 or down < 0 or not len(patch.boxes):
            return None
        for _ in range(_PLACES_TRIED):
            left, top = draws.whole((0, right)), draws.whole((0, down))
            if ((hidden + coverage(scene.boxes, left, top, patch)) <= self.max_coverage).all():
                return left, top
        return None


def filling(scene: Scene, width: int, height: int, zoom: float, draws: Draws, min_visible: float) -> Scene:
    """A drawn part of the scene that has this size, with its proportions kept as far as whole pixels allow."""
    factor = zoom * max(width / scene.width, height / scene.height)
    across = min(max(round(width / factor), 1), scene.width)
    down = min(max(round(height / factor), 1), scene.height)
    left, top = draws.whole((0, scene.width - across)), draws.whole((0, scene.height - down))
    return scene.window(left, top, across, down, min_visible).resized(width, height)


def coverage(boxes: FloatArray, left: int, top: int, patch: Scene) -> FloatArray:
    """Share of each box that lies under the patch, in [0, 1], shape (n,)."""
    low = np.maximum(boxes[:, :2], [left, top])
    high = np.minimum(boxes[:, 2:], [left + patch.width, top + patch.height])
    shares: FloatArray = np.prod(np.clip(high - low, 0.0, None), axis=1) / areas(boxes)
    return shares


def _blend(image: RgbImage, patch: RgbImage, left: int, top: int, feather_px: float) -> None:
    """Write the patch into the image; its edges let `feather_px` pixels of the image through."""
    height, width = patch.shape[:2]
    opacity = np.minimum.outer(_ramp(height, feather_px), _ramp(width, feather_px))[..., None]
    under = image[top : top + height, left : left + width]
    under[...] = np.rint(patch * opacity + under * (1 - opacity)).astype(np.uint8)


def _ramp(length: int, feather_px: float) -> FloatArray:
    """Opacity along a side, from the edges (pixel centres) inwards, in (0, 1]."""
    to_edge = np.minimum(np.arange(length), np.arange(length)[::-1]) + 0.5
    return np.minimum(to_edge / feather_px, 1.0) if feather_px > 0 else np.ones(length)
