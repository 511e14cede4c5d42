"""Processes that somebody else starts together: by torchrun, or as srun starts them."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from retrain.errors import ConfigError
from retrain.training.orchestrator import TrainingOrchestrator
from retrain.training.result import TrainingResult

WORKER = str(Path(__file__).with_name("launched_worker.py"))


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def ended(commands: list[list[str]], environments: list[dict[str, str]] | None = None) -> list[str]:
    """What each of these, which run at the same time, wrote; all have to end well."""
    base = {**os.environ, "PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            command, env={**base, **more}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for command, more in zip(commands, environments or [{}] * len(commands), strict=True)
    ]
    try:
        said = [process.communicate(timeout=120)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert all(process.returncode == 0 for process in started), "\n".join(said)
    return said


def torchrun(config: dict[str, Any], folder: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", *options, *worker(config, folder)[1:]]


def worker(config: dict[str, Any], folder: Path) -> list[str]:
    return [sys.executable, WORKER, str(folder / "jobs"), json.dumps(config), str(folder)]


def told(folder: Path) -> list[dict[str, Any]]:
    return [json.loads((folder / f"{rank}.json").read_bytes()) for rank in range(2)]


def test_two_machines_of_torchrun_train_one_job_and_fail_as_one(
    whole_batches: dict[str, Any], trained_by_two: TrainingResult, tmp_path: Path
) -> None:
    leading = ("--master-addr=127.0.0.1", f"--master-port={free_port()}", "--nproc-per-node=1", "--nnodes=2")

    ended([torchrun(whole_batches, tmp_path, *leading, f"--node-rank={node}") for node in range(2)])

    first, second = told(tmp_path)
    assert first["weights_sha256"] == second["weights_sha256"] == trained_by_two.weights_sha256
    assert first["job_id"] == trained_by_two.job_id
    assert first["resolved"]["processes"] == 2
    assert first["model_folder"] == second["model_folder"]
    assert (first["reported"], second["reported"]) == ([1, 2, 3], [])
    # They would be taken for workers of Ultralytics' own trainer.
    assert first["ultralytics_rank"] == second["ultralytics_rank"] == -1
    assert "ConfigError: Processes that were launched together have to train one job" in first["other_seeds"]
    assert first["other_seeds"] == second["other_seeds"]
    assert second["missing_data"].startswith("NotFound: ")
    assert first["missing_data"] == second["missing_data"].replace(": ", ": Process 1 of 2: ", 1)
    # What one alone fails of is what the job failed of.
    assert second["unusable"] == "BadInput: It is broken."
    assert first["unusable"] == "BadInput: Process 1 of 2: It is broken."
    assert first["unusable_state"] == ["failed", "Process 1 of 2: It is broken."]
    assert second["unforeseen"] == "ValueError('a bug')"
    assert first["unforeseen"] == "Unavailable: Process 1 of 2 failed: ValueError('a bug')"
    assert first["unforeseen_state"] == ["failed", "Process 1 of 2 failed: ValueError('a bug')"]


def test_torchrun_starts_again_after_a_killed_process_and_the_job_goes_on(
    whole_batches: dict[str, Any],
    trained_by_two: TrainingResult,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KILL_AFTER", "2")

    (said,) = ended(
        [torchrun(whole_batches, tmp_path, "--standalone", "--nproc-per-node=2", "--max-restarts=1")]
    )

    assert "exitcode: -9" in said
    first, second = told(tmp_path)
    assert first["resumed_from_epoch"] == 1
    assert first["weights_sha256"] == second["weights_sha256"] == trained_by_two.weights_sha256


def test_tasks_of_slurm_train_one_job(
    whole_batches: dict[str, Any], trained_by_two: TrainingResult, tmp_path: Path
) -> None:
    job = f"7{int(free_port()) % 10000:04}"
    environments = [
        {
            "SLURM_JOB_ID": job,
            "SLURM_JOB_NAME": "train",
            "SLURM_NTASKS": "2",
            "SLURM_STEP_NUM_TASKS": "2",
            "SLURM_STEP_NUM_NODES": "2",
            "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
            "SLURM_STEP_NODELIST": "localhost,otherhost",
            "SLURM_PROCID": str(task),
            "SLURM_LOCALID": "0",
        }
        for task in range(2)
    ]
    ended([worker(whole_batches, tmp_path)] * 2, environments)

    first, second = told(tmp_path)
    assert first["weights_sha256"] == second["weights_sha256"] == trained_by_two.weights_sha256


def test_a_shell_in_an_allocation_of_slurm_trains_alone(
    whole_batches: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Lightning would take this for a broken launch.
    for name, value in {"SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}.items():
        monkeypatch.setenv(name, value)

    result = TrainingOrchestrator(tmp_path, export=()).train({**whole_batches, "epochs": 1})

    assert result.resolved["processes"] == 1


def test_another_number_of_processes_than_were_launched_is_refused(
    whole_batches: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    for name, value in pod.items():
        monkeypatch.setenv(name, value)

    with pytest.raises(
        ConfigError, match=r"Kubernetes started 1 processes .* 2 are asked for by num_processes"
    ):
        TrainingOrchestrator(tmp_path, num_processes=2).train(whole_batches)
