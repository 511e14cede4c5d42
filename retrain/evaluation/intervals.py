"""Intervals from bootstrap draws over few, unequal groups: for one statistic, and for many at once.

Bootstrap percentiles reject too often here: expanded as by Hesterberg (2015), they called 6 to 9 % of equal models
different at 5 to 20 cameras (docs/gate.md). So the draws only give the standard error, and the rest is what is known of
t tests with clusters: Bell and McCaffrey (2002), "Bias reduction in standard errors for linear regression with
multi-stage samples", in the form of Imbens and Kolesár (2016), "Robust standard errors in small samples". For many at
once, the largest |t| over the statistics in the same draws: Westfall and Young (1993), "Resampling-based multiple
testing".
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import chdtri, ndtr, stdtrit

from retrain.boxes import FloatArray

_UNDEFINED_SHARE = 0.01
_LUCK = 0.05
"""Chance that the true standard error is above the one used, because there are only so many draws."""


@dataclass(frozen=True)
class SmallSample:
    """What few or unequal groups do to a standard error; shapes (statistics,).

    Attributes:
        factor: of the bootstrap's standard error, which is too small.
        degrees: of freedom of Student's t; fewer than groups - 1 when some groups weigh more.
    """

    factor: FloatArray
    degrees: FloatArray


def small_sample(shares: FloatArray) -> SmallSample:
    """Factor and degrees of freedom, where a statistic is a mean over groups with these weights.

    Differences between whole groups are taken as the only cause of variance, which is the worst case: independent
    frames would make large groups surer. Groups of equal weight give sqrt(G / (G - 1)) and G - 1.

    Args:
        shares: of each group in each statistic, shape (statistics, groups), not negative; rows sum to 1.
    """
    s2, s3, s4, s5 = (np.sum(shares**power, axis=1) for power in (2, 3, 4, 5))
    # With P the covariance of residuals, traces of diag(h²) P and of its square, without a matrix of groups by groups.
    trace = s2 - 2 * s3 + s2**2
    of_square = s4 * (1 + 2 * s2) - 4 * s5 + s2**4 + 2 * s2 * s4 - 4 * s2**2 * s3 + 2 * s3**2
    defined = trace > 1e-12
    return SmallSample(
        np.sqrt(np.divide(s2, trace, out=np.full_like(s2, np.nan), where=defined)),
        np.divide(trace**2, of_square, out=np.full_like(s2, np.nan), where=defined),
    )


@dataclass(frozen=True)
class Intervals:
    """Ends for each statistic, shape (statistics,); NaN where the draws do not define it.

    Attributes:
        family_low, family_high: hold for all statistics together; never narrower than the others.
        undefined: draws in which the statistic has no value.
    """

    low: FloatArray
    high: FloatArray
    family_low: FloatArray
    family_high: FloatArray
    undefined: FloatArray


def intervals(
    values: FloatArray, draws: FloatArray, sample: SmallSample, objects: FloatArray, level: float
) -> Intervals:
    """Student t intervals around `values` with the standard error of `draws`.

    Where all draws are equal, nothing was seen to vary, which of few objects says little: no interval is narrower than
    what could happen to so many objects unseen (the "rule of three"; Clopper and Pearson 1934 without a failure).

    Args:
        values: of the whole, shape (statistics,).
        draws: of each resample, shape (resamples, statistics); NaN where it has none.
        objects: that each rests on, shape (statistics,).
    """
    undefined = np.isnan(draws).sum(axis=0)
    usable = np.isfinite(values) & np.isfinite(sample.degrees) & (undefined <= _UNDEFINED_SHARE * len(draws))
    low, high, family_low, family_high = (np.full(len(values), np.nan) for _ in range(4))
    if usable.any():
        value, drawn = values[usable], draws[:, usable]
        own = SmallSample(sample.factor[usable], sample.degrees[usable])
        error = np.nanstd(drawn, axis=0) * np.sqrt(len(draws) / chdtri(len(draws) - 1, 1 - _LUCK))
        one, many = 1 - level, _each_of_many(value, drawn, level)
        for tail, ends in ((one, (low, high)), (many, (family_low, family_high))):
            unseen = 1 - (tail / 2) ** (1 / np.maximum(objects[usable], 1))
            half = np.maximum(own.factor * error * stdtrit(own.degrees, 1 - tail / 2), unseen)
            ends[0][usable], ends[1][usable] = value - half, value + half
    return Intervals(low, high, family_low, family_high, undefined.astype(np.float64))


def _each_of_many(values: FloatArray, draws: FloatArray, level: float) -> float:
    """Chance of error to allow each of the statistics, so that all together err as often as 1 - level."""
    errors = np.nanstd(draws, axis=0)
    moving = errors > 0
    if moving.sum() < 2:
        return 1 - level
    deviation = np.abs(draws[:, moving] - values[moving]) / errors[moving]
    largest = np.quantile(np.nanmax(deviation, axis=1), level)
    # Sure whatever the dependence (Bonferroni); a heavy tail of one statistic must not cost the others more.
    sure = (1 - level) / int(moving.sum())
    return float(np.clip(2 * ndtr(-largest), sure, 1 - level))
