"""`batch_size: auto`: what fits is found by real steps; how much memory they take and how much is free is injected."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from retrain.errors import BadInput, ConfigError, OutOfMemory
from retrain.training import batch_size
from retrain.training.memory import PeakMeter
from retrain.training.orchestrator import TrainingOrchestrator
from retrain.training.probe import Batch, Probe

MEBI = 2**20


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """Let each image of a step take 100 MiB of this many; gives the numbers of images that were tried."""

    def limit(free: int, fails_at: int = 10**6) -> list[int]:
        step, tried = Probe.step, list[int]()

        def counted(self: Probe, model: Any, optimizer: Any, batch: Batch) -> None:
            tried.append(len(batch["img"]))
            if tried[-1] >= fails_at:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            step(self, model, optimizer, batch)

        def peak(_: PeakMeter, work: Callable[[], object]) -> int:
            work()
            return 100 * MEBI * tried[-1]

        monkeypatch.setattr(Probe, "step", counted)
        monkeypatch.setattr(PeakMeter, "peak", peak)
        monkeypatch.setattr(batch_size, "free_bytes", lambda device: free)
        return tried

    return limit


def auto(config: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {**config, "batch_size": "auto", **more}


def size_of(config: dict[str, Any], work: Path, **how: Any) -> int:
    size: int = TrainingOrchestrator(work, **how).settings_of(auto(config))["batch_size"]
    return size


def test_the_chosen_size_is_trained_with_and_is_the_job_of_that_number(
    rectangles: dict[str, Any], tmp_path: Path
) -> None:
    orchestrator = TrainingOrchestrator(tmp_path, export=())

    result = orchestrator.train(auto(rectangles, epochs=1))

    # Plenty of memory, 18 images, and no more than 16 on the CPU.
    assert result.resolved["batch_size"] == 16
    assert result.job_id == orchestrator.job_id({**rectangles, "epochs": 1, "batch_size": 16})
    stored = json.loads(next((tmp_path / "batch-sizes").glob("*.json")).read_bytes())
    assert stored["batch_size"] == 16
    # Really measured: weights, gradients and averages of yolov8n are more, a machine is not filled by 16 small images.
    assert 30 * MEBI < stored["step bytes"] < 0.4 * stored["free bytes"]


def test_no_step_is_run_that_is_not_expected_to_fit(
    rectangles: dict[str, Any], tmp_path: Path, memory: Any
) -> None:
    tried = memory(free=1500 * MEBI)
    # 40 % are 600 MiB: 4 images and the averaged weights fit, 8 would not.
    assert size_of(rectangles, tmp_path) == 4
    assert tried == [2, 4]


def test_a_step_that_runs_out_of_memory_ends_the_search(
    rectangles: dict[str, Any], tmp_path: Path, memory: Any
) -> None:
    tried = memory(free=10**12, fails_at=8)
    assert size_of(rectangles, tmp_path) == 4
    assert tried == [2, 4, 8]


def test_the_choice_stays_when_less_memory_is_free_later(
    rectangles: dict[str, Any], tmp_path: Path, memory: Any
) -> None:
    memory(free=10**12)
    orchestrator = TrainingOrchestrator(tmp_path)
    before = orchestrator.job_id(auto(rectangles))
    tried = memory(free=600 * MEBI)

    assert orchestrator.job_id(auto(rectangles)) == before
    assert tried == []
    # Another request is another choice.
    assert orchestrator.settings_of(auto(rectangles, image_size=96))["batch_size"] == 2


def test_a_job_goes_on_with_its_size_without_the_stored_choice(
    rectangles: dict[str, Any], tmp_path: Path, memory: Any
) -> None:
    memory(free=1500 * MEBI)

    class Killed(Exception):
        """Ends a training after its first epoch."""

    def stop(_: object) -> None:
        raise Killed

    orchestrator = TrainingOrchestrator(tmp_path, export=())
    job_id = orchestrator.job_id(auto(rectangles, epochs=2))
    with pytest.raises(Killed):
        orchestrator.train(auto(rectangles, epochs=2), stop)
    for stored in (tmp_path / "batch-sizes").glob("*.json"):
        stored.unlink()
    memory(free=10**12)

    result = orchestrator.resume(job_id)

    assert (result.job_id, result.resolved["batch_size"]) == (job_id, 4)


def test_each_process_gets_what_fits_and_no_more_than_there_are_images(
    rectangles: dict[str, Any], tmp_path: Path, memory: Any
) -> None:
    tried = memory(free=10**12)
    # 18 images for two processes: 9 each.
    assert size_of(rectangles, tmp_path / "plenty", num_processes=2) == 16
    assert tried == [2, 4, 8]
    # They share the machine's memory: 40 % of half of it.
    memory(free=1500 * MEBI)
    assert size_of(rectangles, tmp_path / "scarce", num_processes=2) == 4


def test_the_number_of_accumulated_batches_does_not_matter(
    rectangles: dict[str, Any], tmp_path: Path, memory: Any
) -> None:
    memory(free=1500 * MEBI)
    # 8 images a step are two batches of 4; said twice, and not contradicted by the sizes that were tried.
    assert size_of(rectangles, tmp_path, gradient_accumulation=2) == 4


def test_nothing_fits(rectangles: dict[str, Any], tmp_path: Path, memory: Any) -> None:
    memory(free=400 * MEBI)
    with pytest.raises(
        OutOfMemory, match=r"No batch size fits: 2 images take more than 0.16 GiB.*image_size"
    ):
        size_of(rectangles, tmp_path)
    memory(free=10**12, fails_at=1)
    with pytest.raises(OutOfMemory, match="No batch size fits"):
        size_of(rectangles, tmp_path)
    assert not list((tmp_path / "batch-sizes").glob("*.json"))


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"batch_size": "16"}', b'{"batch_size": 0}'])
def test_a_damaged_choice_is_not_guessed_at(
    content: bytes, rectangles: dict[str, Any], tmp_path: Path, memory: Any
) -> None:
    memory(free=10**12)
    size_of(rectangles, tmp_path)
    stored = next((tmp_path / "batch-sizes").glob("*.json"))
    stored.write_bytes(content)
    with pytest.raises(BadInput, match="delete it"):
        size_of(rectangles, tmp_path)


def test_another_word_is_an_error(rectangles: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match="batch_size must be a whole number of at least 1, or auto, got 'most'"
    ):
        TrainingOrchestrator(tmp_path).job_id({**rectangles, "batch_size": "most"})


def test_a_stored_size_that_other_processes_cannot_share_is_told_with_its_file(
    rectangles: dict[str, Any], tmp_path: Path, memory: Callable[..., list[int]]
) -> None:
    memory(100_000 * MEBI)
    size = size_of(rectangles, tmp_path, num_processes=1)
    assert size % 3

    with pytest.raises(
        ConfigError, match=rf"auto was chosen as {size} before, which 3 .*batch-sizes.*chosen anew"
    ):
        size_of(rectangles, tmp_path, num_processes=3)
