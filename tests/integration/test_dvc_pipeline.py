"""The repository's own pipeline, on a copy of it as a fresh clone has it: restore, reproduce, reproduce again."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from retrain.environment import switches

CHECKOUT = Path(__file__).resolve().parents[2]
NEEDED = (
    "retrain",
    "tasks",
    "flows",
    "params.yaml",
    "dvc.yaml",
    "data.dvc",
    ".dvc/config",
    ".dvcignore",
    ".gitignore",
)


@pytest.fixture
def clone(tmp_path):
    """The files of a clone, one short epoch instead of the committed number."""
    folder = tmp_path / "clone"
    for name in NEEDED:
        source, target = CHECKOUT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(source, target)
    params = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    params["train"]["epochs"] = 1
    (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    return folder


def run(folder, *command):
    environment = {**os.environ, **switches(folder / ".retrain"), "RETRAIN_HOME": str(folder / ".retrain")}
    # As in an activated virtual environment: the stages call `python`.
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        env={**environment, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.timeout(400)
def test_a_fresh_clone_restores_its_data_and_reproduces_the_pipeline_once(clone):
    restore = "from pathlib import Path; from flows.pipeline import restore; print(restore(Path('.')))"
    recorded = yaml.safe_load((clone / "data.dvc").read_text(encoding="utf-8"))["outs"][0]["md5"]

    done = subprocess.run(
        [sys.executable, "-c", restore],
        cwd=clone,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": "."},
    )
    assert recorded in done.stdout, done.stderr
    run(clone, "dvc", "repro")

    metrics = json.loads((clone / ".retrain" / "pipeline" / "metrics.json").read_text(encoding="utf-8"))
    assert 0 <= metrics["map50_95"] <= metrics["map50"] <= 1
    plots = clone / ".retrain" / "pipeline" / "plots"
    assert (plots / "training.csv").read_text(encoding="utf-8").startswith("epoch,map50,map50_95,")
    assert (plots / "precision_recall.csv").read_text(encoding="utf-8").startswith("class,recall,precision")
    again = run(clone, "dvc", "repro")
    assert "Running stage" not in again
    assert "up to date" in again
