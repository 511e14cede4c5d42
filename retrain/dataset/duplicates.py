"""Which images of a dataset show the same picture: every pair, in either direction, and the clusters they form."""

import logging
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from retrain.boxes import FloatArray, IntArray
from retrain.duplicates.near_duplicates import NearDuplicateRule, hashes_within
from retrain.duplicates.perceptual_hash import PerceptualHash, first_same, largest_differences

LEAK_RULE = NearDuplicateRule(max_difference=math.inf, max_candidates=128)
"""What may be too much alike to be in two splits: near hashes, without the collection's closer look.

Collection looks closely so that no frame of a fixed camera is lost over a small change. A leak is the opposite case:
two such frames in two splits, the same field refocused or moved a little (BCCD 37/38 and 386/391, 9 and 25 bits
apart), make a test easier than the field although they differ in many spots.
"""
LEAK_CORRELATION = 0.8
"""Least correlation of two pictures, aligned, to be a leak. Hashes alone confuse a few of 10^8 pairs: of distinct
pictures with near hashes (920 pairs of 30,000 made ones; BCCD up to 36 bits) none reaches 0.7, the two pairs of BCCD
that show one field reach 0.9.
"""
_MARGIN = 5
"""Cells by which one picture may be shifted against the other."""

_BLOCK = 64
"""Pictures asked for at a time: what they are near to is held until it is cut to the rule's candidates."""
_TOGETHER = 4
"""`first_same` aligns at most this many pictures as crops in one call; asked for more it skips some."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, order=True)
class NearPair:
    """Two images that show the same picture.

    Attributes:
        first, second: their digests, `first` < `second`; which one is the original is not known.
        distance: bits of 128 in which the hashes differ; of a mirrored pair, after flipping one.
        mirrored: whether one is the other flipped left to right.
        exact: whether the thumbnails are equal in every bit: the same pixels in another encoding, or a change too
            small to show in 32 x 32 grey levels. False for any other near-duplicate.
    """

    first: str
    second: str
    distance: int
    mirrored: bool
    exact: bool = False


@dataclass(frozen=True)
class _Candidates:
    """Pairs of places with near hashes, `low` < `high`, each (low, high, mirrored) once; all of shape (n,)."""

    low: IntArray
    high: IntArray
    mirrored: NDArray[np.bool_]
    distance: IntArray

    def at(self, places: IntArray) -> "_Candidates":
        return _Candidates(self.low[places], self.high[places], self.mirrored[places], self.distance[places])


def near_pairs(
    new: Mapping[str, PerceptualHash],
    known: Mapping[str, PerceptualHash],
    rule: NearDuplicateRule | None = None,
    groups: Mapping[str, str] | None = None,
    cameras: Mapping[str, str] | None = None,
) -> list[NearPair]:
    """Every two images that the rule calls the same picture, at least one of them in `new`.

    A pair counts whichever of the two repeats the other: looked at closely, a crop repeats its original but not
    the other way round, and a leak between splits exists whichever image came first. Give all images as `new`
    and none as `known` for every pair of a dataset.

    All hashes are compared, but of each image in `new` only the `rule.max_candidates` nearest of those that it was
    not compared with yet, as it is and mirrored together, are considered; where there are more (long recordings of a
    fixed camera, which belong into one group anyway) a warning says for how many images.

    Args:
        new: image digest → hash; an image that is also in `known` counts as new.
        known: likewise.
        rule: by default what leaks between splits: near hashes by `LEAK_RULE` and a correlation of `LEAK_CORRELATION`
            once aligned. `NearDuplicateRule()` is the stricter one of the collection.
        groups: image digest → group; pairs inside one group are left out.
        cameras: image digest → camera. All that a fixed camera sees has near hashes, so two images of the same camera
            are looked at closely in any case, as the collection does.

    Returns:
        Sorted by digests, each pair once: as it is before mirrored, where both are true.
    """
    look = rule or LEAK_RULE
    names = [*sorted(new), *sorted(known.keys() - new.keys())]
    pictures = [*(new[name] for name in names[: len(new)]), *(known[name] for name in names[len(new) :])]
    candidates = _candidates(pictures, len(new), look, _labels(names, groups))
    if rule is None:
        same = _leaking(pictures, candidates, _labels(names, cameras))
    else:
        same = _look_closely(pictures, candidates, rule.max_difference)
    pairs: dict[tuple[str, str], NearPair] = {}
    for place in np.flatnonzero(same):
        pair = _pair(names, pictures, candidates, int(place))
        pairs.setdefault((pair.first, pair.second), pair)
    return sorted(pairs.values())


def clusters(pairs: Iterable[NearPair]) -> list[tuple[str, ...]]:
    """Images that are connected through pairs; each cluster sorted, at least two images, and sorted by its first.

    The two ends of a chain are in one cluster also when they are no pair themselves.
    """
    linked = [(pair.first, pair.second) for pair in pairs]
    names = sorted({name for link in linked for name in link})
    place = {name: number for number, name in enumerate(names)}
    ends = np.array([[place[first], place[second]] for first, second in linked], np.int64).reshape(-1, 2)
    members: dict[int, list[str]] = defaultdict(list)
    for name, label in zip(names, linked_labels(len(names), ends), strict=True):
        members[int(label)].append(name)
    return sorted(tuple(cluster) for cluster in members.values())


def linked_labels(count: int, links: IntArray) -> IntArray:
    """The number of the connected component of each of `count` nodes, shape (count,); `links` of shape (n, 2)."""
    if not count:
        return np.empty(0, np.int64)
    graph = coo_array((np.ones(len(links), np.int8), (links[:, 0], links[:, 1])), shape=(count, count))
    labels: IntArray = connected_components(graph, directed=False)[1].astype(np.int64)
    return labels


def _labels(names: Sequence[str], of: Mapping[str, str] | None) -> IntArray:
    """A number for each name: equal where both have an equal text; those without one differ from all others."""
    numbers: dict[str, int] = {}
    labels = [
        numbers.setdefault(text, len(numbers)) if (text := (of or {}).get(name)) else None for name in names
    ]
    return np.array([-1 - place if label is None else label for place, label in enumerate(labels)], np.int64)


def _candidates(
    pictures: Sequence[PerceptualHash], asked: int, rule: NearDuplicateRule, groups: IntArray
) -> _Candidates:
    """What is near the first `asked` pictures by hash, outside their own groups."""
    p, d = (np.fromiter((getattr(h, kind) for h in pictures), np.uint64, len(pictures)) for kind in "pd")
    rows, crowded = [np.empty((0, 4), np.int64)], 0
    for start in range(0, asked, _BLOCK):
        block = pictures[start : min(start + _BLOCK, asked)]
        turned = [picture.mirrored for picture in block] if rule.mirrored else []
        # What came before has met these already.
        found = hashes_within(p[start:], d[start:], [*block, *turned], rule.max_distance)
        near = [(places + start, distances) for places, distances in found]
        for offset in range(len(block)):
            nearest = _nearest(start + offset, near[offset :: len(block)], groups)
            crowded += len(nearest) > rule.max_candidates
            rows.append(nearest[: rule.max_candidates])
    if crowded:
        _log.warning(
            "%d images have more than %d others with a near hash; only the nearest were considered, so "
            "that pairs with the rest are missing.",
            crowded,
            rule.max_candidates,
        )
    return _merged(np.concatenate(rows))


def _nearest(place: int, near: Sequence[tuple[IntArray, IntArray]], groups: IntArray) -> IntArray:
    """Rows of (low, high, mirrored, distance), nearest first. `near`: as it is and perhaps mirrored."""
    others, distances = (np.concatenate(part) for part in zip(*near, strict=True))
    mirrored = np.arange(len(others)) >= len(near[0][0])
    rows = np.stack(
        [np.minimum(others, place), np.maximum(others, place), mirrored.astype(np.int64), distances], axis=1
    )[groups[others] != groups[place]]
    nearest: IntArray = rows[np.lexsort(rows.T)]
    return nearest


def _merged(rows: IntArray) -> _Candidates:
    """A pair that was met from both its ends counts once, with the smaller distance."""
    ordered = rows[np.lexsort((rows[:, 3], rows[:, 2], rows[:, 1], rows[:, 0]))]
    first = np.ones(len(ordered), np.bool_)
    first[1:] = (ordered[1:, :3] != ordered[:-1, :3]).any(axis=1)
    low, high, mirrored, distance = ordered[first].T
    return _Candidates(low, high, mirrored.astype(np.bool_), distance)


def _leaking(pictures: Sequence[PerceptualHash], pairs: _Candidates, cameras: IntArray) -> NDArray[np.bool_]:
    """Whether the pictures of each pair are too much alike for two splits, shape (n,)."""
    same = np.zeros(len(pairs.low), np.bool_)
    fixed = cameras[pairs.low] == cameras[pairs.high]
    same[fixed] = _look_closely(pictures, pairs.at(np.flatnonzero(fixed)), NearDuplicateRule().max_difference)
    for place in np.flatnonzero(~fixed):
        one, other = pictures[pairs.low[place]].cells, pictures[pairs.high[place]].cells
        turned = np.ascontiguousarray(other[:, ::-1]) if pairs.mirrored[place] else other
        same[place] = _correlation(one, turned) >= LEAK_CORRELATION
    return same


def _correlation(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """The highest correlation of the middle of either thumbnail with a part of the other, -1 to 1.

    A picture without contrast, such as a lens cap's, correlates fully with any; only its hash tells it apart.
    """
    inside = slice(_MARGIN, -_MARGIN)
    found = [
        float(cv2.matchTemplate(whole, part[inside, inside], cv2.TM_CCOEFF_NORMED).max())
        for whole, part in ((one, other), (other, one))
    ]
    return max(found)


def _look_closely(
    pictures: Sequence[PerceptualHash], pairs: _Candidates, max_difference: float
) -> NDArray[np.bool_]:
    """Whether either picture of each pair repeats the other, shape (n,)."""
    if math.isinf(max_difference):
        return np.ones(len(pairs.low), np.bool_)
    same = np.zeros(len(pairs.low), np.bool_)
    for repeated, stored in ((pairs.low, pairs.high), (pairs.high, pairs.low)):
        # Grouped by the picture that may be the repetition, for whose sake most of the work is done.
        open_ = np.flatnonzero(~same)
        order = open_[np.lexsort((pairs.distance[open_], repeated[open_]))]
        starts = np.flatnonzero(np.diff(repeated[order], prepend=-1))
        for start, stop in pairwise([*starts.tolist(), len(order)]):
            group = order[start:stop]
            cells = np.stack([pictures[place].cells for place in stored[group]])
            turned = pairs.mirrored[group]
            cells[turned] = cells[turned, :, ::-1]
            same[group] = _repeats(cells, pictures[int(repeated[group[0]])].cells, max_difference)
    return same


def _repeats(stored: NDArray[np.uint8], new: NDArray[np.uint8], max_difference: float) -> NDArray[np.bool_]:
    """`first_same` for each of `stored`, not only for the first one."""
    before: FloatArray = stored.astype(np.float64)
    same: NDArray[np.bool_] = largest_differences(before, new.astype(np.float64)) <= max_difference
    left = np.flatnonzero(~same)
    for start in range(0, len(left), _TOGETHER):
        chunk = left[start : start + _TOGETHER]
        while chunk.size and (found := first_same(stored[chunk], new, max_difference)) is not None:
            same[chunk[found[0]]] = True
            chunk = chunk[found[0] + 1 :]
    return same


def _pair(
    names: Sequence[str], pictures: Sequence[PerceptualHash], pairs: _Candidates, place: int
) -> NearPair:
    low, high, mirrored = int(pairs.low[place]), int(pairs.high[place]), bool(pairs.mirrored[place])
    first, second = sorted((names[low], names[high]))
    exact = pictures[low].thumbnail == pictures[high].thumbnail
    return NearPair(first, second, int(pairs.distance[place]), mirrored, exact)
