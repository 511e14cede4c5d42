"""`retrain train` and `retrain jobs` as a person uses them, against the real stack."""

import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import yaml

from retrain.training.jobs import JobState, TrainingJobs

pytestmark = pytest.mark.server

SETTINGS = {"model": "yolov8n", "epochs": 2, "batch_size": 8, "image_size": 64, "threads": 1}


@pytest.fixture
def command(stack, stack_home, tmp_path):
    """Runs the console script in the stack's home; settings are in `settings.yaml`."""
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(SETTINGS))

    def run(arguments):
        return subprocess.run(
            [sys.executable, "-c", "from flows.cli import main; main()", *arguments.split()],
            env={**os.environ, "RETRAIN_HOME": str(stack_home), "PYTHONPATH": str(Path.cwd())},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run


def test_a_training_is_a_flow_run_a_job_and_an_mlflow_run(command, stack, world):
    done = command("train --config settings.yaml --dataset v1.0.0 --gpus 0")

    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    job_id = lines[0].removeprefix("job ")
    assert [line[:9] for line in lines[1:3]] == ["epoch 1/2", "epoch 2/2"]
    job = TrainingJobs(world.home / "jobs").get(job_id)
    assert (job.state, len(job.reports)) == (JobState.FINISHED, 2)
    assert f"model {job.model_folder}" in lines
    assert "mAP50" in lines[3]

    runs = httpx.post(
        f"{stack.api_url}/flow_runs/filter", json={"flows": {"name": {"any_": ["training"]}}}, timeout=10
    ).json()
    assert [(run["name"], run["state_type"]) for run in runs] == [("train yolov8n on v1.0.0", "COMPLETED")]

    (run_id,) = re.findall(r"^MLflow run (\w+)$", done.stdout, re.MULTILINE)
    run = world.tracker._client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["epochs"] == run.data.params["resolved/epochs"] == "2"
    assert run.data.params["resolved/optimizer"] == "adamw"
    assert run.data.tags["retrain.dataset.training"] == world.datasets.get_version("v1.0.0").digest
    assert run.data.metrics["system/memory_mib"] > 100
    assert {file.path for file in world.tracker._client.list_artifacts(run_id, "pictures")} == {
        "pictures/epochs.png",
        "pictures/precision_recall.png",
        "pictures/samples.jpg",
    }
    history = world.tracker._client.get_metric_history(run_id, "val/map50_95")
    assert [(one.step, one.value) for one in history] == [(r.epoch, r.map50_95) for r in job.reports]

    again = command("train --config settings.yaml --dataset v1.0.0")
    assert again.returncode == 0, again.stderr
    assert "was finished already; nothing was trained" in again.stdout
    assert f"MLflow run {run_id}" in again.stdout

    listed = command("jobs list").stdout
    assert re.search(rf"^{job_id} +yolov8n +v1.0.0 +finished +2/2", listed, re.MULTILINE)
    assert "2/2 epochs" in command(f"jobs show {job_id[:8]}").stdout
    assert command(f"jobs cancel {job_id}").stderr.startswith(f"error: Training job {job_id} is finished")
