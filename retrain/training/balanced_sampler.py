"""Which images an epoch sees when some are to be seen more often than others."""

import math
from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from retrain.boxes import FloatArray
from retrain.dataset.reading.balance import epoch_sample


class BalancedSampler(Sampler[int]):
    """One process's part of an epoch's draw: every `processes`-th index, the first ones again where they run short.

    A draw is as long as the list of images and a function of weights, seed and epoch: it needs no state to resume,
    and all processes agree on it without talking to each other.

    Args:
        weights: how often to draw each image, shape (n,), above 0.
        rank: of this process, from 0.
    """

    def __init__(self, weights: FloatArray, seed: int, rank: int = 0, processes: int = 1) -> None:
        self._weights, self._seed, self._epoch = weights, seed, 0
        self._rank, self._processes = rank, processes

    def set_epoch(self, epoch: int) -> None:
        """Draw for `epoch` (from 0) from the next pass on."""
        self._epoch = epoch

    def __len__(self) -> int:
        return math.ceil(len(self._weights) / self._processes)

    def __iter__(self) -> Iterator[int]:
        drawn = epoch_sample(self._weights, self._epoch, self._seed, len(self._weights))
        whole = np.resize(drawn, len(self) * self._processes)
        return iter(whole[self._rank :: self._processes].tolist())
