"""Checkpoints on a full disk, and under a process that is killed again and again."""

import multiprocessing
import random
import shutil
import subprocess
import time
from contextlib import suppress

import pytest
import torch

from retrain.errors import StorageFull
from retrain.storage.local_blobs import LocalBlobs
from retrain.training.best_models import BestModels
from retrain.training.checkpoints import CheckpointManager, Position
from retrain.training.jobs import JobState, TrainingJobs
from retrain.training.orchestrator import TrainingOrchestrator


def state(number, tensors=1):
    return {"number": number, "tensors": [torch.full((25_000,), float(number)) for _ in range(tensors)]}


# 100 kB each, on 6 MB: one tensor too many, many, and so few that the last of the file is what does not fit.
@pytest.mark.parametrize("tensors", [62, 63, 200])
def test_a_full_disk_leaves_the_earlier_checkpoint(tensors, small_disk):
    manager = CheckpointManager(small_disk, keep=1)
    manager.save(Position(1), state(1))
    with pytest.raises(StorageFull, match=str(small_disk)):
        manager.save(Position(2), state(2, tensors))
    assert [path.name for path in small_disk.iterdir()] == ["epoch-00001.ckpt"]
    position, loaded = manager.newest_good()
    assert (position, loaded["number"]) == (Position(1), 1)
    manager.save(Position(2), state(2))
    assert manager.positions() == [Position(2)]


def test_a_training_whose_disk_fills_goes_on_from_the_last_good_checkpoint(rectangles, small_disk, tmp_path):
    subprocess.run(["mount", "-o", "remount,size=400m", small_disk], check=True)
    jobs = TrainingOrchestrator(small_disk / "jobs", export=())
    filler = small_disk / "filler"

    def fill(report):
        if report.epoch == 1:
            filler.write_bytes(bytes(shutil.disk_usage(small_disk).free - 10_000_000))

    with pytest.raises(StorageFull, match="checkpoints; nothing was written"):
        jobs.train(rectangles, fill)

    (job,) = TrainingJobs(small_disk / "jobs").list()
    assert [path.name for path in job.checkpoints] == ["epoch-00001.ckpt"]
    assert job.state is JobState.FAILED
    assert "No space left" in job.error
    filler.unlink()
    resumed = jobs.train(rectangles)
    assert resumed.resumed_from_epoch == 1
    undisturbed = TrainingOrchestrator(tmp_path / "jobs", export=()).train(rectangles)
    assert resumed.weights_sha256 == undisturbed.weights_sha256


def test_one_tensor_larger_than_the_disk(small_disk):
    manager = CheckpointManager(small_disk)
    with pytest.raises(StorageFull, match=str(small_disk)):
        manager.save(Position(1), {"weights": torch.zeros(3_000_000)})
    assert list(small_disk.iterdir()) == []


def test_best_models_on_a_full_disk_stay_as_they_were(small_disk):
    kept = BestModels(small_disk, keep=1)
    kept.offer(1, 0.5, {"weights": torch.ones(100)})
    with pytest.raises(StorageFull, match=str(small_disk)):
        kept.offer(2, 0.6, {"weights": torch.ones(2_000_000)})
    best, weights = kept.best()
    assert best.epoch == 1
    assert torch.equal(weights["weights"], torch.ones(100))


def after(position):
    """Every third is an epoch's end."""
    return (
        Position(position.epoch + 1)
        if position.images == 20
        else Position(position.epoch, position.images + 10)
    )


def number_of(position):
    return position.epoch * 100 + position.images


def save_for_ever(folder, mirror, reports):
    torch.set_num_threads(1)
    manager = CheckpointManager(folder, 2, mirror and LocalBlobs(mirror), "job")
    resumed = manager.newest_good()
    position = resumed[0] if resumed else Position(0)
    while True:
        position = after(position)
        manager.save(position, state(number_of(position), tensors=40))
        reports.send(position)


@pytest.mark.parametrize("disk_is_lost", [False, True])
def test_a_process_killed_while_saving_loses_nothing_it_reported(disk_is_lost, tmp_path):
    folder, mirror = tmp_path / "here", tmp_path / "mirror" if disk_is_lost else None
    rng, fork = random.Random(0), multiprocessing.get_context("fork")
    killed_inside_a_write = 0
    reported = Position(0)
    for _ in range(15):
        ours, theirs = fork.Pipe(duplex=False)
        process = fork.Process(target=save_for_ever, args=(folder, mirror, theirs))
        process.start()
        theirs.close()
        reported = ours.recv()
        time.sleep(rng.uniform(0, 0.05))
        process.kill()
        process.join()
        with suppress(EOFError):
            while True:
                reported = ours.recv()
        partial = [*folder.glob(".*.partial"), *(mirror.glob(".incoming/*") if mirror else [])]
        killed_inside_a_write += len(partial) > 0
        if disk_is_lost:
            shutil.rmtree(folder)
        position, loaded = CheckpointManager(folder, 2, mirror and LocalBlobs(mirror), "job").newest_good()
        assert position in {reported, after(reported)}
        assert loaded["number"] == number_of(position)
        assert all(torch.all(tensor == loaded["number"]) for tensor in loaded["tensors"])
    assert killed_inside_a_write >= 3


def offer_for_ever(folder, reports):
    torch.set_num_threads(1)
    kept = BestModels(folder, keep=2)
    kept.rewind(max((model.epoch for model in kept.models()), default=0))
    epoch = max((model.epoch for model in kept.models()), default=0)
    while True:
        epoch += 1
        # Rises and falls, so that offers also evict others and are turned down.
        kept.offer(epoch, epoch + 5 * (epoch % 3), {"weights": torch.full((100_000,), float(epoch))})
        reports.send(epoch)


def test_best_models_survive_kills(tmp_path):
    rng, fork = random.Random(1), multiprocessing.get_context("fork")
    for _ in range(10):
        ours, theirs = fork.Pipe(duplex=False)
        process = fork.Process(target=offer_for_ever, args=(tmp_path, theirs))
        process.start()
        theirs.close()
        reported = ours.recv()
        time.sleep(rng.uniform(0, 0.03))
        process.kill()
        process.join()
        with suppress(EOFError):
            while True:
                reported = ours.recv()
        kept = BestModels(tmp_path, keep=2)
        best, weights = kept.best()
        scores = {epoch: epoch + 5 * (epoch % 3) for epoch in range(1, reported + 2)}
        expected = max(scores[epoch] for epoch in range(1, reported + 1))
        assert best == kept.models()[0]
        assert best.score in {expected, max(scores.values())}
        assert torch.all(weights["weights"] == best.epoch)
