from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrain.errors import ConfigError
from retrain.training.balanced_sampler import BalancedSampler
from retrain.training.data import DetectionData
from retrain.training.job import TrainingJob
from retrain.training.request import TrainingRequest

weight_lists = st.lists(st.floats(0.01, 100), min_size=1, max_size=60).map(np.array)


def drawn(weights, seed, epoch, rank=0, processes=1):
    sampler = BalancedSampler(weights, seed, rank, processes)
    sampler.set_epoch(epoch)
    indices = list(sampler)
    assert len(indices) == len(sampler)
    return indices


@given(weights=weight_lists, seed=st.integers(0, 2**31 - 1), epoch=st.integers(0, 500))
def test_an_epoch_draws_each_image_by_its_weight_rounded_up_or_down(weights, seed, epoch):
    counts = Counter(drawn(weights, seed, epoch))

    expected = len(weights) * weights / weights.sum()
    assert all(abs(counts[index] - value) < 1 + 1e-6 for index, value in enumerate(expected))


@given(weights=weight_lists, seed=st.integers(0, 99), epoch=st.integers(0, 99), processes=st.integers(1, 5))
def test_processes_share_one_draw(weights, seed, epoch, processes):
    whole = drawn(weights, seed, epoch)

    parts = [drawn(weights, seed, epoch, rank, processes) for rank in range(processes)]

    assert len({len(part) for part in parts}) == 1
    together = [index for turn in zip(*parts, strict=True) for index in turn]
    assert together[: len(whole)] == whole
    assert set(together[len(whole) :]) <= set(whole)


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


def names(data: DetectionData, epoch: int) -> list[str]:
    data.start_epoch(epoch)
    return [name for batch in data.train for name in batch["im_file"]]


def test_the_loader_sees_the_draw_of_the_epoch_it_is_told(balanced, tmp_path):
    data = loaders(balanced(seed=5), tmp_path)
    images = data.train.loader.dataset

    for epoch in (0, 3, 1):
        expected = [images.im_files[index] for index in drawn(images.weights, 5, epoch)]
        assert names(data, epoch) == expected
    assert len(data.train) == 5
    assert len(set(names(data, 0))) < data.images


def test_processes_load_parts_of_one_epoch(balanced, tmp_path):
    whole = names(loaders(balanced(), tmp_path), 2)
    parts = [loaders(balanced(batch_size=3), tmp_path, rank=rank, processes=2) for rank in range(2)]

    assert [len(part.train) for part in parts] == [3, 3]
    assert [names(part, 2) for part in parts] == [whole[::2], whole[1::2]]


def test_balanced_without_weights_says_what_to_do(balanced, as_both, some_images, tmp_path):
    folder, unweighted = as_both(tmp_path / "unweighted", some_images[:1])

    for place in (folder, unweighted):
        with pytest.raises(ConfigError, match="needs a weight for every training image"):
            loaders(balanced(train_data=[*balanced().train_data, place]), tmp_path)
