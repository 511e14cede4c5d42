"""Another layout of the weights in memory is another way to the same model."""

from pathlib import Path
from typing import Any

import pytest

from retrain.detector import Detector
from retrain.training.orchestrator import TrainingOrchestrator
from retrain.training.result import EpochReport


class StopError(Exception):
    pass


def test_it_is_used_resumes_to_the_bit_and_learns_as_well(rectangles: dict[str, Any], tmp_path: Path) -> None:
    config = {**rectangles, "channels_last": True}

    def stop(report: EpochReport) -> None:
        if report.epoch == 2:
            raise StopError

    whole = TrainingOrchestrator(tmp_path / "whole", export=()).train(config)
    with pytest.raises(StopError):
        TrainingOrchestrator(tmp_path / "parts", export=()).train(config, stop)
    resumed = TrainingOrchestrator(tmp_path / "parts", export=()).train(config)
    plain = TrainingOrchestrator(tmp_path / "plain", export=()).train(rectangles)

    assert whole.resolved["channels_last"] is True
    assert plain.resolved["channels_last"] is False
    assert resumed.resumed_from_epoch == 2
    assert resumed.weights_sha256 == whole.weights_sha256 != plain.weights_sha256
    # The first steps differ by rounding alone.
    assert whole.epochs[0].losses == pytest.approx(plain.epochs[0].losses, rel=1e-3)
    assert Detector.load(whole.model_folder).classes == ("red", "blue")
