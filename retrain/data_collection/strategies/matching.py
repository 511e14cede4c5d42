"""Which boxes of two predictions are the same object."""

from collections.abc import Iterator

from retrain.data_collection.frame import Seen


def matched(a: Seen, b: Seen, iou: float, floor: float) -> dict[int, int]:
    """Pair boxes of the same class one to one, greedily by falling IoU.

    Pairs in which both boxes reach the score `floor` go first, so that a faint double of a box cannot take its
    partner away; a box then left over may still be confirmed by a fainter one (the two passes of ByteTrack,
    Zhang et al. 2022).

    Args:
        iou: least IoU of a pair, in (0, 1].

    Returns:
        Index in `a` -> index in `b`. Boxes without area match nothing.
    """
    partners: dict[int, int] = {}
    taken: set[int] = set()
    pairs = [(min(a.scores[i], b.scores[j]) >= floor, share, -i, -j) for share, i, j in _overlaps(a, b, iou)]
    for _, _, i, j in sorted(pairs, reverse=True):
        if -i not in partners and -j not in taken:
            partners[-i] = -j
            taken.add(-j)
    return partners


def _overlaps(a: Seen, b: Seen, iou: float) -> Iterator[tuple[float, int, int]]:
    """(IoU, index in a, index in b) of every pair of one class with at least `iou`.

    Plain Python: below some 30 boxes a frame it beats numpy, whose calls cost more than the sums.
    """
    others = [
        (j, b.classes[j], x1, y1, x2, y2, (x2 - x1) * (y2 - y1)) for j, (x1, y1, x2, y2) in enumerate(b.boxes)
    ]
    for i, (ax1, ay1, ax2, ay2) in enumerate(a.boxes):
        label, area = a.classes[i], (ax2 - ax1) * (ay2 - ay1)
        for j, other, bx1, by1, bx2, by2, other_area in others:
            if label == other and ax1 < bx2 and bx1 < ax2 and ay1 < by2 and by1 < ay2:
                shared = (min(ax2, bx2) - max(ax1, bx1)) * (min(ay2, by2) - max(ay1, by1))
                if shared > 0 and (share := shared / (area + other_area - shared)) >= iou:
                    yield share, i, j
