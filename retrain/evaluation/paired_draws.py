"""Both models scored on the same draws of groups; matched once, every draw is counting."""

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from retrain.boxes import FloatArray, IntArray
from retrain.errors import BadInput
from retrain.evaluation.arguments import checked_evaluation
from retrain.evaluation.average_precision import AveragePrecision, ClassPool, pools
from retrain.evaluation.evaluation import Evaluation
from retrain.evaluation.truth import BoolArray


@dataclass(frozen=True)
class Scored:
    """Statistics of both models, the first row undrawn: shapes (1 + resamples, statistics).

    Attributes:
        shares: how much each group weighs in each statistic, shape (statistics, groups); zeros where nothing does.
    """

    champion: FloatArray
    challenger: FloatArray
    shares: FloatArray


class PairedDraws:
    """Groups drawn with replacement; the seed and the number of groups decide which."""

    def __init__(self, champion: Evaluation, challenger: Evaluation, resamples: int, seed: int) -> None:
        self._pair, self._units = (champion, challenger), champion.truth.group_of
        self.n_groups = int(self._units.max()) + 1
        drawn = np.random.default_rng(seed).multinomial(
            self.n_groups, np.full(self.n_groups, 1 / self.n_groups), resamples
        )
        self.weights: IntArray = np.concatenate([np.ones((1, self.n_groups), dtype=np.int64), drawn])

    def average_precision(
        self, thresholds: FloatArray, image_ids: Collection[str] | None = None
    ) -> tuple[FloatArray, FloatArray]:
        """Of champion and challenger, shape (1 + resamples, classes, thresholds); NaN without an object.

        Args:
            image_ids: count in these images only; the draws stay those of all groups.
        """
        keep = self._mask(image_ids)
        found = []
        for one, by_class in zip(self._pair, self._pools, strict=True):
            curves = AveragePrecision(
                [self._within(pool, index, keep, one) for index, pool in enumerate(by_class)]
            )
            # The undrawn apart: numpy sums one row in another order than many, and it is to equal the summary.
            parts = (self.weights[:1], self.weights[1:])
            found.append(np.concatenate([curves.resampled(part, thresholds) for part in parts]))
        return found[0], found[1]

    def objects(self, image_ids: Collection[str] | None = None) -> IntArray:
        """Of each class in each group, crowds left out, shape (classes, groups)."""
        return self._objects(self._mask(image_ids))

    def operating_point(self) -> Scored:
        """Precision, recall and F1 of all classes together at IoU 0.5 and each model's served confidence."""
        objects = self._objects(self._mask(None)).sum(axis=0)
        counts = [self._served(one) for one in self._pair]
        champion, challenger = (
            _precision_recall_f1(*(self.weights @ each for each in (right, made, objects)))
            for right, made in counts
        )
        made = counts[0][1] + counts[1][1]
        shares = [made, objects, made + objects]
        return Scored(champion, challenger, np.stack([share / max(share.sum(), 1) for share in shares]))

    @cached_property
    def _pools(self) -> list[list[ClassPool]]:
        return [pools(one.truth, one.predictions, one.matches, self._units) for one in self._pair]

    def _mask(self, image_ids: Collection[str] | None) -> BoolArray:
        mask = np.ones(len(self._units), dtype=bool)
        if image_ids is not None:
            rows = self._pair[0].truth.rows_of(image_ids)
            mask[:] = False
            mask[rows] = True
        return mask

    def _within(self, pool: ClassPool, index: int, mask: BoolArray, one: Evaluation) -> ClassPool:
        if mask.all():
            return pool
        keep = mask[one.predictions.image[pool.rows]]
        return ClassPool(
            pool.rows[keep],
            pool.scores[keep],
            pool.hits[keep],
            pool.ignored[keep],
            pool.unit[keep],
            self._objects(mask)[index],
        )

    def _objects(self, mask: BoolArray) -> IntArray:
        truth = self._pair[0].truth
        real = ~truth.crowd & mask[truth.image]
        cells = truth.label[real] * self.n_groups + self._units[truth.image[real]]
        return np.bincount(cells, minlength=len(truth.classes) * self.n_groups).reshape(-1, self.n_groups)

    def _served(self, one: Evaluation) -> tuple[IntArray, IntArray]:
        """Right and all detections of each group."""
        matches, predictions = one.matches, one.predictions
        keep = one.served & ~matches.ignored[:, 0]
        unit = self._units[predictions.image]
        right = np.bincount(unit[keep & matches.hits[:, 0]], minlength=self.n_groups)
        return right, np.bincount(unit[keep], minlength=self.n_groups)


def check_pair(champion: Evaluation, challenger: Evaluation) -> None:
    """Whether the two may be compared.

    Raises:
        BadInput: one is no evaluation, they were not evaluated on the same images, groups and objects, or not asked in
            the same way.
    """
    champion, challenger = checked_evaluation(champion), checked_evaluation(challenger)
    if champion.truth.digest != challenger.truth.digest:
        raise BadInput(
            f"Champion and challenger were evaluated on different images, groups, classes or objects "
            f"({len(champion.truth.images)} and {len(challenger.truth.images)} images, digests "
            f"{champion.truth.digest[:12]} and {challenger.truth.digest[:12]}); evaluate both on the same frozen set."
        )
    mine, other = champion.protocol.to_json(), challenger.protocol.to_json()
    if different := [name for name in mine if mine[name] != other[name]]:
        raise BadInput(
            f"Champion and challenger were not asked in the same way: {', '.join(different)} differ; evaluate both "
            "with one protocol."
        )


def class_shares(objects: IntArray) -> FloatArray:
    """Share of each group in each class, shape (classes, groups); zeros for a class without objects."""
    return np.asarray(objects / np.maximum(objects.sum(axis=1, keepdims=True), 1))


def mean_shares(objects: IntArray) -> FloatArray:
    """Share of each group in a mean over the classes that have objects, shape (1, groups)."""
    present = objects.sum(axis=1) > 0
    if not present.any():
        return np.zeros((1, objects.shape[1]))
    return np.asarray(class_shares(objects)[present].mean(axis=0, keepdims=True))


def _precision_recall_f1(right: IntArray, made: IntArray, objects: IntArray) -> FloatArray:
    parts = ((right, made), (right, objects), (2 * right, made + objects))
    return np.stack(
        [np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0) for part, whole in parts],
        axis=1,
    )
