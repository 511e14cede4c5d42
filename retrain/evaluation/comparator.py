"""Is the challenger better than the champion? A paired bootstrap over recordings, with four possible answers."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from retrain.boxes import FloatArray, IntArray
from retrain.errors import BadInput
from retrain.evaluation.average_precision import mean_defined
from retrain.evaluation.change import Change, Comparison, Metric, Verdict
from retrain.evaluation.evaluation import Evaluation
from retrain.evaluation.expanded_percentiles import EXPANDED, expanded_percentiles
from retrain.evaluation.family import changes
from retrain.evaluation.matching import IOU_THRESHOLDS
from retrain.evaluation.paired_draws import PairedDraws, Scored, check_pair, class_shares, mean_shares

__all__ = ["EXPANDED", "RESAMPLING", "Comparison", "ModelComparator", "ModelComparison", "compare"]

RESAMPLING = "paired group bootstrap, Student t with degrees of freedom by group sizes"
_THRESHOLDS: dict[str, FloatArray] = {"map50": IOU_THRESHOLDS[:1], "map50_95": IOU_THRESHOLDS}
_OPERATING_POINT = ("precision", "recall", "f1")


@dataclass(frozen=True)
class ModelComparison:
    """All that changed from champion to challenger, from the same draws.

    Attributes:
        metrics: map50, map50_95, and at the served confidence precision, recall and f1; each interval on its own.
        classes: average precision of each class, by name, with intervals for all of them together.
        slices: mean average precision of each slice, by name, with intervals for all of them together.
        metric: of `classes` and `slices`.
    """

    metrics: Mapping[str, Change]
    classes: Mapping[str, Change]
    slices: Mapping[str, Change]
    metric: str
    level: float
    resamples: int
    resampling: str
    truth_digest: str

    def to_json(self) -> dict[str, Any]:
        """NaN becomes null."""
        tables = ("metrics", "classes", "slices")
        found = {
            table: {name: change.to_json() for name, change in getattr(self, table).items()}
            for table in tables
        }
        return {**vars(self), **found}


class ModelComparator:
    """Compares two evaluations on the same images.

    Each draw takes recordings (groups) with replacement and scores both models on them: frames of one recording are not
    independent. How intervals come from draws, and why, says `retrain.evaluation.intervals`.
    """

    def __init__(
        self,
        champion: Evaluation,
        challenger: Evaluation,
        *,
        seed: int = 0,
        resamples: int = 1000,
        level: float = 0.95,
    ) -> None:
        """Take the pair.

        Raises:
            BadInput: not the same images, groups and objects, not asked in the same way, or a number out of range.
        """
        check_pair(champion, challenger)
        if not 0.5 < level < 1 or resamples < 200:
            raise BadInput(
                f"level must be in (0.5, 1) and resamples at least 200, got {level} and {resamples}."
            )
        self._truth, self._level, self._resamples = champion.truth, level, resamples
        self._draws = PairedDraws(champion, challenger, resamples, seed)
        self._scores: dict[str, tuple[FloatArray, FloatArray]] = {}

    def compare(
        self, slices: Mapping[str, Collection[str]] | None = None, metric: Metric = "map50"
    ) -> ModelComparison:
        """Everything.

        Args:
            slices: image ids by name.
            metric: of classes and slices.

        Raises:
            BadInput: an unknown metric.
            NotFound: an image of a slice was not evaluated.
        """
        _check(metric)
        self._scores_of("map50_95")  # Those of map50 are among them.
        means: dict[str, Change] = {"map50": self.metric("map50"), "map50_95": self.metric("map50_95")}
        return ModelComparison(
            metrics={**means, **self._operating_point()},
            classes=self.classes(metric),
            slices=self._slices(slices or {}, metric),
            metric=metric,
            level=self._level,
            resamples=self._resamples,
            resampling=RESAMPLING,
            truth_digest=self._truth.digest,
        )

    def metric(self, name: Metric) -> Change:
        """One alone, of all images; faster than everything."""
        champion, challenger = (_mean_of(each)[:, None] for each in self._scores_of(name))
        return self._alone(name, Scored(champion, challenger, mean_shares(self._draws.objects())))

    def classes(self, metric: Metric) -> dict[str, Change]:
        """Average precision of each class by name, with intervals for all of them together."""
        champion, challenger = (each.mean(axis=2) for each in self._scores_of(metric))
        objects = self._draws.objects()
        scored = Scored(champion, challenger, class_shares(objects))
        n_images = [len(self._truth.images)] * len(objects)
        found = changes(metric, scored, n_images, objects.sum(axis=1), self._level)
        return dict(zip(self._truth.classes, found, strict=True))

    def expanded(self, name: Metric) -> Change:
        """One alone as `EXPANDED` says, to the last bit."""
        champion, challenger = map(_mean_of, self._scores_of(name))
        n_images = len(self._truth.images)
        return expanded_percentiles(name, champion, challenger, self._draws.n_groups, n_images, self._level)

    def _scores_of(self, metric: Metric) -> tuple[FloatArray, FloatArray]:
        """Of champion and challenger, shape (1 + resamples, classes, thresholds of the metric); computed once."""
        _check(metric)
        if metric == "map50" and (known := self._scores.get("map50_95")):
            return known[0][:, :, :1], known[1][:, :, :1]
        if metric not in self._scores:
            self._scores[metric] = self._draws.average_precision(_THRESHOLDS[metric])
        return self._scores[metric]

    def _operating_point(self) -> dict[str, Change]:
        found = self._draws.operating_point()
        return {
            name: self._alone(
                name, Scored(found.champion[:, [at]], found.challenger[:, [at]], found.shares[[at]])
            )
            for at, name in enumerate(_OPERATING_POINT)
        }

    def _alone(self, name: str, scored: Scored) -> Change:
        n_objects = int(self._draws.objects().sum())
        return changes(name, scored, [len(self._truth.images)], [n_objects], self._level)[0]

    def _slices(self, slices: Mapping[str, Collection[str]], metric: Metric) -> dict[str, Change]:
        if not slices:
            return {}
        each = [self._slice(ids, metric) for ids in slices.values()]
        scored = Scored(
            np.stack([champion for champion, _, _ in each], axis=1),
            np.stack([challenger for _, challenger, _ in each], axis=1),
            np.concatenate([mean_shares(objects) for _, _, objects in each]),
        )
        sizes = [len(set(ids)) for ids in slices.values()]
        counts = [int(objects.sum()) for _, _, objects in each]
        return dict(zip(slices, changes(metric, scored, sizes, counts, self._level), strict=True))

    def _slice(self, ids: Collection[str], metric: Metric) -> tuple[FloatArray, FloatArray, IntArray]:
        champion, challenger = self._draws.average_precision(_THRESHOLDS[metric], ids)
        return _mean_of(champion), _mean_of(challenger), self._draws.objects(ids)


def compare(
    champion: Evaluation,
    challenger: Evaluation,
    metric: Metric = "map50",
    *,
    seed: int = 0,
    resamples: int = 1000,
    level: float = 0.95,
    resampling: str = RESAMPLING,
) -> Comparison:
    """One metric alone; see `ModelComparator`.

    Args:
        resampling: how; the default, or `EXPANDED` to compute an old record again.

    Raises:
        BadInput: the two were not evaluated on the same images, groups and objects, or not asked in the same way.
    """
    if resampling not in (RESAMPLING, EXPANDED):
        raise BadInput(f"resampling must be {RESAMPLING!r} or {EXPANDED!r}, got {resampling!r}.")
    comparator = ModelComparator(champion, challenger, seed=seed, resamples=resamples, level=level)
    change = comparator.expanded(metric) if resampling == EXPANDED else comparator.metric(metric)
    verdict, reason = _verdict(change, level)
    return Comparison(
        metric, change.champion, change.challenger, change.difference, change.low, change.high, level,
        change.n_images, len(set(champion.truth.groups)), resamples, resampling, verdict, reason,
    )  # fmt: skip


def _check(metric: str) -> None:
    if metric not in _THRESHOLDS:
        raise BadInput(f"metric must be one of {', '.join(_THRESHOLDS)}, got {metric!r}.")


def _mean_of(by_class: FloatArray) -> FloatArray:
    """Over thresholds, then over classes that have a value; shape (1 + resamples,)."""
    return mean_defined(by_class.mean(axis=2))


def _verdict(change: Change, level: float) -> tuple[Verdict, str]:
    if change.problem is not None:
        return "invalid", change.problem
    low, high = change.low, change.high
    said = (
        f"{change.metric} changed by {change.difference:+.3f}, "
        f"{100 * level:g}% interval {low:+.3f} to {high:+.3f}"
    )
    if low > 0:
        return "better", f"{said}: better."
    if high < 0:
        return "worse", f"{said}: worse."
    if low <= 0 <= high:
        return "inconclusive", f"{said}: it contains zero, so no difference is shown."
    return "invalid", f"{said}: not a usable interval."
