"""One of several processes that train a job together: `python -m retrain.training.rank FOLDER RANK`.

It leaves, in the folder of the attempt: a heartbeat, its stacks when it gets SIGUSR1, and why it failed. The leading
one leaves the reports of the epochs that are durable.
"""
# ruff: noqa: E402 - torch reads its switches while it is imported, so these are set first.

from retrain import environment

environment.prepare()

import ctypes
import faulthandler
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback

from retrain.errors import RetrainError
from retrain.storage import files
from retrain.training.checkpoints import CheckpointManager
from retrain.training.console import quiet
from retrain.training.fitting import FitSettings, fit, open_checkpoints
from retrain.training.job import TrainingJob
from retrain.training.place import Place
from retrain.training.reproducible import reproducible
from retrain.training.request import TrainingRequest
from retrain.training.result import EpochReport

ORDER, REPORTS = "order.json", "reports.json"
_PR_SET_PDEATHSIG = 1


def heartbeat_file(folder: Path, rank: int) -> Path:
    return folder / f"rank-{rank}.beat"


def stacks_file(folder: Path, rank: int) -> Path:
    return folder / f"rank-{rank}.stacks"


def failure_file(folder: Path, rank: int) -> Path:
    return folder / f"rank-{rank}.failure.json"


class Heartbeat(Callback):
    """Touches a file with every step, so that whoever watches sees a stall."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.beat()

    def beat(self, *_: Any, **__: Any) -> None:
        self._file.touch()

    on_train_batch_end = on_validation_batch_end = beat
    on_train_epoch_start = on_train_epoch_end = on_validation_start = on_validation_end = beat


def main(folder: Path, rank: int) -> None:
    """Train until the job is finished; leaves a failure file when it cannot."""
    _die_with_parent()
    order = json.loads((folder / ORDER).read_bytes())
    if os.getppid() != order["parent"]:
        # It went while this one imported torch, too early for the kernel to tell.
        sys.exit("The process that started this one is gone.")
    # Kept open for as long as the process lives: it is written to from a signal handler.
    stacks = stacks_file(folder, rank).open("w")
    faulthandler.register(signal.SIGUSR1, file=stacks, all_threads=True)
    heartbeat = Heartbeat(heartbeat_file(folder, rank))
    place = Place(rank=rank, processes=order["processes"], local_rank=rank)
    job = TrainingJob.of(
        TrainingRequest.of(order["request"]),
        Path(order["work_dir"]),
        order["accumulate"],
        mixed_precision=order["mixed_precision"],
    )
    settings = FitSettings(**order["settings"])
    reports: list[dict[str, Any]] = []

    def on_epoch(report: EpochReport) -> None:
        if place.leads:
            reports.append(report.to_json())
            files.write_whole(folder / REPORTS, json.dumps(reports).encode())

    # All read the same one: none is written before all have begun. What only the mirror had was fetched before.
    saved = CheckpointManager(job.checkpoints).newest_good()
    checkpoints = open_checkpoints(job, settings.checkpoint_mirror) if place.leads else None
    with quiet(), reproducible(job.request.seed, job.threads()):
        fit(
            job,
            settings,
            saved,
            checkpoints,
            on_epoch,
            time.perf_counter,
            place,
            heartbeat,
            heartbeat.beat,
        )


def _die_with_parent() -> None:
    """Nobody watches, and nobody holds the job's lock, once the process that started this one is gone."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def run(folder: Path, rank: int) -> int:
    try:
        main(folder, rank)
    except RetrainError as error:
        failure = {"error": type(error).__name__, "message": str(error), "pid": os.getpid()}
        files.write_whole(failure_file(folder, rank), json.dumps(failure).encode())
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(run(Path(sys.argv[1]), int(sys.argv[2])))
