"""What one training step costs in memory and time, measured without risking more memory than there is."""

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch.optim import Optimizer

from retrain.training.memory import PeakMeter
from retrain.training.probe import Probe
from retrain.training.ultralytics_parts import DetectionModel

_TIMED_STEPS = 3


@dataclass(frozen=True)
class StepCost:
    """Of the batch that one process is given.

    Attributes:
        peak_bytes: weights, optimizer and one step; a projection where `fits` is false.
        fits: the step was really run; false when less memory is free than smaller batches say that it takes.
        step_s: median of three; 0 when it was not run.
        load_s: to decode and augment the batch in one process; the job's cache spares it the decoding.
        model_bytes, optimizer_bytes: that a checkpoint stores.
    """

    peak_bytes: int
    fits: bool
    step_s: float
    load_s: float
    model_bytes: int
    optimizer_bytes: int


def measure_step(
    probe: Probe, device: str, free: int, clock: Callable[[], float] = time.perf_counter
) -> StepCost:
    """Run steps on 2, 4, 8, ... images up to the batch, as long as the next is expected to fit into `free` bytes."""
    sizes = [*(size for size in powers_of_two(probe.images) if size < probe.images), probe.images]
    tried = grow(probe, device, sizes, free)
    seconds, load_s = list[float](), 0.0
    if tried.complete:
        started = clock()
        batch = probe.batch(probe.images)
        load_s = clock() - started
        for _ in range(_TIMED_STEPS):
            started = clock()
            probe.step(tried.model, tried.optimizer, batch)
            if device == "cuda":
                torch.cuda.synchronize()
            seconds.append(clock() - started)
    return StepCost(
        peak_bytes=tried.peaks[probe.images]
        if tried.complete
        else max(tried.expected(probe.images), free + 1),
        fits=tried.complete,
        step_s=statistics.median(seconds) if tried.complete else 0.0,
        load_s=load_s,
        model_bytes=tried.model_bytes,
        optimizer_bytes=sum(_bytes(state) for state in tried.optimizer.state.values()),
    )


@dataclass
class Growth:
    """Steps on more and more images.

    Attributes:
        peaks: bytes at the highest point of each step that was run, weights and optimizer included, by its images.
        complete: all were run; the others were not expected to fit, or did not.
    """

    model: DetectionModel
    optimizer: Optimizer
    peaks: dict[int, int]
    complete: bool = False

    @property
    def model_bytes(self) -> int:
        return _bytes(self.model.state_dict())

    def expected(self, images: int) -> int:
        """Peak for so many images on the line through the last two measured; 0 while there is none."""
        if not self.peaks:
            return 0
        measured = list(self.peaks.items())
        (few, low), (many, high) = measured[-2] if len(measured) > 1 else (0, 0), measured[-1]
        return int(high + max(high - low, 0) / (many - few) * (images - many))


def grow(probe: Probe, device: str, sizes: Iterable[int], limit: int) -> Growth:
    """Run one step on each of these numbers of images, as long as the next is not expected to exceed `limit` bytes."""
    meter = PeakMeter(device)
    model = probe.fresh_model()
    tried = Growth(model, probe.optimizer(model), {})
    for images in sizes:
        if tried.expected(images) > limit:
            return tried
        batch = probe.batch(images)
        try:
            tried.peaks[images] = meter.peak(lambda batch=batch: probe.step(model, tried.optimizer, batch))  # type: ignore[misc]
        except torch.OutOfMemoryError:
            return tried
    tried.complete = True
    return tried


def powers_of_two(most: int) -> list[int]:
    """From 2 up to `most`, or `most` where that is less."""
    return [2**power for power in range(1, 20) if 2**power <= most] or [most]


def _bytes(state: dict[str, object]) -> int:
    return sum(value.nbytes for value in state.values() if isinstance(value, torch.Tensor))
