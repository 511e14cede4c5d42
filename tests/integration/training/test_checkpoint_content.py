"""What an epoch's checkpoint costs to write."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from retrain.training.checkpoints import CheckpointManager, Position
from retrain.training.orchestrator import TrainingOrchestrator


def test_averaged_weights_that_are_the_best_so_far_are_stored_once(
    rectangles: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states: list[Mapping[str, Any]] = []
    save = CheckpointManager.save

    def watched(self: CheckpointManager, position: Position, state: Mapping[str, Any]) -> Path:
        states.append(state)
        return save(self, position, state)

    monkeypatch.setattr(CheckpointManager, "save", watched)
    TrainingOrchestrator(tmp_path / "jobs", export=()).train({**rectangles, "epochs": 1})

    (state,) = states
    assert all(state["best"][name] is tensor for name, tensor in state["average"]["weights"].items())
