"""Boxes of one image that are the same box: labelled twice, or with two classes."""

from collections.abc import Iterator, Sequence

import numpy as np
from scipy.spatial import KDTree

from retrain.boxes import FloatArray, IntArray
from retrain.dataset.duplicates import linked_labels
from retrain.dataset.quality.boxes import BoxTable
from retrain.dataset.quality.report import Issue

_CROWDED = 64
"""From more boxes in one image, each is compared with its nearest only."""
_NEAREST = 16
"""Boxes compared with each in a crowded image, by their edges."""


def pair_issues(table: BoxTable, classes: Sequence[str], threshold: float) -> Iterator[Issue]:
    """Groups of boxes that overlap by an IoU of `threshold` or more, one issue for each group.

    In an image of more than 64 boxes each box is compared with those equal to it and the 16 nearest others,
    so that 10^5 boxes in one image cost no 10^10 comparisons; who overlaps so much is among the nearest.
    """
    links = same_boxes(table, threshold)
    one_class = table.classes[links[:, 0]] == table.classes[links[:, 1]]
    for kind, kept in (("duplicate-box", one_class), ("two-classes", ~one_class)):
        for rows, least in _groups(table, links[kept]):
            yield table.issue(kind, rows, _message(table, rows, classes, least), least)


def same_boxes(table: BoxTable, threshold: float) -> IntArray:
    """Pairs of rows (first < second) of one image whose IoU is at least `threshold`, shape (n, 2).

    Of boxes that are equal in every edge each is paired with the next only, which links them all.
    """
    rows = np.flatnonzero(table.usable)
    columns = (rows, table.classes[rows], *table.boxes[rows].T[::-1], table.image[rows])
    rows = rows[np.lexsort(columns)]
    equal = (table.image[rows[1:]] == table.image[rows[:-1]]) & (
        table.boxes[rows[1:]] == table.boxes[rows[:-1]]
    ).all(axis=1)
    links = [np.stack([rows[:-1], rows[1:]], axis=1)[equal]]
    # One box for each class stands for those equal to it.
    repeated = np.zeros(len(rows), np.bool_)
    repeated[1:] = equal & (table.classes[rows[1:]] == table.classes[rows[:-1]])
    single = np.sort(rows[~repeated])
    counts = np.bincount(table.image[single], minlength=len(table.items))
    crowded = counts[table.image[single]] > _CROWDED
    near = [_neighbours(table, single[~crowded]), *_nearest(table, single[crowded])]
    links += [pairs[elementwise_iou(table.boxes, pairs) >= threshold] for pairs in near]
    together: IntArray = np.unique(np.sort(np.concatenate(links), axis=1), axis=0)
    return together


def elementwise_iou(boxes: FloatArray, pairs: IntArray) -> FloatArray:
    """IoU of the boxes at each pair of rows, shape (n,); boxes without area have IoU 0."""
    a, b = boxes[pairs[:, 0]], boxes[pairs[:, 1]]
    sides = np.clip(np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]), 0, None)
    overlap = np.prod(sides, axis=1)
    union = np.prod(a[:, 2:] - a[:, :2], axis=1) + np.prod(b[:, 2:] - b[:, :2], axis=1) - overlap
    iou: FloatArray = np.divide(overlap, union, out=np.zeros(len(pairs)), where=union > 0)
    return iou


def _neighbours(table: BoxTable, rows: IntArray) -> IntArray:
    """All pairs of rows within an image, for all images at once, by how far apart the two are in `rows`."""
    image, pairs = table.image[rows], [np.empty((0, 2), np.int64)]
    first = np.arange(len(rows))
    for step in range(1, _CROWDED):
        first = first[first + step < len(rows)]
        first = first[image[first] == image[first + step]]
        if not first.size:
            break
        pairs.append(np.stack([rows[first], rows[first + step]], axis=1))
    return np.concatenate(pairs)


def _nearest(table: BoxTable, rows: IntArray) -> Iterator[IntArray]:
    """Pairs of each row and those with the most similar edges, image by image."""
    images = table.image[rows]
    for members in np.split(rows, np.flatnonzero(np.diff(images)) + 1):
        if members.size:
            tree = KDTree(table.boxes[members])
            _, places = tree.query(table.boxes[members], k=_NEAREST + 1, p=np.inf)
            pairs = np.stack([np.repeat(members, _NEAREST + 1), members[places.ravel()]], axis=1)
            yield pairs[pairs[:, 0] != pairs[:, 1]]


def _groups(table: BoxTable, links: IntArray) -> Iterator[tuple[IntArray, float]]:
    """Rows of each connected group and the least IoU among its links."""
    nodes, ends = np.unique(links, return_inverse=True)
    ends = ends.reshape(-1, 2)
    labels = linked_labels(len(nodes), ends)
    least = np.full(int(labels.max(initial=-1)) + 1, np.inf)
    np.minimum.at(least, labels[ends[:, 0]], elementwise_iou(table.boxes, links))
    order = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.diff(labels[order])) + 1
    for members in np.split(order, starts):
        if members.size:
            yield nodes[members], float(least[labels[members[0]]])


def _message(table: BoxTable, rows: IntArray, classes: Sequence[str], least: float) -> str:
    indices = sorted({int(index) for index in table.classes[rows]})
    names = " and ".join(repr(classes[i]) if 0 <= i < len(classes) else f"class {i}" for i in indices)
    edges = ", ".join(f"{edge:g}" for edge in table.boxes[rows[0]])
    return f"{len(rows)} boxes of {names} at ({edges}) are the same (IoU {least:.2f} or more)."
