"""Balancing classes by how often an image is drawn, never by copying it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from retrain.boxes import FloatArray, IntArray
from retrain.dataset.version import DatasetItem
from retrain.errors import BadInput

_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class ClassBalance:
    """How even the classes are, as they are and as drawn by weight.

    Attributes:
        images: that show the class, shape (classes,).
        objects: of the class, shape (classes,).
        background: images without objects.
        shares: of each class in all objects, shape (classes,); zeros when there are no objects.
        effective_shares: the same among the objects of images drawn by weight, in expectation.
        absent: indices of classes without an object; no weight helps them.
    """

    images: IntArray
    objects: IntArray
    background: int
    shares: FloatArray
    effective_shares: FloatArray
    absent: tuple[int, ...]

    @property
    def imbalance(self) -> float | None:
        """Objects of the most frequent class per object of the rarest that occurs; None without objects."""
        return _ratio(self.shares)

    @property
    def effective_imbalance(self) -> float | None:
        """`imbalance` among the objects of images drawn by weight."""
        return _ratio(self.effective_shares)


def sampling_weights(
    items: Sequence[DatasetItem], classes: int, threshold: float | None = None
) -> FloatArray:
    """How often to draw each image, relative to the mean, so that rare classes are seen more often.

    Repeat-factor sampling (Gupta, Dollár, Girshick 2019: LVIS): with f the share of images that show a class, its
    factor is max(1, sqrt(t / f)), an image's the greatest of its classes', and 1 for an image without objects.

    Args:
        items: the images of one split.
        classes: their number.
        threshold: t, in (0, 1]: classes in a smaller share of the images are drawn more often. None: the share of
            the most frequent class, so that every other class gains, half of its lack on a log scale; classes that
            are in equally many images get weight 1. The paper's 0.001 changes nothing in a set of few classes,
            nor would the median share where one class leads and the others are even. In a long tail of hundreds
            of classes give a small one: the rarest images would else be drawn 10 or more times an epoch.

    Returns:
        Shape (items,), above 0, with mean 1.

    Raises:
        BadInput: no items, a class that is not below `classes`, or an impossible threshold.
    """
    if threshold is not None and not 0 < threshold <= 1:
        raise BadInput(f"threshold must be in (0, 1], got {threshold:g}.")
    rows, labels = _objects(items, classes)
    frequency = _images(rows, labels, classes) / len(items)
    limit = frequency.max(initial=0.0) if threshold is None else threshold
    # A class that nobody shows weighs on no image; 1 only keeps it from dividing by 0.
    factors = np.maximum(1.0, np.sqrt(limit / np.where(frequency > 0, frequency, 1.0)))
    weights = np.ones(len(items))
    np.maximum.at(weights, rows, factors[labels])
    normalised: FloatArray = weights / weights.mean()
    return normalised


def class_balance(
    items: Sequence[DatasetItem], classes: int, weights: FloatArray | None = None
) -> ClassBalance:
    """Count the classes, and weigh what drawing by weight makes of them.

    Args:
        weights: one per item; None: `sampling_weights`.

    Raises:
        BadInput: no items, a class that is not below `classes`, or weights that cannot be drawn by.
    """
    rows, labels = _objects(items, classes)
    drawn = sampling_weights(items, classes) if weights is None else _checked_weights(weights)
    if len(drawn) != len(items):
        raise BadInput(f"Every image needs one weight, got {len(items)} images and {len(drawn)} weights.")
    objects = np.bincount(labels, minlength=classes)
    return ClassBalance(
        images=_images(rows, labels, classes),
        objects=objects,
        background=len(items) - len(np.unique(rows)),
        shares=_shares(objects),
        effective_shares=_shares(np.bincount(labels, drawn[rows], minlength=classes)),
        absent=tuple(np.flatnonzero(objects == 0).tolist()),
    )


def epoch_sample(weights: FloatArray, epoch: int, seed: int, size: int) -> IntArray:
    """Which images to show in one epoch, and in which order: the same for equal arguments.

    Systematic resampling (Kitagawa 1996; Douc, Cappé 2005): with e = size * weight / sum of weights, an image is
    drawn floor(e) or ceil(e) times, e in expectation. So in an epoch of n draws with weights of mean 1 chance leaves
    out no image of weight 1 or more. From epoch to epoch the grid moves by the golden ratio (a Kronecker sequence),
    so that over E epochs the draws of an image stay within a few of E * e: an image of e = 0.5 is never left out
    more than twice in a row.

    Args:
        weights: 0 or more, shape (n,); need not be normalised.
        epoch: from 0.
        seed: of the run, 0 or more.
        size: draws.

    Returns:
        Indices into `weights`, shape (size,), shuffled.

    Raises:
        BadInput: weights that are not finite, are below 0 or all 0; a negative epoch or seed; a size below 1.
    """
    checked = _checked_weights(weights)
    for name, value, least in (("epoch", epoch, 0), ("seed", seed, 0), ("size", size, 1)):
        if value < least:
            raise BadInput(f"{name} must be at least {least}, got {value}.")
    once = np.random.default_rng(seed)
    # One order for all epochs: the golden ratio spreads an image's draws only while its place stays.
    order = once.permutation(len(checked))
    start = (once.random() + epoch * _GOLDEN) % 1.0
    upto = np.cumsum(checked[order]) * (size / checked.sum())
    upto[-1] = size
    times = np.diff(np.ceil(np.clip(upto - start, 0.0, None)).astype(np.int64), prepend=0)
    drawn: IntArray = np.random.default_rng([seed, epoch]).permutation(np.repeat(order, times))
    return drawn


def _objects(items: Sequence[DatasetItem], classes: int) -> tuple[IntArray, IntArray]:
    """The image, as an index, and the class of every object."""
    if not items:
        raise BadInput("There are no images to balance.")
    rows: IntArray = np.repeat(np.arange(len(items)), [len(item.objects) for item in items])
    labels = np.fromiter((o.class_index for item in items for o in item.objects), np.int64, len(rows))
    if (wrong := np.flatnonzero((labels < 0) | (labels >= classes))).size:
        image, label = items[rows[wrong[0]]].image, labels[wrong[0]]
        raise BadInput(f"Image {image} has class {label}, but there are {classes} classes.")
    return rows, labels


def _images(rows: IntArray, labels: IntArray, classes: int) -> IntArray:
    """How many images show each class, shape (classes,)."""
    shown: IntArray = np.unique(rows * classes + labels) % max(classes, 1)
    return np.bincount(shown, minlength=classes)


def _checked_weights(weights: FloatArray) -> FloatArray:
    checked = np.asarray(weights, dtype=np.float64).reshape(-1)
    if not np.all(np.isfinite(checked) & (checked >= 0)):
        bad = checked[~(np.isfinite(checked) & (checked >= 0))][0]
        raise BadInput(f"Weights must be finite and 0 or more, got {bad:g}.")
    if not checked.sum() > 0:
        raise BadInput(f"Some weight must be above 0, got {len(checked)} weights without one.")
    return checked


def _shares(amounts: IntArray | FloatArray) -> FloatArray:
    total = amounts.sum()
    shares: FloatArray = amounts / total if total > 0 else np.zeros(len(amounts))
    return shares


def _ratio(shares: FloatArray) -> float | None:
    present = shares[shares > 0]
    return float(present.max() / present.min()) if len(present) else None
