"""Production precision and recall from a biased, labelled sample of frames.

Each labelled frame carries its inclusion probability: the chance, given everything before it, that it was kept
*and* labelled. Weighting each by the inverse undoes the bias of any strategy, as long as every frame of the
window had a chance; that is what the always-on audit arm is for. With an audit rate a and a strategy that takes
the frame with probability s, the probability is max(a, s): one coin decides for both. It may depend on the past
(quotas, pictures stored before): known before the frame is drawn, it leaves the weighted totals unbiased.

The question answered is about the frames of this window, not about other days: frames all taken with probability
1 leave nothing to estimate, and their interval is a point.

Method: Hájek's ratio of inverse-probability totals; variance by Taylor linearisation for Poisson sampling
(Särndal, Swensson and Wretman 1992, "Model Assisted Survey Sampling", ch. 5). Related: Kossen et al. 2021, "Active
Testing". The interval is a beta distribution matched to mean and variance, as Korn and Graubard 1998 ("Confidence
intervals for proportions with small expected number of positive counts estimated from survey data") do with an
effective sample size. Before matching, a fraction of a right and of a wrong box are added at the largest weight that
a frame of the window can have, 1 / a: what is not seen yet hides where frames are rarest, whether or not such a frame
is in the sample (Fay and Feuer 1997, "Confidence intervals for directly standardized rates").
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betaincinv, gammaincinv, ndtri, stdtrit

from retrain.boxes import Annotations, Detections, FloatArray, iou_matrix
from retrain.errors import BadInput

MIN_FRAMES = 2
_PRIOR_BOXES = 0.75
"""Right and wrong boxes added, each. Jeffreys' half fell to 91 % coverage in simulated windows (not those of the
benchmark) where this kept 93 %."""
_ROUNDING = 1e-9
_AUDITED = 2.0
"""Frames with up to this many times the audit rate speak for those that the strategy did not want."""
_MAX_SIGMAS = 6.0
"""Weights this many standard errors away from the known number of frames are a mistake, not bad luck."""


@dataclass(frozen=True)
class LabelledFrame:
    """Counts of one frame at the served threshold, and the chance that it was kept and labelled."""

    tp: int
    fp: int
    fn: int
    inclusion_probability: float


@dataclass(frozen=True)
class Estimate:
    """A production figure and its interval.

    Attributes:
        value: NaN when the sample holds no box to judge; the interval is then everything possible.
        n: labelled frames.
        effective_n: equally weighted frames that would weigh in as evenly (Kish 1965), at most `n`.
    """

    value: float
    low: float
    high: float
    level: float
    n: int
    effective_n: float


@dataclass(frozen=True)
class Estimates:
    """What production does over the window; `objects_per_frame` counts true boxes."""

    precision: Estimate
    recall: Estimate
    f1: Estimate
    objects_per_frame: Estimate


@dataclass(frozen=True)
class _Sample:
    """Labelled frames with their inclusion probability, shape (n,), and the smallest one of the window."""

    probability: FloatArray
    audit_rate: float
    level: float

    @property
    def weight(self) -> FloatArray:
        return 1 / self.probability

    @property
    def spread(self) -> FloatArray:
        """Standard deviation of weight x (taken or not)."""
        return np.sqrt(1 - self.probability) / self.probability

    @property
    def widest(self) -> float:
        """Spread of the frames with the smallest chance, whether or not one is in the sample."""
        return math.sqrt(1 - self.audit_rate) / self.audit_rate


_Prior = Sequence[tuple[int, int]]
"""What each added box counts in the part and in the whole of a ratio."""
_Limits = Callable[[float, float, float], tuple[float, float]]
"""(mean, variance, level) -> low and high."""
_A_RIGHT_AND_A_WRONG_BOX: _Prior = ((1, 1), (0, 1))
_ONE_OBJECT: _Prior = ((1, 0),)


def estimate(
    frames: Iterable[LabelledFrame], audit_rate: float, *, level: float = 0.95, population: int | None = None
) -> Estimates:
    """Precision, recall, F1 and objects per frame of all frames of the window, see `estimate_counts`."""
    rows = list(frames)
    return estimate_counts(
        [frame.tp for frame in rows],
        [frame.fp for frame in rows],
        [frame.fn for frame in rows],
        [frame.inclusion_probability for frame in rows],
        audit_rate,
        level=level,
        population=population,
    )


def estimate_counts(
    tp: ArrayLike,
    fp: ArrayLike,
    fn: ArrayLike,
    inclusion_probability: ArrayLike,
    audit_rate: float,
    *,
    level: float = 0.95,
    population: int | None = None,
) -> Estimates:
    """Precision, recall, F1 and objects per frame of all frames of the window, from the labelled ones.

    Frames of one camera alone, or any other part, may be given: they are a sample of that part.

    Coverage of the 95 % interval over 2000 draws (`benchmarks/estimator.py`): 94 to 98 % in windows of 20,000
    frames with a 1 % audit arm, alone or beside biased strategies and quotas; 93 to 98 % in 1000 windows of 600
    frames through the collection service; up to 99 %, so wider than need be, where few errors are sampled (recall
    0.99, half of the frames labelled, or only 30 audit frames): errors are whole, so coverage moves in steps. It is
    too sure, 68 %, where a burst of errors is so rare that no frame of it may be drawn (one expected among 200); a
    strategy that keeps such frames mends that, 95 %.

    Args:
        tp, fp, fn: boxes per labelled frame, shape (n,). Frames without any box belong in it too.
        inclusion_probability: in (0, 1], shape (n,).
        audit_rate: the smallest inclusion probability of any frame of the window: the audit rate, times the share
            that was labelled where not all were. What the sample may have missed is judged by it; 1 says that the
            sample is the whole window.
        population: frames of the window, where known. It is not used to weight, but shows when the probabilities
            cannot be right.

    Raises:
        BadInput: fewer than 2 frames, unequal lengths, a count that is not a whole number from 0, a probability
            outside (0, 1] or below the audit rate, no frame that speaks for those which the strategy did not want, a
            level outside (0, 1), or weights that contradict the population.
    """
    if not 0 < level < 1:
        raise BadInput(f"level must be in (0, 1), got {level}.")
    if not 0 < audit_rate <= 1:
        raise BadInput(
            f"audit_rate must be in (0, 1], got {audit_rate}; without an audit arm nothing is known of the frames "
            "that the strategy leaves."
        )
    columns = {"tp": tp, "fp": fp, "fn": fn, "inclusion_probability": inclusion_probability}
    checked = {name: _column(name, values) for name, values in columns.items()}
    _check_columns(checked)
    right, extra, missed, probability = checked.values()
    if (least := float(probability.min())) < audit_rate * (1 - _ROUNDING):
        raise BadInput(
            f"A frame has inclusion probability {least:g}, but none may have less than the audit rate {audit_rate:g}."
        )
    if least > _AUDITED * audit_rate:
        raise BadInput(
            f"None of the {len(probability)} labelled frames is one that the audit arm alone could have taken (audit "
            f"rate {audit_rate:g}, smallest inclusion probability {least:g}): nothing is known of the frames that the "
            "strategy left. Label a longer window, or pass the rate that no frame of it was below."
        )
    sample = _Sample(probability, audit_rate, level)
    _check_population(sample, population)
    return Estimates(
        precision=_ratio(right, right + extra, _A_RIGHT_AND_A_WRONG_BOX, _beta_limits, sample),
        recall=_ratio(right, right + missed, _A_RIGHT_AND_A_WRONG_BOX, _beta_limits, sample),
        f1=_ratio(2 * right, 2 * right + extra + missed, _A_RIGHT_AND_A_WRONG_BOX, _beta_limits, sample),
        objects_per_frame=_ratio(right + missed, np.ones_like(right), _ONE_OBJECT, _gamma_limits, sample),
    )


def match_counts(
    prediction: Detections, truth: Annotations, iou: float = 0.5, score: float = 0.25
) -> tuple[int, int, int]:
    """True positives, false positives and false negatives of one frame.

    Best score first, each box scoring at least `score` takes the free true box of its class it covers best, if
    their intersection over union is at least `iou`.

    Raises:
        BadInput: `iou` outside (0, 1].
    """
    if not 0 < iou <= 1:
        raise BadInput(f"iou must be in (0, 1], got {iou}.")
    shown = prediction.above(score)
    overlap = iou_matrix(shown.boxes, truth.boxes)
    overlap[shown.classes[:, None] != truth.classes[None, :]] = 0.0
    found = 0
    for row in overlap:
        if len(truth) and row.max() >= iou:
            overlap[:, row.argmax()] = 0.0
            found += 1
    return found, len(shown) - found, len(truth) - found


def _ratio(part: FloatArray, whole: FloatArray, prior: _Prior, limits: _Limits, sample: _Sample) -> Estimate:
    """Weighted total of `part` over that of `whole`, each of shape (n,)."""
    total = float(sample.weight @ whole)
    if total == 0:
        return Estimate(float("nan"), 0.0, 1.0, sample.level, len(whole), 0.0)
    value = float(sample.weight @ part) / total
    shares = sample.weight * whole
    effective_n = total**2 / float(shares @ shares)

    widest = np.full(len(prior), sample.widest)
    weight = np.append(sample.weight, _PRIOR_BOXES * widest)
    spread = np.append(sample.spread, np.sqrt(_PRIOR_BOXES) * widest)
    part, whole = np.append(part, [box[0] for box in prior]), np.append(whole, [box[1] for box in prior])
    total = float(weight @ whole)
    centre = float(weight @ part) / total
    variance = _widened((part - centre * whole) * spread / total, sample.level)
    low, high = limits(centre, variance, sample.level) if variance > 0 else (value, value)
    return Estimate(value, min(low, value), max(high, value), sample.level, len(shares), effective_n)


def _widened(deviations: FloatArray, level: float) -> float:
    """Sum of squares, widened as Student's t is against the normal.

    A variance that rests on a few heavy frames is itself uncertain: its degrees of freedom are Satterthwaite's
    (1946) under Poisson sampling, and one frame's two more for the prior.
    """
    parts = deviations**2
    variance = float(parts.sum())
    if variance == 0:
        return 0.0
    freedom = 2 * (variance**2 / float(parts @ parts) + 1)
    tail = (1 + level) / 2
    return variance * float(stdtrit(freedom, tail) / ndtri(tail)) ** 2


def _beta_limits(mean: float, variance: float, level: float) -> tuple[float, float]:
    size = mean * (1 - mean) / variance - 1
    if size <= 0:
        return 0.0, 1.0
    low, high = betaincinv(mean * size, (1 - mean) * size, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _gamma_limits(mean: float, variance: float, level: float) -> tuple[float, float]:
    low, high = gammaincinv(mean**2 / variance, [(1 - level) / 2, (1 + level) / 2]) * variance / mean
    return float(low), float(high)


def _column(name: str, values: ArrayLike) -> FloatArray:
    try:
        column = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise BadInput(f"{name} must hold one number per frame: {error}.") from error
    if column.ndim != 1:
        raise BadInput(f"{name} must hold one number per frame, got shape {column.shape}.")
    return column


def _check_columns(columns: dict[str, FloatArray]) -> None:
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise BadInput(f"Every frame needs all four numbers, got lengths {lengths}.")
    if lengths["tp"] < MIN_FRAMES:
        raise BadInput(f"At least {MIN_FRAMES} labelled frames are needed, got {lengths['tp']}; label more.")
    for name in ("tp", "fp", "fn"):
        column = columns[name]
        if (bad := ~(np.isfinite(column) & (column >= 0) & (np.floor(column) == column))).any():
            raise BadInput(f"{name} must be whole numbers from 0, got {column[bad][0]:g}.")
    probability = columns["inclusion_probability"]
    if (bad := ~((probability > 0) & (probability <= 1))).any():
        raise BadInput(f"inclusion_probability must be in (0, 1], got {probability[bad][0]:g}.")


def _check_population(sample: _Sample, population: int | None) -> None:
    if population is None:
        return
    n, frames = len(sample.weight), float(sample.weight.sum())
    # Frames that the sample does not stand for may all have the smallest chance: it may hold none of those by bad luck.
    unseen = max(0.0, population - frames) * (1 - sample.audit_rate) / sample.audit_rate
    error = math.sqrt(float(sample.spread @ sample.spread) + unseen)
    if population < n or abs(frames - population) > _MAX_SIGMAS * error:
        raise BadInput(
            f"{n} labelled frames stand for {frames:.0f} ± {error:.0f} frames by their probabilities, but the "
            f"window has {population}. Frames are missing or the probabilities leave out a step (quota, labelling)."
        )
