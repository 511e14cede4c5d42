from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrain.errors import ConfigError
from retrain.training.data import DetectionData
from retrain.training.draws import Draw, EpochBatches
from retrain.training.job import TrainingJob
from retrain.training.request import TrainingRequest

weight_lists = st.lists(st.floats(0.01, 100), min_size=1, max_size=60).map(np.array)


def batches(images, size, seed, epoch, weights=None, first=0, **process: int) -> list[list[Draw]]:
    sampler = EpochBatches(images, size, seed, weights, **process)
    sampler.start(epoch, first)
    found = list(sampler)
    assert len(found) == len(sampler) - first
    return found


def drawn(weights, seed, epoch):
    return [draw.image for batch in batches(len(weights), 4, seed, epoch, weights) for draw in batch]


@given(weights=weight_lists, seed=st.integers(0, 2**31 - 1), epoch=st.integers(0, 500))
def test_an_epoch_draws_each_image_by_its_weight_rounded_up_or_down(weights, seed, epoch):
    counts = Counter(drawn(weights, seed, epoch))

    expected = len(weights) * weights / weights.sum()
    assert all(abs(counts[index] - value) < 1 + 1e-6 for index, value in enumerate(expected))


@given(images=st.integers(1, 50), size=st.integers(1, 9), epoch=st.integers(0, 99))
def test_an_epoch_shows_each_image_once_and_positions_count_up(images, size, epoch):
    shown = [draw for batch in batches(images, size, 0, epoch) for draw in batch]

    assert sorted(draw.image for draw in shown) == list(range(images))
    assert [draw.position for draw in shown] == list(range(images))
    assert {draw.epoch for draw in shown} == {epoch}


@given(images=st.integers(1, 50), share=st.integers(1, 5), processes=st.integers(1, 5), data=st.data())
def test_processes_share_each_batch_of_one_process(images, share, processes, data):
    size = share * processes
    weights = data.draw(st.none() | st.just(np.linspace(0.5, 2, images)))
    whole = batches(images, size, 3, 7, weights)

    parts = [
        batches(images, size, 3, 7, weights, rank=rank, processes=processes) for rank in range(processes)
    ]

    for batch, *shares in zip(whole, *parts, strict=True):
        together = [draw for part in shares for draw in part]
        assert together[: len(batch)] == batch
        assert len({len(part) for part in shares}) == 1
        # Only the last is filled up, by less than one image a process.
        assert len(together) - len(batch) < processes


@given(images=st.integers(2, 50), size=st.integers(1, 9), data=st.data())
def test_a_pass_can_begin_at_any_batch(images, size, data):
    whole = batches(images, size, 0, 1)
    first = data.draw(st.integers(0, len(whole) - 1))

    assert batches(images, size, 0, 1, first=first) == whole[first:]
    assert EpochBatches(images, size, 0).indices(1, first) == [draw.image for draw in whole[first]]


def test_epochs_and_seeds_draw_differently_but_again_the_same():
    weights = np.linspace(0.2, 3, 50)

    draws = {tuple(drawn(weights, seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}

    assert len(draws) == 4
    assert tuple(drawn(weights, 1, 1)) in draws


def loaders(asked: TrainingRequest, folder: Path, **processes: int) -> DetectionData:
    return DetectionData(TrainingJob.of(asked, folder, 1, mixed_precision=False), "cpu", **processes)


@pytest.fixture
def balanced(as_both, some_images, tmp_path):
    folder, selection = as_both(tmp_path, some_images, weights=True)

    def build(**changes: Any) -> TrainingRequest:
        data = {"train_data": selection, "val_data": folder, "classes": ["a", "b"], "sampling": "balanced"}
        return TrainingRequest.of({"batch_size": 4, "image_size": 64, "epochs": 5, **data, **changes})

    return build


def names(data: DetectionData, epoch: int, first: int = 0) -> list[str]:
    data.train.follow(lambda: (epoch, first))
    return [name for batch in data.train for name in batch.get("im_file", ["seen"])]


def test_the_loader_sees_the_draw_of_the_epoch_it_is_told(balanced, tmp_path):
    data = loaders(balanced(seed=5), tmp_path)
    images = data.training_images

    for epoch in (0, 3, 1):
        expected = [images.im_files[index] for index in drawn(images.weights, 5, epoch)]
        assert names(data, epoch) == expected
        assert names(data, epoch, first=2) == ["seen", "seen", *expected[8:]]
    assert len(data.train) == 5
    assert len(set(names(data, 0))) < data.images


def test_processes_load_parts_of_one_epoch(balanced, tmp_path):
    whole = names(loaders(balanced(), tmp_path), 2)
    parts = [names(loaders(balanced(), tmp_path, rank=rank, processes=2), 2) for rank in range(2)]

    for start in range(0, len(whole), 4):
        half = start // 2
        assert parts[0][half : half + 2] + parts[1][half : half + 2] == whole[start : start + 4]


def test_a_batch_that_processes_cannot_share_is_refused(balanced, tmp_path):
    with pytest.raises(ConfigError, match=r"3 processes cannot share evenly; use 6"):
        loaders(balanced(), tmp_path, processes=3)


def test_balanced_without_weights_says_what_to_do(balanced, as_both, some_images, tmp_path):
    folder, unweighted = as_both(tmp_path / "unweighted", some_images[:1])

    for place in (folder, unweighted):
        with pytest.raises(ConfigError, match="needs a weight for every training image"):
            loaders(balanced(train_data=[*balanced().train_data, place]), tmp_path)
