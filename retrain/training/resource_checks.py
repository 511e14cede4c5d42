"""Whether a job fits into memory and on the disk, and how long it will take."""

import math
import shutil
from pathlib import Path

from retrain.training.data import DetectionData, cache_limit
from retrain.training.job import TrainingJob
from retrain.training.labelled_images import LabelledImages
from retrain.training.memory import free_bytes, gibibytes
from retrain.training.preflight_report import Check
from retrain.training.step_cost import StepCost

# Two epoch ends, one within an epoch, and one that is being written.
_CHECKPOINTS = 4
# The model folder and its successor, a half-precision .pt and an ONNX file.
_RELEASE = 2 + 0.5 + 1
# Weights, averaged weights, best weights and gradients.
_MODELS_IN_CHECKPOINT = 4


def check_memory(
    cost: StepCost, job: TrainingJob, data: DetectionData, device: str, processes: int, free: int
) -> Check:
    """Peak of a step with the averaged weights, and the cache of images, against what is free.

    Args:
        free: bytes on the device before the step was measured.
    """
    cache = processes * sum(
        _kept_bytes(images, job.request.cache, processes)
        for images in (data.training_images, data.validation_images)
    )
    training = cost.peak_bytes + cost.model_bytes
    on_host = free_bytes("cpu") if device == "cuda" else free
    wanted_on_host = cache + (0 if device == "cuda" else training * processes)
    figures = {
        "step bytes": training,
        "image cache bytes": cache,
        "free bytes": free,
        "free bytes for images": on_host,
        "processes": processes,
    }
    short = list[str]()
    warning = ""
    if not cost.fits or (device == "cuda" and training > free):
        large = f"a step takes about {gibibytes(training)} and {gibibytes(free)} are free: "
        if device == "cuda":
            warning = f"{large.capitalize()}batches will be trained on in parts."
        else:
            # Here the system ends the process; it raises no error that could be answered.
            short.append(
                f"{large}lower batch_size (and raise gradient_accumulation) or image_size, or take a smaller model"
            )
    if wanted_on_host > on_host:
        short.append(
            f"{gibibytes(cache)} of cached images"
            + ("" if device == "cuda" else f" and {gibibytes(training)} a process")
            + f" do not fit into {gibibytes(on_host)}: set cache to 'none', lower image_size or batch_size, or use "
            "fewer processes"
        )
    said = (
        f"A step takes {gibibytes(training)}, cached images {gibibytes(cache)}; {gibibytes(free)} are free."
    )
    return Check("memory", not short, "; ".join(short) or said, figures, warning)


def _kept_bytes(images: LabelledImages, cache: str, processes: int) -> int:
    limit = cache_limit(cache, processes)
    needed = images.cached_bytes
    return 0 if cache == "none" or (limit is not None and needed > limit) else needed


def check_time(
    cost: StepCost, validation_s: float, job: TrainingJob, data: DetectionData, limit_hours: float | None
) -> Check:
    """Steps (with loading, unless workers do it meanwhile) and validations of all epochs; an upper bound."""
    request = job.request
    if not cost.fits:
        return Check("time", True, "Not known, because no step could be run.", {}, "not measured")
    loading = cost.load_s / request.workers if request.workers else cost.load_s
    step = max(cost.step_s, loading) if request.workers else cost.step_s + loading
    epoch = step * len(data.train) + validation_s * data.validation_batches
    hours = epoch * request.epochs / 3600
    figures = {
        "step s": round(cost.step_s, 4),
        "load s": round(cost.load_s, 4),
        "validation batch s": round(validation_s, 4),
        "epoch s": round(epoch, 2),
        "hours": round(hours, 4),
    }
    said = f"{request.epochs} epochs take about {_told(hours)}."
    if limit_hours is not None and hours > limit_hours:
        said += f" That is above the limit of {limit_hours:g} h; lower epochs or image_size."
        return Check("time", False, said, figures)
    return Check("time", True, said, figures)


def check_disk(cost: StepCost, work_dir: Path) -> Check:
    """Checkpoints, release and exports against what is free where jobs are kept."""
    checkpoint = _MODELS_IN_CHECKPOINT * cost.model_bytes + cost.optimizer_bytes
    needed = math.ceil(_CHECKPOINTS * checkpoint + _RELEASE * cost.model_bytes)
    place = next(folder for folder in (work_dir, *work_dir.parents) if folder.is_dir())
    free = shutil.disk_usage(place).free
    figures = {"checkpoint bytes": checkpoint, "needed bytes": needed, "free bytes": free}
    said = f"The job takes up to {gibibytes(needed)}; {gibibytes(free)} are free in {place}."
    return Check("disk", needed <= free, said + (" Free some." if needed > free else ""), figures)


def _told(hours: float) -> str:
    if hours >= 1:
        return f"{hours:.1f} h"
    return f"{hours * 60:.1f} min" if hours * 60 >= 1 else f"{hours * 3600:.0f} s"
