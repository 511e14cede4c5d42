"""Changes of one family of statistics, such as all classes, with their intervals."""

from collections.abc import Sequence
from math import isfinite

import numpy as np

from retrain.boxes import IntArray
from retrain.evaluation.change import MIN_GROUPS, Change
from retrain.evaluation.intervals import Intervals, intervals, small_sample
from retrain.evaluation.paired_draws import Scored


def changes(
    metric: str,
    scored: Scored,
    n_images: Sequence[int],
    n_objects: Sequence[int] | IntArray,
    level: float,
) -> list[Change]:
    """One for each column of `scored`; a statistic with too few groups to judge it has no part in the family."""
    differences = scored.challenger - scored.champion
    holding = (scored.shares > 0).sum(axis=1)
    differences[:, holding < MIN_GROUPS] = np.nan
    sample = small_sample(scored.shares)
    resting_on = np.asarray(n_objects, dtype=np.float64)
    found = intervals(differences[0], differences[1:], sample, resting_on, level)
    own = intervals(scored.challenger[0], scored.challenger[1:], sample, resting_on, level)
    result = []
    for at in range(differences.shape[1]):
        before, after = float(scored.champion[0, at]), float(scored.challenger[0, at])
        problem = _problem(before, after, int(holding[at]), scored, found, at)
        ends = (found.low, found.high, found.family_low, found.family_high)
        low, high, family_low, family_high = (_inside(end[at], -1.0, problem) for end in ends)
        own_low, own_high = (_inside(end[at], 0.0, problem) for end in (own.low, own.high))
        result.append(
            Change(
                metric=metric,
                champion=before,
                challenger=after,
                difference=after - before,
                low=low,
                high=high,
                family_low=family_low,
                family_high=family_high,
                own_low=own_low,
                own_high=own_high,
                n_images=n_images[at],
                n_objects=int(n_objects[at]),
                n_groups=int(holding[at]),
                problem=problem,
            )
        )
    return result


def _inside(end: float, least: float, problem: str | None) -> float:
    """Within the values there are, from `least` to 1."""
    return float("nan") if problem else float(np.clip(end, least, 1.0))


def _problem(
    before: float, after: float, holding: int, scored: Scored, found: Intervals, at: int
) -> str | None:
    groups, draws = scored.shares.shape[1], len(scored.champion) - 1
    if groups < MIN_GROUPS:
        return f"Only {groups} recordings; at least {MIN_GROUPS} are needed to judge a difference."
    if not _finite(before, after):
        if not scored.shares[at].any():
            return "The images contain no object, so there is no score to compare."
        who = (
            "challenger" if isfinite(before) else "champion" if isfinite(after) else "champion and challenger"
        )
        return f"What the {who} found defines no value, so there is no score to compare."
    if holding < MIN_GROUPS:
        return (
            f"Only {holding} of {groups} recordings hold what is compared: too few recordings, at least {MIN_GROUPS} "
            "are needed."
        )
    if not _finite(found.low[at], found.high[at]):
        return f"{found.undefined[at]:.0f} of {draws} resamples define no value; too few recordings have any."
    return None


def _finite(*numbers: float) -> bool:
    return all(map(isfinite, numbers))
