"""What one training step costs in memory and time, measured without risking more memory than there is."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from retrain.training.memory import PeakMeter
from retrain.training.probe import Probe

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
    meter, peaks = PeakMeter(device), dict[int, int]()
    model = probe.fresh_model()
    optimizer = probe.optimizer(model)
    sizes = [*(2**power for power in range(1, 20) if 2**power < probe.images), probe.images]
    peak, fits, seconds, load_s = 0, True, list[float](), 0.0
    for images in sizes:
        peak = _expected(peaks, images)
        if peak > free:
            peak, fits = _expected(peaks, probe.images), False
            break
        started = clock()
        batch = probe.batch(images)
        load_s = clock() - started
        try:
            peak = peaks[images] = meter.peak(lambda batch=batch: probe.step(model, optimizer, batch))  # type: ignore[misc]
        except torch.OutOfMemoryError:
            peak, fits = max(_expected(peaks, probe.images), free + 1), False
            break
    else:
        for _ in range(_TIMED_STEPS):
            started = clock()
            probe.step(model, optimizer, batch)
            if device == "cuda":
                torch.cuda.synchronize()
            seconds.append(clock() - started)
    return StepCost(
        peak_bytes=peak,
        fits=fits,
        step_s=statistics.median(seconds) if fits else 0.0,
        load_s=load_s,
        model_bytes=_bytes(model.state_dict()),
        optimizer_bytes=sum(_bytes(state) for state in optimizer.state.values()),
    )


def _expected(peaks: dict[int, int], images: int) -> int:
    """Peak for so many images on the line through the last two measured; 0 while there is none."""
    if not peaks:
        return 0
    measured = list(peaks.items())
    (few, low), (many, high) = measured[-2] if len(measured) > 1 else (0, 0), measured[-1]
    return int(high + max(high - low, 0) / (many - few) * (images - many))


def _bytes(state: dict[str, object]) -> int:
    return sum(value.nbytes for value in state.values() if isinstance(value, torch.Tensor))
