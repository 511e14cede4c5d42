"""What one error costs, exactly: average precision without interpolation, recounted without it.

That average precision is the mean over objects of the precision at the detection that finds them, 0 where none does.
Unlike with COCO's, which it is close to, the effect of every single detection can be counted at once. Costs are divided
by the number of classes that have objects, so they are shares of the mean over classes.
"""

from collections.abc import Iterator

import numpy as np

from retrain.boxes import FloatArray, IntArray
from retrain.evaluation.evaluation import Evaluation
from retrain.evaluation.ranked import Ranked, ranked_by_class


def cost_of_false_positives(evaluation: Evaluation) -> FloatArray:
    """Gain without each detection, shape (detections,); 0 for right ones and those that do not count."""
    cost = np.zeros(len(evaluation.predictions))
    for one, share in _with_shares(evaluation):
        made, right = np.arange(1, len(one.scores) + 1), np.cumsum(one.hits)
        # Without one wrong detection before it, the precision at a right one is right / (made - 1).
        gain = np.where(one.hits, right / np.maximum(made - 1, 1) - right / made, 0.0)
        after = np.cumsum(gain[::-1])[::-1]
        cost[one.rows] = np.where(one.hits, 0.0, after * share)
    return cost


def cost_of_missing(evaluation: Evaluation, finder: IntArray) -> FloatArray:
    """Gain if each object were found before all others, shape (objects,).

    Args:
        finder: row of the detection that found each object, or -1; it then has the highest score of all.
    """
    truth = evaluation.truth
    cost = np.zeros(len(truth))
    place = np.zeros(len(evaluation.predictions), dtype=np.int64)
    for index, (one, share) in enumerate(_with_shares(evaluation)):
        made, right = np.arange(1, len(one.scores) + 1), np.cumsum(one.hits)
        precision = right / made
        # A detection put first is before all right ones: they have one more right and one more made before them.
        gain = np.where(one.hits, (right + 1) / (made + 1) - precision, 0.0)
        before = np.concatenate([[0.0], np.cumsum(gain)])
        place[one.rows] = np.arange(len(one.rows))
        own = np.flatnonzero((truth.label == index) & ~truth.crowd)
        found = finder[own] >= 0
        cost[own[~found]] = (1 + before[-1]) * share
        at = place[finder[own[found]]]
        cost[own[found]] = (1 - precision[at] + before[at]) * share
    return cost


def _with_shares(evaluation: Evaluation) -> Iterator[tuple[Ranked, float]]:
    """Each class, and what the finding of one of its objects is worth."""
    each = ranked_by_class(evaluation)
    counted = sum(one.objects > 0 for one in each)
    for one in each:
        yield one, 1 / (one.objects * counted) if one.objects else 0.0
