import os
from typing import Any

import pytest

from retrain.environment import launcher_hidden, unlaunched
from retrain.errors import ConfigError
from retrain.training.launched import Launched, launched_place
from retrain.training.place import Place

TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "none",
    "RANK": "5",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "8",
    "LOCAL_WORLD_SIZE": "4",
    "GROUP_RANK": "1",
    "MASTER_ADDR": "gpu-1",
    "MASTER_PORT": "29500",
}
SRUN = {
    "SLURM_JOB_ID": "1234567",
    "SLURM_JOB_NAME": "train",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
    "SLURM_STEP_NODELIST": "gpu-[07-08]",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
}
POD = {"RANK": "2", "WORLD_SIZE": "3", "MASTER_ADDR": "job-master-0", "MASTER_PORT": "23456"}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        (TORCHRUN, Launched("torchrun", Place(5, 8, 1, 2), "gpu-1", 29500)),
        (SRUN, Launched("srun", Place(3, 4, 1, 2), "gpu-07", 19567)),
        (
            SRUN | {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "4000"},
            Launched("srun", Place(3, 4, 1, 2), "10.0.0.1", 4000),
        ),
        (POD, Launched("Kubernetes", Place(2, 3, 0, 3), "job-master-0", 23456)),
        (POD | {"PET_NNODES": "3"}, Launched("Kubernetes", Place(2, 3, 0, 3), "job-master-0", 23456)),
        # Each launcher may be started by the ones below it.
        (POD | SRUN | TORCHRUN, Launched("torchrun", Place(5, 8, 1, 2), "gpu-1", 29500)),
    ],
)
def test_each_launcher_says_where_a_process_stands(environ: dict[str, str], expected: Launched) -> None:
    assert launched_place(environ) == expected


@pytest.mark.parametrize(
    "environ",
    [
        {},
        # A shell of salloc or a batch script: eight tasks may be started, none was.
        {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"},
        SRUN
        | {
            "SLURM_STEP_NUM_TASKS": "1",
            "SLURM_STEP_NUM_NODES": "1",
            "SLURM_PROCID": "0",
            "SLURM_LOCALID": "0",
        },
        SRUN | {"SLURM_JOB_NAME": "bash"},
        SRUN | {"SLURM_JOB_NAME": "interactive"},
        TORCHRUN | {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"},
        # Torchrun on each of several machines of SLURM, none of which knows of the others.
        SRUN | TORCHRUN | {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"},
        POD | {"RANK": "0", "WORLD_SIZE": "1"},
        {"RANK": "1", "WORLD_SIZE": "2"},
    ],
)
def test_one_process_is_no_launch_whatever_it_was_started_from(environ: dict[str, str]) -> None:
    assert launched_place(environ) is None


def without(environ: dict[str, str], name: str) -> dict[str, str]:
    return {key: value for key, value in environ.items() if key != name}


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        (
            without(TORCHRUN, "LOCAL_RANK"),
            r"torchrun started this process as one of several, but LOCAL_RANK is not",
        ),
        (without(TORCHRUN, "MASTER_ADDR"), "MASTER_ADDR is not set"),
        (TORCHRUN | {"RANK": "-1"}, "RANK must be a whole number of at least 0, got '-1' from torchrun"),
        (TORCHRUN | {"RANK": "8"}, "process 8 of 8 .* cannot be"),
        (TORCHRUN | {"LOCAL_RANK": "4"}, "process 4 of the 4 on this machine"),
        (TORCHRUN | {"LOCAL_WORLD_SIZE": "3"}, "the same number of processes"),
        (TORCHRUN | {"LOCAL_WORLD_SIZE": "0"}, "cannot be"),
        (without(SRUN, "SLURM_STEP_NODELIST"), "SLURM_STEP_NODELIST is not set"),
        (SRUN | {"SLURM_STEP_NUM_NODES": "3"}, "4 tasks on 3 machines .*--ntasks-per-node"),
        (SRUN | {"SLURM_STEP_TASKS_PER_NODE": "3,1"}, r"4 tasks on 2 machines \(3,1\).*--ntasks-per-node"),
        (POD | {"PET_NNODES": "1", "PET_NPROC_PER_NODE": "3"}, "1 pods for WORLD_SIZE 3.* torchrun"),
    ],
)
def test_a_launch_that_cannot_be_is_refused(environ: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        launched_place(environ)


def test_a_launcher_is_hidden_for_a_moment_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (SRUN | TORCHRUN).items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)

    with launcher_hidden():
        inside: dict[str, Any] = dict(os.environ)

    assert launched_place(inside) is None
    assert "RANK" not in inside
    assert inside == unlaunched()
    assert inside["PATH"] == before["PATH"]
    assert dict(os.environ) == before
