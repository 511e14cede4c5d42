"""Ctrl-C in a command that trains where no stack runs, so that Prefect starts a server of its own."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from retrain.config import RetrainConfig
from retrain.training.jobs import JobState, TrainingJobs
from tasks.resources import Resources
from tests.small_world import commit_first_version, small_config

pytestmark = pytest.mark.server

SETTINGS = {"model": "yolov8n", "epochs": 500, "batch_size": 8, "image_size": 64, "threads": 1}
ARGUMENTS = ("train", "--config", "settings.yaml", "--dataset", "v1.0.0", "--gpus", "0")


@pytest.fixture
def resources(tmp_path):
    """A home with a dataset version, whose trainings take long."""
    config = RetrainConfig.model_validate(small_config(training={"epochs": 500, "early_stopping": False}))
    (tmp_path / "config.yaml").write_text(config.model_dump_json(), encoding="utf-8")
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(SETTINGS))
    made = Resources(config, tmp_path)
    commit_first_version(made)
    return made


@contextmanager
def started(home, *arguments):
    """The command, in a group of its own: a terminal sends Ctrl-C to all processes of one."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
    with subprocess.Popen(
        [sys.executable, "-c", "from flows.cli import main; main()", *arguments],
        env={**own, "RETRAIN_HOME": str(home), "PYTHONPATH": str(Path.cwd())},
        cwd=home,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as command:
        try:
            yield command
        finally:
            command.kill()


def interrupted(command):
    """What it says of Ctrl-C, but for MLflow's saying that it makes its database."""
    os.killpg(command.pid, signal.SIGINT)
    _, said = command.communicate(timeout=120)
    assert command.returncode == 130, said
    return [line for line in said.splitlines() if " INFO mlflow" not in line]


def test_ctrl_c_ends_a_training_with_one_sentence(resources):
    with started(resources.home, *ARGUMENTS) as training:
        job_id = training.stdout.readline().removeprefix("job ").strip()
        assert training.stdout.readline().startswith("epoch 1/")
        said = interrupted(training)

    assert said == [
        f"Interrupted; the same command again goes on with job {job_id[:8]} from its last checkpoint."
    ]
    assert TrainingJobs(resources.home / "jobs").get(job_id).state is JobState.INTERRUPTED
    (run_id,) = resources.tracker._ids_of(f"job/{job_id}")
    assert resources.tracker._client.get_run(run_id).info.status == "KILLED"


def test_ctrl_c_ends_a_cycle_with_one_sentence(resources):
    jobs = TrainingJobs(resources.home / "jobs")
    with started(resources.home, "cycle", "first", "v1.0.0") as cycle:
        deadline = time.monotonic() + 120
        while not any(job.reports for job in jobs.list()):
            assert time.monotonic() < deadline
            assert cycle.poll() is None, cycle.communicate()
            time.sleep(0.2)
        said = interrupted(cycle)

    # Around it is Prefect's log.
    assert "Interrupted; the same command again goes on from the last finished stage and checkpoint." in said
    assert not any("Traceback" in line for line in said)
    assert [job.state for job in jobs.list()] == [JobState.INTERRUPTED]
