"""Memory that does not suffice, injected where torch reports it: the loss raises for batches of too many images."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from retrain.errors import OutOfMemory
from retrain.training.micro_batches import more_parts, parts
from retrain.training.orchestrator import TrainingOrchestrator
from retrain.training.result import TrainingResult
from retrain.training.ultralytics_parts import DetectionModel


@pytest.fixture
def room_for(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """Let memory suffice for so many images, from the n-th training batch on; gives the sizes that were tried."""
    loss = DetectionModel.loss
    tried: list[int] = []

    def limit(images: int, after: int = 0) -> list[int]:
        def limited(self: DetectionModel, batch: dict[str, Any], *args: Any) -> Any:
            if self.training:
                tried.append(len(batch["img"]))
                if len(batch["img"]) > images and len(tried) > after:
                    raise torch.OutOfMemoryError("CUDA out of memory.")
            return loss(self, batch, *args)

        monkeypatch.setattr(DetectionModel, "loss", limited)
        return tried

    return limit


def train(config: dict[str, Any], work: Path) -> TrainingResult:
    return TrainingOrchestrator(work, export=()).train(config)


def test_a_batch_that_does_not_fit_is_trained_on_in_parts(
    rectangles: dict[str, Any], tmp_path: Path, room_for: Any, caplog: pytest.LogCaptureFixture
) -> None:
    config = {**rectangles, "epochs": 2}
    whole = train(config, tmp_path / "whole")
    tried = room_for(1)

    split = train(config, tmp_path / "split")

    # 18 images in batches of 4; the first is tried whole and in halves.
    assert tried[:3] == [4, 2, 1]
    assert set(tried[2:]) == {1}
    assert len(tried[2:]) == 2 * 18
    assert (split.resolved["micro_batches"], whole.resolved["micro_batches"]) == (4, 1)
    assert split.resolved["batch_size"] == 4
    assert split.job_id == whole.job_id
    assert "goes on in 4 parts" in caplog.text
    # The same draws and rates: the losses stay comparable.
    assert [report.lr for report in split.epochs] == [report.lr for report in whole.epochs]


def test_memory_that_runs_out_later_goes_on_from_the_last_checkpoint(
    rectangles: dict[str, Any], tmp_path: Path, room_for: Any
) -> None:
    tried = room_for(2, after=7)
    seen = list[int]()
    result = TrainingOrchestrator(tmp_path, export=()).train(
        {**rectangles, "epochs": 2}, lambda r: seen.append(r.epoch)
    )
    # Five batches of the first epoch, two of the second, the one that fails; then the second epoch anew, in halves.
    assert tried == [4, 4, 4, 4, 2, 4, 4, 4, 2, 2, 2, 2, 2, 2, 2, 2, 1, 1]
    assert seen == [1, 2]
    assert result.resolved["micro_batches"] == 2


def test_a_resumed_job_keeps_its_parts_and_ends_with_the_same_bits(
    rectangles: dict[str, Any], tmp_path: Path, room_for: Any
) -> None:
    tried = room_for(2)
    config = {**rectangles, "epochs": 2}
    once = train(config, tmp_path / "once")

    def stop(report: Any) -> None:
        raise KeyError

    with pytest.raises(KeyError):
        TrainingOrchestrator(tmp_path / "twice").train(config, stop)
    tried.clear()
    assert train(config, tmp_path / "twice").weights_sha256 == once.weights_sha256
    assert max(tried) == 2


def test_one_image_that_does_not_fit_is_an_error_that_says_what_to_do(
    rectangles: dict[str, Any], tmp_path: Path, room_for: Any
) -> None:
    tried = room_for(0)
    with pytest.raises(OutOfMemory, match="Even one image at a time does not fit: lower image_size"):
        train(rectangles, tmp_path)
    assert tried == [4, 2, 1]


def test_parts_have_the_labels_of_their_images() -> None:
    batch = {
        "img": torch.arange(5.0).reshape(5, 1, 1, 1),
        "batch_idx": torch.tensor([0.0, 0.0, 2.0, 3.0, 4.0]),
        "cls": torch.arange(5.0)[:, None],
        "bboxes": torch.rand(5, 4),
    }
    halves = list(parts(batch, 2))
    assert [len(half["img"]) for half in halves] == [3, 2]
    assert [half["batch_idx"].tolist() for half in halves] == [[0, 0, 2], [0, 1]]
    assert torch.equal(torch.cat([half["bboxes"] for half in halves]), batch["bboxes"])
    assert torch.equal(torch.cat([half["cls"] for half in halves]), batch["cls"])
    assert [len(part["img"]) for part in parts(batch, 8)] == [1] * 5
    assert next(parts(batch, 1)) is batch


def test_parts_double_down_to_single_images() -> None:
    assert [more_parts(count, 6, "") for count in (1, 2, 4)] == [2, 4, 6]
