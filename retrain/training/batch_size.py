"""`batch_size: auto`: as many images as memory allows, chosen once for a request and kept."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from retrain.errors import BadInput, ConfigError, OutOfMemory
from retrain.storage import files
from retrain.training.data import DetectionData
from retrain.training.execution import Execution
from retrain.training.job import TrainingJob
from retrain.training.memory import free_bytes, gibibytes
from retrain.training.probe import Probe
from retrain.training.reproducible import reproducible
from retrain.training.request import TrainingRequest
from retrain.training.step_cost import grow, powers_of_two

logger = logging.getLogger(__name__)

AUTO = "auto"
# More images a process cost more accuracy than they save time; on the CPU they save none.
_MOST = {"cpu": 16, "cuda": 64}
# Of a GPU what Ultralytics' AutoBatch takes; of the machine's memory up to half is kept for cached images.
_SHARE = {"cpu": 0.4, "cuda": 0.6}


def chosen_batch_size(
    config: Mapping[str, Any], how: Execution, work_dir: Path, processes: int, nodes: int = 1
) -> int:
    """Images of one batch, of all processes together: a power of two for each of them.

    Measured by real steps on 2, 4, 8, ... images, as long as the next is expected to fit; at most 16 a process on the
    CPU and 64 on a GPU, and no more than there are training images. It is stored in `<work_dir>/batch-sizes` under a
    key of everything else that was asked for, so that the same request stays the same job whatever is free later.

    Args:
        processes: on this machine; the first GPU stands for all.
        nodes: machines.

    Raises:
        ConfigError: another setting is unknown or out of range, or the size chosen before cannot be shared evenly
            by so many processes.
        NotFound: data or initial weights are missing.
        OutOfMemory: not even two images a process fit.
        BadInput: what was stored is damaged.
    """
    most = _MOST[how.device]
    request = TrainingRequest.of({**config, "batch_size": most})
    # How many batches make a step says nothing of memory, and may contradict this size.
    job = TrainingJob.of(request, work_dir, 1, mixed_precision=how.mixed_precision)
    stored = work_dir / "batch-sizes" / f"{job.id}.json"
    stored.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(stored.with_suffix(".lock")):
        if stored.is_file():
            return _read(stored, processes * nodes)
        with reproducible(request.seed, job.threads_planned()):
            images, figures = _measured(job, how.device, processes, nodes)
        size = images * processes * nodes
        files.write_whole(stored, json.dumps({"batch_size": size, **figures}, indent=1).encode())
    logger.info(
        "batch_size auto is %d: %d images a process take about %s, and %s are free.",
        size,
        images,
        gibibytes(figures["step bytes"]),
        gibibytes(figures["free bytes"]),
    )
    return size


def _measured(job: TrainingJob, device: str, processes: int, nodes: int) -> tuple[int, dict[str, Any]]:
    """Images a process, and what was measured for them."""
    data = DetectionData(job, device, cache=False)
    most = min(_MOST[device], max(len(data.training_images) // (processes * nodes), 1))
    probe = Probe(job, data, device, most)
    free = free_bytes(device) // (1 if device == "cuda" else processes)
    limit = int(_SHARE[device] * free)
    tried = grow(probe, device, powers_of_two(most), limit)
    # The averaged weights are made once training begins.
    needed = {images: peak + tried.model_bytes for images, peak in tried.peaks.items()}
    fitting = [images for images, count in needed.items() if count <= limit]
    if not fitting:
        raise OutOfMemory(
            f"No batch size fits: {min(2, most)} images take more than {gibibytes(limit)}, which is what training may "
            f"use of {gibibytes(free)} that are free; lower image_size or take a smaller model."
        )
    images = max(fitting)
    return images, {
        "images a process": images,
        "processes": processes * nodes,
        "device": device,
        "step bytes": needed[images],
        "free bytes": free,
    }


def _read(stored: Path, processes: int) -> int:
    try:
        size = json.loads(stored.read_bytes())["batch_size"]
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{stored} is damaged ({error}); delete it, and the size is chosen anew.") from error
    if not isinstance(size, int) or size < 1:
        raise BadInput(f"{stored} has batch_size {size!r}; delete it, and the size is chosen anew.")
    if size % processes:
        raise ConfigError(
            f"batch_size auto was chosen as {size} before, which {processes} processes cannot share evenly; give a "
            f"number, or delete {stored} to have another job with a size chosen anew."
        )
    return size
