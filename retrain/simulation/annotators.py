"""People who look at a picture and draw boxes: mostly right, and wrong in the ways people are."""

from dataclasses import dataclass

import numpy as np

from retrain.boxes import Annotations, Detections, FloatArray, iou_matrix
from retrain.errors import BadInput
from retrain.simulation.scenes import CLASSES
from retrain.simulation.stable_random import Rng, stable_rng

# Pairs that hands and eyes mix up; the rest of the digits are taken for any other.
_LOOKALIKES = {
    0: (6, 8),
    1: (7, 4),
    3: (8, 5),
    4: (9, 1),
    5: (3, 6),
    6: (0, 5),
    7: (1, 9),
    8: (3, 9),
    9: (4, 7),
}
_MIN_SIDE = 2.0
"""Nobody draws a box thinner than this many pixels."""


@dataclass(frozen=True)
class SimulatedAnnotator:
    """One person, whose answer for a sample is always the same.

    Who is shown a proposal corrects it rather than starting afresh: a good box is left as it is, an object
    that is already marked is not missed, and a wrong class or a mark on nothing is sometimes overlooked.

    Attributes:
        name: with `seed`, decides this person's errors.
        miss_rate: share of unmarked objects not drawn.
        jitter_px: standard deviation of each edge of a box drawn by hand (uniform errors).
        confusion_rate: share of objects drawn by hand that get a wrong class.
        overlook_rate: share of proposals on nothing left in, and of wrongly classified proposals left wrong.
        accept_iou: a proposed box at least this good is left as it is.
    """

    name: str
    seed: int = 0
    miss_rate: float = 0.02
    jitter_px: float = 0.8
    confusion_rate: float = 0.01
    overlook_rate: float = 0.05
    accept_iou: float = 0.7

    def __post_init__(self) -> None:
        for field in ("miss_rate", "confusion_rate", "overlook_rate", "accept_iou"):
            if not 0 <= (value := getattr(self, field)) <= 1:
                raise BadInput(f"{field} must be in [0, 1], got {value}.")
        if self.jitter_px < 0:
            raise BadInput(f"jitter_px must not be negative, got {self.jitter_px}.")

    def review(
        self, sample_id: str, truth: Annotations, proposal: Detections | None, image_size: tuple[int, int]
    ) -> Annotations:
        """What this person saves for one picture.

        Args:
            sample_id: the same sample always gets the same answer to the same proposal.
            truth: what is really there.
            proposal: boxes drawn in advance; None or empty for a blank picture.
            image_size: width and height in pixels.
        """
        rng = stable_rng("annotator", self.seed, self.name, sample_id)
        proposal = Detections.empty() if proposal is None else proposal
        partner = _match(truth, proposal, self.accept_iou)
        boxes: list[FloatArray] = []
        classes: list[int] = []
        for box, label, mate in zip(truth.boxes, truth.classes.tolist(), partner, strict=True):
            # Drawn for every object, so that a proposal for one changes no error on another.
            missed, confused, overlooked = rng.random_sample(3)
            drawn, mistaken = self._draw(rng, box, image_size), _lookalike(rng, label)
            if mate is not None:
                proposed = int(proposal.classes[mate])
                boxes.append(proposal.boxes[mate])
                classes.append(proposed if overlooked < self.overlook_rate else label)
            elif missed >= self.miss_rate:
                boxes.append(drawn)
                classes.append(mistaken if confused < self.confusion_rate else label)
        for index in sorted(set(range(len(proposal))) - set(partner)):
            if rng.random_sample() < self.overlook_rate and not _covers(proposal.boxes[index], boxes):
                boxes.append(proposal.boxes[index])
                classes.append(int(proposal.classes[index]))
        return Annotations.of(np.array(boxes), classes) if boxes else Annotations.empty()

    def _draw(self, rng: Rng, box: FloatArray, image_size: tuple[int, int]) -> FloatArray:
        """The box as a hand draws it: every edge off a little, inside the picture, never inside out."""
        # A uniform error of this half-width has standard deviation `jitter_px`.
        reach = self.jitter_px * 3**0.5
        edges = box + (2 * rng.random_sample(4) - 1) * reach
        limit = np.array([*image_size, *image_size], dtype=np.float64)
        edges = np.clip(edges, 0, limit)
        low = np.minimum(edges[:2], limit[:2] - _MIN_SIDE)
        return np.concatenate([low, np.maximum(edges[2:], low + _MIN_SIDE)])


def _match(truth: Annotations, proposal: Detections, accept_iou: float) -> list[int | None]:
    """For each true box the best-scored free proposal that is good enough to keep."""
    overlaps = iou_matrix(truth.boxes, proposal.boxes)
    partner: list[int | None] = [None] * len(truth)
    for candidate in range(len(proposal)):
        order = np.argsort(-overlaps[:, candidate], kind="stable")
        mate = next((int(i) for i in order if partner[i] is None), None)
        if mate is not None and overlaps[mate, candidate] >= accept_iou:
            partner[mate] = candidate
    return partner


def _covers(box: FloatArray, boxes: list[FloatArray]) -> bool:
    """Whether a mark lies on an object that is marked already; those are noticed and removed."""
    return bool(boxes) and bool((iou_matrix(box[None], np.array(boxes)) > 0.15).any())


def _lookalike(rng: Rng, label: int) -> int:
    options = _LOOKALIKES.get(label) or tuple(c for c in range(len(CLASSES)) if c != label)
    return int(options[rng.randint(len(options))])
