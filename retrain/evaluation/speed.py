"""How fast models are: part by part, and interleaved, so that a busy machine hits all of them alike."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from typing import Any, Protocol

import numpy as np

from retrain.boxes import Detections
from retrain.errors import BadInput, ConfigError
from retrain.evaluation.machine import Machine, peak_memory_mb
from retrain.evaluation.run import Image

PARTS = ("decode", "preprocess", "forward", "postprocess")


class Stepwise(Protocol):
    """The steps of a prediction, as `retrain.detector.Detector` has them."""

    device: str
    imgsz: int

    def prepare(self, images: Sequence[Image], /) -> Any: ...
    def forward(self, batch: Any, /) -> Any: ...
    def finish(
        self, raw: Any, images: Sequence[Image], confidence: float, iou: float, max_detections: int, /
    ) -> list[Detections]: ...


@dataclass(frozen=True)
class SpeedPlan:
    """How often what is timed.

    Attributes:
        images: different ones, taken in turn.
        warm_up: predictions of each model before anything is timed.
        rounds: timed predictions of one image, of each model.
        batch_sizes: that throughput is measured at.
        batch_rounds: timed predictions of each model at each batch size.
        confidence, nms_iou, max_detections: as served; fewer boxes cost less.
    """

    images: int = 32
    warm_up: int = 5
    rounds: int = 100
    batch_sizes: tuple[int, ...] = (1, 4, 16)
    batch_rounds: int = 5
    confidence: float = 0.25
    nms_iou: float = 0.7
    max_detections: int = 300

    def __post_init__(self) -> None:
        counts = (self.images, self.rounds, self.batch_rounds, *self.batch_sizes)
        if min(counts) < 1 or self.warm_up < 0:
            raise ConfigError(f"Speed needs counts of at least 1 and warm_up of at least 0, got {self}.")


@dataclass(frozen=True)
class Times:
    """Milliseconds of `n` predictions."""

    mean: float
    p50: float
    p90: float
    p99: float
    n: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Times":
        ms = np.asarray(seconds) * 1e3
        p50, p90, p99 = np.percentile(ms, (50, 90, 99)).tolist()
        return cls(float(ms.mean()), p50, p90, p99, len(ms))


@dataclass(frozen=True)
class SpeedReport:
    """Of one model.

    Attributes:
        latency: of one image alone, from its encoded bytes to its boxes.
        each_ms: the same of every round, in order; round by round the models saw the same image.
        parts: the same, part by part; `decode` reads and decodes the image.
        throughput: images a second by batch size, without decoding.
        peak_memory_mb: of the whole process while it predicts one image, or on a GPU of its tensors; None: unknown.
        interleaved_with: models that took turns with it.
    """

    model: str
    runtime: str
    device: str
    imgsz: int
    latency: Times
    each_ms: tuple[float, ...]
    parts: Mapping[str, Times]
    throughput: Mapping[int, float]
    peak_memory_mb: float | None
    interleaved_with: tuple[str, ...]
    plan: SpeedPlan
    machine: Machine

    @property
    def fps(self) -> float:
        """Images a second, one after the other, decoding included."""
        return 1e3 / self.latency.mean

    def to_json(self) -> dict[str, Any]:
        """All but the single rounds."""
        found = asdict(self)
        del found["each_ms"]
        throughput = {str(size): value for size, value in self.throughput.items()}
        return {**found, "fps": self.fps, "throughput": throughput}


def measure_speed(
    models: Mapping[str, Stepwise],
    loads: Sequence[Callable[[], Image]],
    plan: SpeedPlan,
    *,
    runtimes: Mapping[str, str],
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, SpeedReport]:
    """Time all models in turns: in each round every one predicts the same image, and another one is first.

    Args:
        models: by name.
        loads: read and decode an image each.
        runtimes: of each model.
        clock: seconds.

    Raises:
        BadInput: no image, or no model.
    """
    if not loads or not models:
        raise BadInput("Speed is measured on models and images, and there is none.")
    machine = Machine.here(next(iter(models.values())).device)
    images = [load() for load in islice(cycle(loads), max(plan.batch_sizes))]
    for model in models.values():
        for _ in range(plan.warm_up):
            _predict(model, images[:1], plan)
    stamps: dict[str, list[list[float]]] = {name: [] for name in models}
    for round_number, name in _turns(tuple(models), plan.rounds):
        stamps[name].append(_timed(models[name], loads[round_number % len(loads)], plan, clock))
    throughput = {name: dict.fromkeys(plan.batch_sizes, 0.0) for name in models}
    for size in plan.batch_sizes:
        for name, seconds in _batch_times(models, images[:size], plan, clock).items():
            throughput[name][size] = size / float(np.median(seconds))
    return {
        name: SpeedReport(
            model=name,
            runtime=runtimes[name],
            device=model.device,
            imgsz=model.imgsz,
            latency=Times.of([each[-1] - each[0] for each in stamps[name]]),
            each_ms=tuple(1e3 * (each[-1] - each[0]) for each in stamps[name]),
            parts={
                part: Times.of([each[index + 1] - each[index] for each in stamps[name]])
                for index, part in enumerate(PARTS)
            },
            throughput=throughput[name],
            peak_memory_mb=_peak(model, images[:1], plan),
            interleaved_with=tuple(other for other in models if other != name),
            plan=plan,
            machine=machine,
        )
        for name, model in models.items()
    }


def _turns(names: Sequence[str], rounds: int) -> Iterator[tuple[int, str]]:
    """Round by round every name, beginning with another one each time: what comes first finds other caches."""
    for number in range(rounds):
        first = number % len(names)
        yield from ((number, name) for name in (*names[first:], *names[:first]))


def _timed(
    model: Stepwise, load: Callable[[], Image], plan: SpeedPlan, clock: Callable[[], float]
) -> list[float]:
    """The clock before the first of `PARTS` and after each."""
    stamps = [clock()]
    image = [load()]
    stamps.append(clock())
    batch = model.prepare(image)
    _wait_for(model)
    stamps.append(clock())
    raw = model.forward(batch)
    _wait_for(model)
    stamps.append(clock())
    model.finish(raw, image, plan.confidence, plan.nms_iou, plan.max_detections)
    stamps.append(clock())
    return stamps


def _batch_times(
    models: Mapping[str, Stepwise], images: Sequence[Image], plan: SpeedPlan, clock: Callable[[], float]
) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for model in models.values():
        # The first batch of a new size pays for memory.
        _predict(model, images, plan)
    for _, name in _turns(tuple(models), plan.batch_rounds):
        before = clock()
        _predict(models[name], images, plan)
        seconds[name].append(clock() - before)
    return seconds


def _peak(model: Stepwise, images: Sequence[Image], plan: SpeedPlan) -> float | None:
    return peak_memory_mb(lambda: _predict(model, images, plan), model.device)


def _predict(model: Stepwise, images: Sequence[Image], plan: SpeedPlan) -> list[Detections]:
    raw = model.forward(model.prepare(images))
    return model.finish(raw, images, plan.confidence, plan.nms_iou, plan.max_detections)


def _wait_for(model: Stepwise) -> None:
    """A GPU answers before it is done."""
    if model.device != "cpu":
        import torch

        torch.cuda.synchronize(model.device)
