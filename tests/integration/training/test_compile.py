"""A compiled network is another way to the same model: by torch's own compiler, or captured and run as it is.

What is captured and run as it is (`backend="eager"`) calculates with the kernels of the plain network, so there the
weights must be the same to the bit, whatever else is asked for. The network is of six convolutions, as compiling a
whole yolov8n takes minutes.
"""

import os
from collections.abc import Iterator
from functools import partialmethod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters
from torch._inductor.cpp_builder import cpp_compiler_search
from torch._inductor.utils import fresh_inductor_cache

from retrain.errors import ConfigError
from retrain.training.orchestrator import TrainingOrchestrator
from retrain.training.result import EpochReport, TrainingResult
from retrain.training.ultralytics_parts import DetectionModel

SMALL = """
nc: 2
backbone:
  - [-1, 1, Conv, [8, 3, 2]]
  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 1, Conv, [16, 3, 2]]
head:
  - [[2], 1, Detect, [nc]]
"""


BROKEN = """#!/bin/sh
[ "$1" = --version ] && exit 0
echo "a.cpp:1:10: fatal error: Python.h: No such file or directory" >&2
exit 1
"""


class StopError(Exception):
    pass


def stop(report: EpochReport) -> None:
    raise StopError


def train(config: dict[str, Any], work: Path, **how: Any) -> TrainingResult:
    return TrainingOrchestrator(work, **{"export": (), **how}).train(config)


@pytest.fixture(scope="session")
def plain(rectangles: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    model = tmp_path_factory.mktemp("model") / "small.yaml"
    model.write_text(SMALL)
    # The last batch of an epoch has 2 of its 4 images.
    return {**rectangles, "model": str(model), "epochs": 2}


@pytest.fixture(scope="session")
def compiled(plain: dict[str, Any]) -> dict[str, Any]:
    return {**plain, "compile": True}


@pytest.fixture
def looked_for_anew() -> Iterator[None]:
    """The compiler, which torch looks for once in a process."""
    cpp_compiler_search.cache_clear()
    yield
    cpp_compiler_search.cache_clear()


@pytest.fixture
def run_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend="eager"))


def test_torchs_compiler_gives_a_model_like_the_plain_one_and_resumes_to_the_bit(
    plain: dict[str, Any], compiled: dict[str, Any], tmp_path: Path
) -> None:
    from ultralytics import YOLO

    # Every batch is whole: each size takes half a minute.
    plain, compiled = {**plain, "batch_size": 6}, {**compiled, "batch_size": 6}
    counters.clear()
    whole = train(compiled, tmp_path / "whole", export=("pt",))
    graphs = counters["stats"]["unique_graphs"]
    with pytest.raises(StopError):
        TrainingOrchestrator(tmp_path / "parts", export=()).train(compiled, stop)
    # The code is written anew as if nothing was kept of it; only building the same code again is spared.
    with torch._inductor.config.patch(fx_graph_cache=False):
        resumed = train(compiled, tmp_path / "parts")
    usual = train(plain, tmp_path / "plain")

    assert graphs == 1
    assert (whole.resolved["compile"], usual.resolved["compile"]) == (True, False)
    assert resumed.resumed_from_epoch == 1
    assert resumed.weights_sha256 == whole.weights_sha256 != usual.weights_sha256
    # Only sums are made in another order.
    for one, other in zip(whole.epochs, usual.epochs, strict=True):
        assert one.losses == pytest.approx(other.losses, rel=1e-3)

    loaded = YOLO(whole.model_folder / "model.pt")
    assert loaded.names == {0: "red", 1: "blue"}
    assert not any("_orig_mod" in name for name in loaded.model.state_dict())
    assert loaded.predict(np.zeros((64, 64, 3), np.uint8), imgsz=64, verbose=False)[0].boxes is not None


@pytest.mark.usefixtures("run_as_it_is")
@pytest.mark.parametrize(
    ("also", "how"),
    [({"freeze": 1}, {}), ({"channels_last": True}, {"mixed_precision": True})],
    ids=["frozen layers", "bfloat16 and channels_last"],
)
def test_what_else_is_asked_for_is_done_as_without(
    also: dict[str, Any], how: dict[str, Any], plain: dict[str, Any], compiled: dict[str, Any], tmp_path: Path
) -> None:
    counters.clear()
    one = train({**compiled, **also}, tmp_path / "compiled", **how)
    assert counters["stats"]["unique_graphs"] == 2  # whole batches, and the last ones
    other = train({**plain, **also}, tmp_path / "plain", **how)
    assert one.weights_sha256 == other.weights_sha256
    assert one.job_id != other.job_id


@pytest.mark.usefixtures("run_as_it_is")
def test_a_batch_that_does_not_fit_is_trained_on_in_parts(
    plain: dict[str, Any], compiled: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = DetectionModel.loss

    def limited(self: DetectionModel, batch: dict[str, Any], *args: Any) -> Any:
        if self.training and len(batch["img"]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return loss(self, batch, *args)

    monkeypatch.setattr(DetectionModel, "loss", limited)
    one, other = train(compiled, tmp_path / "compiled"), train(plain, tmp_path / "plain")
    assert (one.resolved["micro_batches"], one.resolved["compile"]) == (2, True)
    assert one.weights_sha256 == other.weights_sha256


@pytest.mark.usefixtures("looked_for_anew")
def test_without_a_compiler_nothing_begins(
    compiled: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    orchestrator = TrainingOrchestrator(tmp_path / "jobs", export=())
    with pytest.raises(ConfigError, match=r"needs a C\+\+ compiler.* install g\+\+.* compile to false"):
        orchestrator.train(compiled)
    with pytest.raises(ConfigError, match=r"compile: compile needs a C\+\+ compiler"):
        orchestrator.preflight(compiled).raise_if_failed()
    assert not list(tmp_path.rglob("*.ckpt"))


def test_what_torch_cannot_compile_says_so(
    compiled: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "bin" / "g++"
    broken.parent.mkdir()
    broken.write_text(BROKEN)
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{broken.parent}{os.pathsep}{os.environ['PATH']}")
    with (
        fresh_inductor_cache(),
        pytest.raises(
            ConfigError, match=r"cannot compile .* \(a\.cpp:1:10: fatal error: Python\.h.* to false"
        ),
    ):
        train(compiled, tmp_path / "jobs")
