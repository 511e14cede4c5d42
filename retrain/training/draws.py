"""Which image is trained on when, as a pure function of seed and epoch: there is no state to save or to restore."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from retrain.boxes import FloatArray
from retrain.dataset.reading.balance import epoch_sample
from retrain.errors import ConfigError


class Draw(NamedTuple):
    """One image of one epoch. Two draws of one image in an epoch are at different positions."""

    epoch: int
    position: int
    image: int


class EpochBatches(Sampler[list[Draw]]):
    """One process's part of each batch of an epoch.

    All processes agree on the order without talking to each other, and position by position they see together what one
    process alone would see. A last batch that does not divide evenly is filled up from the epoch's beginning.

    Args:
        images: how many there are.
        batch_size: of all processes together; a multiple of `processes`.
        weights: how often to draw each image, shape (images,), above 0; None shows each once an epoch.
        rank: of this process, from 0.
    """

    def __init__(
        self,
        images: int,
        batch_size: int,
        seed: int,
        weights: FloatArray | None = None,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        self._images, self.batch_size, self._seed = images, batch_size, seed
        self._weights, self._rank, self._processes = weights, rank, processes
        self._epoch = self._first = 0

    def start(self, epoch: int, batch: int = 0) -> None:
        """Let the next pass be that of `epoch` (from 0), from this batch on."""
        self._epoch, self._first = epoch, batch

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return math.ceil(self._images / self.batch_size)

    def __iter__(self) -> Iterator[list[Draw]]:
        order = self._order(self._epoch)
        for batch in range(self._first, len(self)):
            yield [Draw(self._epoch, *drawn) for drawn in self._part(order, batch)]

    def first(self) -> Iterator[list[Draw]]:
        """The batches of the first epoch, whatever was started."""
        order = self._order(0)
        return ([Draw(0, *drawn) for drawn in self._part(order, batch)] for batch in range(len(self)))

    def indices(self, epoch: int, batch: int) -> list[int]:
        """Images in this process's part of a batch."""
        return [index for _, index in self._part(self._order(epoch), batch)]

    def _part(self, order: NDArray[np.intp], batch: int) -> Iterator[tuple[int, int]]:
        first = batch * self.batch_size
        shown = min(self.batch_size, self._images - first)
        share = math.ceil(shown / self._processes)
        for position in range(first + self._rank * share, first + (self._rank + 1) * share):
            yield position, int(order[position % self._images])

    def _order(self, epoch: int) -> NDArray[np.intp]:
        if self._weights is None:
            return epoch_order(self._images, self._seed, epoch)
        return epoch_sample(self._weights, epoch, self._seed, self._images)


def check_shared(batch_size: int, processes: int) -> None:
    """Raise `ConfigError` for a batch that processes cannot share evenly."""
    if batch_size % processes:
        raise ConfigError(
            f"batch_size is {batch_size}, which {processes} processes cannot share evenly; "
            f"use {math.ceil(batch_size / processes) * processes}."
        )


def epoch_order(images: int, seed: int, epoch: int) -> NDArray[np.intp]:
    """Each image once, in the order in which `epoch` shows them, shape (images,)."""
    return np.random.default_rng([seed, epoch]).permutation(images)
