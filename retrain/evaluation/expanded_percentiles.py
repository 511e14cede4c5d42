"""Intervals as cycles had them until they were found too narrow; only to prove the records of that time."""

import numpy as np
from scipy.special import ndtr, stdtrit

from retrain.boxes import FloatArray
from retrain.evaluation.change import MIN_GROUPS, Change

EXPANDED = "paired group bootstrap, expanded percentiles"


def expanded_percentiles(
    metric: str, champion: FloatArray, challenger: FloatArray, n_groups: int, n_images: int, level: float
) -> Change:
    """Expanded for the number of groups: Hesterberg (2015), "What Teachers Should Know About the Bootstrap".

    Args:
        champion, challenger: of the whole and of each draw, shape (1 + resamples,).
    """
    before, after = float(champion[0]), float(challenger[0])
    low = high = float("nan")
    problem = None
    differences = (challenger - champion)[1:]
    defined = differences[np.isfinite(differences)]
    if n_groups < MIN_GROUPS:
        problem = f"Only {n_groups} recordings; at least {MIN_GROUPS} are needed to judge a difference."
    elif not np.isfinite([before, after]).all():
        problem = "The images contain no object, so there is no score to compare."
    elif len(defined) < 0.99 * len(differences):
        missing = len(differences) - len(defined)
        problem = f"{missing} of {len(differences)} resamples hold no object; too few recordings have any."
    else:
        reach = np.sqrt(n_groups / (n_groups - 1)) * stdtrit(n_groups - 1, (1 + level) / 2)
        tail = float(ndtr(-reach))
        low, high = (float(end) for end in np.quantile(defined, [tail, 1 - tail]))
    nan = float("nan")
    return Change(
        metric,
        before,
        after,
        after - before,
        low,
        high,
        low,
        high,
        nan,
        nan,
        n_images,
        None,
        n_groups,
        problem,
    )
