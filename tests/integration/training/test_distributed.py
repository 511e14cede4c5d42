"""Several processes that train one job together: real ones, over gloo."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from retrain.detector import StoredModel
from retrain.errors import ConfigError, PostConditionFailed, Unavailable
from retrain.storage.local_blobs import LocalBlobs
from retrain.training.fitting import FitSettings
from retrain.training.job import TrainingJob
from retrain.training.orchestrator import TrainingOrchestrator
from retrain.training.request import TrainingRequest
from retrain.training.result import EpochReport, TrainingResult
from retrain.training.supervisor import Supervisor
from retrain.training.weights import write_model_folder


class StopError(Exception):
    pass


@pytest.fixture(scope="module")
def config(whole_batches: dict[str, Any]) -> dict[str, Any]:
    return whole_batches


@pytest.fixture(scope="module")
def shared(trained_by_two: TrainingResult) -> TrainingResult:
    return trained_by_two


def two_processes(work: Path, **settings: Any) -> TrainingOrchestrator:
    return TrainingOrchestrator(work, num_processes=2, export=(), **settings)


def cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:  # it ended meanwhile
        return []


def ranks(parent: psutil.Process | None = None) -> dict[int, psutil.Process]:
    found = {}
    for child in (parent or psutil.Process()).children():
        command = cmdline(child)
        if "retrain.training.rank" in command:
            found[int(command[-1])] = child
    return found


def learned(result: TrainingResult) -> dict[str, torch.Tensor]:
    """Weights; running statistics are those of one process's images."""
    weights = StoredModel.read(result.model_folder).weights
    return {name: tensor for name, tensor in weights.items() if "running" not in name}


def test_two_processes_learn_what_one_learns_from_half_batches_summed(
    config: dict[str, Any], shared: TrainingResult, tmp_path: Path
) -> None:
    alone = TrainingOrchestrator(tmp_path, export=()).train({**config, "batch_size": 4})

    assert (alone.resolved["accumulate"], shared.resolved["accumulate"]) == (2, 1)
    assert shared.resolved["processes"] == 2
    # The same images are normalised together and the same gradients summed: nothing is left to differ.
    assert all(torch.equal(tensor, learned(alone)[name]) for name, tensor in learned(shared).items())
    for ours, theirs in zip(shared.epochs, alone.epochs, strict=True):
        assert ours.losses == pytest.approx(theirs.losses, rel=1e-6)


