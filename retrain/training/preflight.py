"""Checks before a training, so that hours are not wasted on one that cannot end well."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from retrain.errors import RetrainError
from retrain.training.compiling import check_compiler
from retrain.training.data import DetectionData
from retrain.training.job import TrainingJob
from retrain.training.label_checks import check_labels, check_separation
from retrain.training.labelled_images import LabelledImages
from retrain.training.memory import free_bytes
from retrain.training.overfit_check import check_overfit
from retrain.training.preflight_report import Check, PreflightReport
from retrain.training.probe import Probe
from retrain.training.reproducible import reproducible
from retrain.training.resource_checks import check_disk, check_memory, check_time
from retrain.training.step_cost import measure_step
from retrain.training.validation import Validation

# The overfit check may take this share of the training, and at least that many seconds.
_SHARE, _AT_LEAST_S = 0.02, 10.0
_NEED_DATA = ("overfit", "memory", "time", "disk")


def run_preflight(
    job: TrainingJob,
    device: str,
    processes: int = 1,
    limit_hours: float | None = None,
    clock: Callable[[], float] = time.perf_counter,
    nodes: int = 1,
) -> PreflightReport:
    """Run all checks, also after one fails. Writes nothing and leaves generators as they are.

    Args:
        device: `cpu` or `cuda`; the first GPU stands for all.
        processes: that share every batch, on this machine.
        limit_hours: a training that takes longer fails.
        nodes: machines that share every batch.
    """
    started, request = clock(), job.request
    checks = [
        check_labels(request.train_data, request.val_data, request.classes),
        check_separation(request.train_data, request.val_data),
        *([check_compiler(device)] if request.compile else []),
    ]
    with reproducible(request.seed, job.threads_planned()):
        try:
            checks += _with_data(job, device, processes, nodes, limit_hours, clock)
        except RetrainError as error:
            done = {check.name for check in checks}
            checks += [
                Check(name, False, f"Not possible: {error}", {}) for name in _NEED_DATA if name not in done
            ]
    if device == "cuda":
        torch.cuda.empty_cache()
    return PreflightReport(job.id, tuple(checks), round(clock() - started, 2))


def _with_data(
    job: TrainingJob,
    device: str,
    processes: int,
    nodes: int,
    limit_hours: float | None,
    clock: Callable[[], float],
) -> list[Check]:
    data = DetectionData(job, device, cache=False)
    at_once = job.request.batch_size // (processes * nodes) // job.micro_batches()
    probe = Probe(job, data, device, max(at_once, 1))
    free = free_bytes(device)
    cost = measure_step(probe, device, free // (1 if device == "cuda" else processes), clock)
    duration = check_time(cost, _validation_s(job, data, device, clock), job, data, limit_hours)
    limit_s = max(_AT_LEAST_S, _SHARE * 3600 * duration.figures.get("hours", 0.0))
    return [
        check_overfit(probe, limit_s, clock),
        check_memory(cost, job, data, device, processes, free),
        duration,
        check_disk(cost, job.folder.parent),
    ]


def _validation_s(job: TrainingJob, data: DetectionData, device: str, clock: Callable[[], float]) -> float:
    """Of one batch, with loading."""
    images = data.validation_images
    count = min(job.request.batch_size * 2, len(images))
    with tempfile.TemporaryDirectory() as unused:
        validation = Validation(data, Path(unused))
        model = Probe(job, data, device, count).fresh_model()
        validation.start(model)
        started = clock()
        validation.step(model, LabelledImages.collate_fn([images[index] for index in range(count)]))
        return clock() - started
