from pathlib import Path
from typing import Any

import pytest
import torch

from retrain.errors import ConfigError
from retrain.training.job import TrainingJob
from retrain.training.orchestrator import TrainingOrchestrator
from retrain.training.precision import lightning_precision, precision_of
from retrain.training.request import TrainingRequest


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch):
    """A GPU that can or cannot calculate in bfloat16, as far as torch says."""

    def pretend(*, bf16: bool) -> None:
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: bf16)

    return pretend


@pytest.mark.parametrize(
    ("asked", "device", "bf16", "expected"),
    [
        (False, "cuda", True, "fp32"),
        (True, "cpu", False, "bf16"),
        (True, "cuda", True, "bf16"),
        (True, "cuda", False, "fp16"),
        ("fp16", "cuda", True, "fp16"),
        ("bf16", "cuda", False, "bf16"),
    ],
)
def test_the_format_is_what_was_asked_for_or_what_the_device_can_do(asked, device, bf16, expected, gpu):
    gpu(bf16=bf16)

    assert precision_of(asked, device) == expected


def test_lightning_knows_every_format_by_its_name():
    from lightning.pytorch import Trainer

    for precision in ("fp32", "bf16"):
        Trainer(accelerator="cpu", precision=lightning_precision(precision), logger=False)
    assert lightning_precision("fp16") == "16-mixed"


@pytest.mark.parametrize(
    ("asked", "said"), [("fp8", "must be true, false, 'bf16' or 'fp16'"), (1.5, "must be"), ("fp16", "a GPU")]
)
def test_what_cannot_be_is_refused(asked: Any, said: str, tmp_path: Path):
    with pytest.raises(ConfigError, match=said):
        TrainingOrchestrator(tmp_path, mixed_precision=asked)


def test_a_job_keeps_the_format_it_was_begun_in(tmp_path: Path, gpu):
    for part in ("images", "labels"):
        (tmp_path / "data" / part).mkdir(parents=True)
    data = tmp_path / "data"
    request = TrainingRequest.of({"train_data": data, "val_data": data, "classes": ["a"]})

    def job() -> TrainingJob:
        return TrainingJob.of(request, tmp_path / "jobs", 1, mixed_precision=True)

    gpu(bf16=False)
    assert job().precision("cuda") == "fp16"
    gpu(bf16=True)
    assert job().precision("cuda") == "fp16"
    with pytest.raises(ConfigError, match="was begun in fp16, which needs a GPU"):
        job().precision("cpu")
