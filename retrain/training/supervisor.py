"""Starts the processes of a job, watches them, and starts all again when one dies or none gets on."""

import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from retrain import environment, errors
from retrain.errors import PostConditionFailed, RetrainError
from retrain.storage import files
from retrain.training.fitting import FitSettings
from retrain.training.job import TrainingJob
from retrain.training.rank import ORDER, REPORTS, failure_file, heartbeat_file, stacks_file
from retrain.training.recorder import OnEpoch
from retrain.training.result import EpochReport

_POLL_S = 0.2
_DUMPING_S = 1.0
# Beside `stall_s`: importing torch is no step, and takes long on a busy machine or a slow disk.
_IMPORTING_S = 60.0
_LAST_LINES = 4

logger = logging.getLogger(__name__)


class Stopped(Exception):
    """The processes were stopped because they could not go on; the job can, from its last checkpoint."""


@dataclass(frozen=True)
class Supervisor:
    """Runs the processes of one job until they are done.

    Attributes:
        stall_s: a process that shows no progress for so long is taken to hang.
        max_restarts: how often in a row all are started again without a new epoch in between.
    """

    stall_s: float
    max_restarts: int

    @property
    def patience_s(self) -> float:
        """How long processes wait for each other: longer than a stall, so that who waits is seen waiting."""
        return 2 * self.stall_s + 60

    def run(self, job: TrainingJob, settings: FitSettings, processes: int, on_epoch: OnEpoch) -> None:
        """Train until the processes end well.

        Raises:
            RetrainError: what a process raised.
            PostConditionFailed: one died or hung too often; its log and stacks are kept and named.
        """
        restarts = 0
        while True:
            attempt = _Attempt(job.folder / "attempt", job, processes, on_epoch)
            try:
                attempt.run(replace(settings, timeout_s=self.patience_s), self.stall_s)
            except Stopped as error:
                restarts = 1 if attempt.reported else restarts + 1
                if restarts > self.max_restarts:
                    raise PostConditionFailed(
                        f"Training job {job.id} was stopped {restarts} times in a row without a new epoch, at last "
                        f"because {error} Its last checkpoint is kept; call train again to go on from there."
                    ) from error
                logger.warning("Training job %s starts again from its last checkpoint: %s", job.id, error)
            else:
                shutil.rmtree(attempt.folder)
                return


class _Attempt:
    def __init__(self, folder: Path, job: TrainingJob, processes: int, on_epoch: OnEpoch) -> None:
        self.folder, self.reported = folder, 0
        self._job, self._processes, self._on_epoch = job, processes, on_epoch

    def run(self, settings: FitSettings, stall_s: float) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        order = _order(self._job, replace(settings, port=_free_port()), self._processes)
        files.write_whole(self.folder / ORDER, json.dumps(order).encode())
        with self._started() as ranks:
            while any(rank.poll() is None for rank in ranks):
                time.sleep(_POLL_S)
                self._report()
                self._check_alive(ranks)
                self._check_progress(ranks, stall_s)
            self._check_alive(ranks)
        self._report()

    @contextmanager
    def _started(self) -> Iterator[list[subprocess.Popen[bytes]]]:
        ranks: list[subprocess.Popen[bytes]] = []
        try:
            for rank in range(self._processes):
                with self._log(rank).open("wb") as log:
                    ranks.append(
                        subprocess.Popen(
                            [sys.executable, "-m", "retrain.training.rank", str(self.folder), str(rank)],
                            # Their places are in the order.
                            env=environment.unlaunched(),
                            stdin=subprocess.DEVNULL,
                            stdout=log,
                            stderr=subprocess.STDOUT,
                            # A group of its own, so that its loader workers go with it.
                            start_new_session=True,
                        )
                    )
            yield ranks
        finally:
            for process in ranks:
                _kill_group(process)

    def _check_alive(self, ranks: list[subprocess.Popen[bytes]]) -> None:
        failed = [(rank, process.returncode) for rank, process in enumerate(ranks) if process.poll()]
        if not failed:
            return
        self._report()  # what became durable since the last look; the next attempt begins with an empty folder
        # Those that a failure takes along fail a little later, or at the same poll.
        for rank, _ in failed:
            if error := self._failure(rank):
                raise error
        rank, code = failed[0]
        how = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
        raise Stopped(f"process {rank} of {len(ranks)} {how}. {self._last_words(rank)}")

    def _check_progress(self, ranks: list[subprocess.Popen[bytes]], stall_s: float) -> None:
        now = time.time()
        hung = [
            rank
            for rank, process in enumerate(ranks)
            if now - self._last_beat(rank) > stall_s and process.poll() is None
        ]
        if not hung:
            return
        for process in ranks:
            if process.poll() is None:
                process.send_signal(signal.SIGUSR1)
        time.sleep(_DUMPING_S)
        self._report()
        raise Stopped(
            f"process {hung[0]} of {len(ranks)} made no progress for {stall_s:g} s; what each was doing is in "
            f"{self._kept_stacks()}."
        )

    def _last_beat(self, rank: int) -> float:
        try:
            return heartbeat_file(self.folder, rank).stat().st_mtime
        except FileNotFoundError:
            return (self.folder / ORDER).stat().st_mtime + _IMPORTING_S

    def _kept_stacks(self) -> Path:
        """Outside the folder of the attempt, which the next one replaces."""
        parts = []
        for rank in range(self._processes):
            stacks = stacks_file(self.folder, rank)
            said = stacks.read_text(errors="replace") if stacks.is_file() else ""
            parts.append(f"process {rank}\n{said or 'It did not answer.'}\n")
        path = self.folder.parent / "stall.txt"
        files.write_whole(path, "\n".join(parts).encode())
        return path

    def _report(self) -> None:
        try:
            reports = json.loads((self.folder / REPORTS).read_bytes())
        except FileNotFoundError:
            return
        for report in reports[self.reported :]:
            self.reported += 1
            self._on_epoch(EpochReport.from_json(report))

    def _failure(self, rank: int) -> RetrainError | None:
        try:
            told = json.loads(failure_file(self.folder, rank).read_bytes())
        except FileNotFoundError:
            return None
        kind: type[RetrainError] = getattr(errors, told["error"])
        return kind(told["message"])

    def _last_words(self, rank: int) -> str:
        lines = self._log(rank).read_text(errors="replace").strip().splitlines()
        return f"It said last: {' | '.join(lines[-_LAST_LINES:])}" if lines else "It said nothing."

    def _log(self, rank: int) -> Path:
        return self.folder / f"rank-{rank}.log"


def _order(job: TrainingJob, settings: FitSettings, processes: int) -> dict[str, Any]:
    plain = json.loads(json.dumps(asdict(job.request), default=str))
    return {
        "request": plain,
        "work_dir": str(job.folder.parent),
        "accumulate": job.accumulate,
        "mixed_precision": job.mixed_precision,
        "processes": processes,
        "settings": asdict(settings),
        "parent": os.getpid(),
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
