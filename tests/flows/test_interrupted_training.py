"""Ctrl-C in `retrain train` where no stack runs, so that Prefect starts a server of its own."""

import os
import signal
import subprocess
import sys
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


def test_ctrl_c_ends_a_training_with_one_sentence(tmp_path):
    config = RetrainConfig.model_validate(small_config())
    (tmp_path / "config.yaml").write_text(config.model_dump_json(), encoding="utf-8")
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(SETTINGS))
    resources = Resources(config, tmp_path)
    commit_first_version(resources)
    own = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}

    # In a group of its own: a terminal sends Ctrl-C to all processes of one.
    with subprocess.Popen(
        [sys.executable, "-c", "from flows.cli import main; main()", *ARGUMENTS],
        env={**own, "RETRAIN_HOME": str(tmp_path), "PYTHONPATH": str(Path.cwd())},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as training:
        try:
            job_id = training.stdout.readline().removeprefix("job ").strip()
            assert training.stdout.readline().startswith("epoch 1/")
            os.killpg(training.pid, signal.SIGINT)
            _, said = training.communicate(timeout=120)
        finally:
            training.kill()

    assert training.returncode == 130, said
    # MLflow says that it makes its database.
    assert [line for line in said.splitlines() if " INFO mlflow" not in line] == [
        f"Interrupted; the same command again goes on with job {job_id[:8]} from its last checkpoint."
    ]
    assert TrainingJobs(tmp_path / "jobs").get(job_id).state is JobState.INTERRUPTED
    (run_id,) = resources.tracker._ids_of(f"job/{job_id}")
    assert resources.tracker._client.get_run(run_id).info.status == "KILLED"
