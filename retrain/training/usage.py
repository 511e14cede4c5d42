"""What training takes of the machine, from one epoch's beginning to its end."""

import logging
from collections.abc import Callable
from contextlib import suppress

import psutil
import pynvml
import torch

_LOOK_EVERY = 50
_MEBIBYTE = 2**20

logger = logging.getLogger(__name__)


class Usage:
    """Of this process and those that load images for it; on a GPU also of that.

    Args:
        device: `cpu` or `cuda`.
        clock: seconds.
    """

    def __init__(self, device: str, clock: Callable[[], float]) -> None:
        self._is_gpu = self._asks_gpu = device == "cuda"
        self._clock = clock
        self._process = psutil.Process()
        self.start()

    def start(self) -> None:
        """An epoch begins."""
        self._began, self._cpu_before = self._clock(), self._cpu_seconds()
        self._batches, self._gpu_percents = 0, list[float]()
        if self._is_gpu:
            torch.cuda.reset_peak_memory_stats()

    def batch(self) -> None:
        """A batch is done."""
        if self._asks_gpu and self._batches % _LOOK_EVERY == 0:
            try:
                self._gpu_percents.append(float(torch.cuda.utilization()))
            except (pynvml.NVMLError, RuntimeError) as error:
                # A part of a GPU (MIG) has no such figure, or torch does not find it; training goes on without.
                logger.warning("How busy the GPU is cannot be told: %s.", error)
                self._asks_gpu = False
        self._batches += 1

    def read(self) -> dict[str, float]:
        """Mean since `start`: `cpu_cores` that were busy and, of GPUs, `gpu_percent` of the time that one worked. Now:
        `memory_mib`, in which pages that processes share count for each. Highest since `start`: `gpu_memory_mib`.
        """
        seconds = max(self._clock() - self._began, 1e-9)
        told = {
            # Loader processes that ended meanwhile took their time with them.
            "cpu_cores": max(self._cpu_seconds() - self._cpu_before, 0.0) / seconds,
            "memory_mib": self._sum(lambda one: one.memory_info().rss) / _MEBIBYTE,
        }
        if self._is_gpu:
            told["gpu_memory_mib"] = torch.cuda.max_memory_allocated() / _MEBIBYTE
        if self._gpu_percents:
            told["gpu_percent"] = sum(self._gpu_percents) / len(self._gpu_percents)
        return told

    def _cpu_seconds(self) -> float:
        return self._sum(lambda one: one.cpu_times().user + one.cpu_times().system)

    def _sum(self, figure: Callable[[psutil.Process], float]) -> float:
        total = 0.0
        for process in (self._process, *self._process.children(recursive=True)):
            # One that ended since it was listed has no figures any more.
            with suppress(psutil.NoSuchProcess):
                total += figure(process)
        return total