def test_a_killed_process_takes_all_along_and_the_job_goes_on(
    config: dict[str, Any], shared: TrainingResult, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    killed, reported, died = [], [], [0.0]

    def kill_once(report: EpochReport) -> None:
        reported.append(report.epoch)
        if report.epoch == 1 and not killed:
            killed.extend(ranks().values())
            died[0] = time.monotonic()
            ranks()[1].kill()
        if report.epoch == 2:
            died.append(time.monotonic())

    result = two_processes(tmp_path, keep_best=2).train(config, kill_once)

    assert reported == [1, 2, 3]
    assert "process 1 of 2 was ended by signal 9" in caplog.text
    assert not any(process.is_running() for process in killed)
    assert died[1] - died[0] < 60
    assert result.weights_sha256 == shared.weights_sha256
    assert result.epochs[-1].map50_95 == shared.epochs[-1].map50_95
    assert len({one.epoch for one in result.kept}) == 2
    assert result.kept[0].epoch == result.best.epoch


def test_several_processes_go_on_elsewhere_from_the_mirror(
    config: dict[str, Any], shared: TrainingResult, tmp_path: Path
) -> None:
    def give_up(_: EpochReport) -> None:
        raise StopError

    mirror = tmp_path / "mirror"
    with pytest.raises(StopError):
        two_processes(tmp_path / "lost", checkpoint_mirror=str(mirror)).train(config, give_up)
    shutil.rmtree(tmp_path / "lost")

    result = two_processes(tmp_path / "other", checkpoint_mirror=str(mirror)).train(config)

    assert result.resumed_from_epoch
    assert result.weights_sha256 == shared.weights_sha256
    assert list(LocalBlobs(mirror).keys()) == []


def test_a_process_that_hangs_is_noticed_its_stacks_kept_and_the_job_goes_on(
    config: dict[str, Any], shared: TrainingResult, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stopped = []

    def stop_once(report: EpochReport) -> None:
        if report.epoch == 1 and not stopped:
            stopped.append(ranks()[1])
            stopped[0].suspend()

    result = two_processes(tmp_path, stall_s=15).train(config, stop_once)

    assert "made no progress for 15 s" in caplog.text
    stacks = (tmp_path / result.job_id / "stall.txt").read_text()
    # The other one waits for it; it shows in which of our functions.
    assert "fitting.py" in stacks.partition("process 1\n")[0]
    assert not stopped[0].is_running()
    assert result.weights_sha256 == shared.weights_sha256


def test_a_process_alone_that_hangs_is_noticed_too_if_it_is_watched(
    config: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stopped, reported = [], []

    def stop_once(report: EpochReport) -> None:
        reported.append(report.epoch)
        if report.epoch == 1 and not stopped:
            stopped.append(ranks()[0])
            stopped[0].suspend()

    alone = TrainingOrchestrator(tmp_path / "alone", export=()).train(config)
    result = TrainingOrchestrator(tmp_path / "watched", supervised=True, stall_s=15, export=()).train(
        config, stop_once
    )

    assert "process 0 of 1 made no progress for 15 s" in caplog.text
    assert (tmp_path / "watched" / result.job_id / "stall.txt").is_file()
    assert not stopped[0].is_running()
    assert reported == [1, 2, 3]
    assert result.resolved["processes"] == 1
    assert result.weights_sha256 == alone.weights_sha256


def test_one_that_dies_again_and_again_ends_the_job_with_the_reason(
    config: dict[str, Any], tmp_path: Path
) -> None:
    done = threading.Event()
    died = set()

    def kill_each() -> None:
        while not done.wait(0.1):
            for process in ranks().values():
                died.add(process.pid)
                process.kill()

    killer = threading.Thread(target=kill_each)
    killer.start()
    try:
        with pytest.raises(PostConditionFailed, match=r"2 times in a row without a new epoch.* by signal 9"):
            two_processes(tmp_path, max_restarts=1).train(config)
    finally:
        done.set()
        killer.join()
    assert ranks() == {}
    assert len(died) >= 2


def test_what_a_process_raises_is_raised(
    config: dict[str, Any], shared: TrainingResult, tmp_path: Path
) -> None:
    start = StoredModel.read(shared.model_folder)
    start.weights["model.0.conv.weight"][0] = float("nan")
    write_model_folder(tmp_path / "start", start)

    with pytest.raises(PostConditionFailed, match=r"diverged in epoch 1, batch 1: .*\.png"):
        two_processes(tmp_path / "jobs").train({**config, "initial_weights": str(tmp_path / "start")})
    assert ranks() == {}


def test_a_caller_that_gives_up_stops_all_and_can_go_on_with_another_number_of_processes(
    config: dict[str, Any], tmp_path: Path
) -> None:
    def give_up(_: EpochReport) -> None:
        raise StopError

    with pytest.raises(StopError):
        two_processes(tmp_path).train(config, give_up)
    assert ranks() == {}

    resumed = TrainingOrchestrator(tmp_path, export=()).train(config)

    assert resumed.resumed_from_epoch
    assert len(resumed.epochs) == 3


CALLER = """
import json, sys
from retrain.training.fitting import FitSettings
from retrain.training.job import TrainingJob
from retrain.training.orchestrator import TrainingOrchestrator
from retrain.training.request import TrainingRequest
orchestrator = TrainingOrchestrator(sys.argv[1], num_processes=2)
orchestrator.train(json.loads(sys.argv[2]), lambda report: print(report.epoch, flush=True))
"""


def test_processes_do_not_outlive_a_killed_caller(config: dict[str, Any], tmp_path: Path) -> None:
    environment = {**os.environ, "RETRAIN_HOME": str(tmp_path / "home"), "PYTHONPATH": str(Path.cwd())}
    command = [sys.executable, "-c", CALLER, str(tmp_path / "jobs"), json.dumps({**config, "epochs": 50})]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as caller:
        assert caller.stdout is not None
        assert caller.stdout.readline() == b"1\n"
        left = list(ranks(psutil.Process(caller.pid)).values())
        caller.send_signal(signal.SIGKILL)

    assert len(left) == 2
    _, alive = psutil.wait_procs(left, timeout=20)
    assert alive == []


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"num_gpus": torch.cuda.device_count() + 4}, Unavailable, f"torch sees {torch.cuda.device_count()}"),
        ({"num_gpus": -1}, ConfigError, "num_gpus must be"),
        ({"num_gpus": True}, ConfigError, "num_gpus must be"),
        ({"num_processes": 0}, ConfigError, "num_processes must be"),
        ({"num_gpus": 2, "num_processes": 3}, ConfigError, "every GPU has one process"),
        ({"stall_s": 0}, ConfigError, "stall_s must be"),
        ({"max_restarts": -1}, ConfigError, "max_restarts must be"),
        ({"checkpoint_minutes": -1}, ConfigError, "checkpoint_minutes must be"),
        ({"checkpoint_mirror": "ftp://there"}, ConfigError, "s3://<bucket>"),
        ({"keep_best": 0}, ConfigError, "keep_best must be"),
        ({"slice_drop_limit": float("nan")}, ConfigError, "slice_drop_limit must be"),
    ],
)
def test_settings_that_cannot_be_are_refused(
    settings: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        TrainingOrchestrator(tmp_path, **settings)


def test_a_batch_that_cannot_be_shared_is_refused_before_anything_starts(
    config: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"batch_size is 8, which 3 processes cannot share evenly; use 9"):
        TrainingOrchestrator(tmp_path, num_processes=3).train(config)
    assert not list(tmp_path.rglob("rank-*"))


@pytest.mark.parametrize("processes", [1, 2])
def test_normalising_by_the_images_of_several_gpus_is_refused_without_them(
    config: dict[str, Any], processes: int, tmp_path: Path
) -> None:
    orchestrator = TrainingOrchestrator(tmp_path, num_processes=processes)
    with pytest.raises(ConfigError, match=rf"sync_batchnorm .* {processes} process\(es\) train on cpu"):
        orchestrator.train({**config, "sync_batchnorm": True})


def test_normalising_by_the_images_of_several_gpus_reaches_the_layers(
    config: dict[str, Any], tmp_path: Path
) -> None:
    request = TrainingRequest.of({**config, "sync_batchnorm": True})
    job = TrainingJob.of(request, tmp_path, 1, mixed_precision=False)

    # Torch has them for GPUs only; here they can but say so.
    with pytest.raises(PostConditionFailed, match="SyncBatchNorm layers only work with GPU modules"):
        Supervisor(stall_s=60, max_restarts=0).run(job, FitSettings("cpu", "fp32"), 2, lambda _: None)
