"""What the watcher does between two looks; whole jobs that die and hang are in the integration tests."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from retrain.training.rank import ORDER, REPORTS
from retrain.training.result import EpochReport
from retrain.training.supervisor import Stopped, _Attempt

REPORT: dict[str, Any] = {
    **dict.fromkeys(
        ("map50", "map50_95", "precision", "recall", "lr", "seconds", "images_per_s", "eta_s"), 0.5
    ),
    "epochs": 3,
    "losses": {},
}


def test_epochs_that_became_durable_just_before_a_death_are_told(tmp_path: Path) -> None:
    told: list[int] = []
    attempt: Any = _Attempt(tmp_path, None, 1, lambda report: told.append(report.epoch))  # type: ignore[arg-type]
    (tmp_path / REPORTS).write_text(json.dumps([{**REPORT, "epoch": 1}, {**REPORT, "epoch": 2}]))
    (tmp_path / "rank-0.log").touch()
    dead = SimpleNamespace(poll=lambda: -9, returncode=-9)

    with pytest.raises(Stopped, match="was ended by signal 9"):
        attempt._check_alive([dead])

    assert told == [1, 2]
    assert EpochReport.from_json({**REPORT, "epoch": 1}).epochs == 3


def test_a_process_whose_parent_went_while_it_started_does_nothing(tmp_path: Path) -> None:
    (tmp_path / ORDER).write_text(json.dumps({"parent": 1}))

    done = subprocess.run(
        [sys.executable, "-m", "retrain.training.rank", str(tmp_path), "0"],
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert done.returncode == 1
    assert "The process that started this one is gone." in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == [ORDER]
