import random

import numpy as np
import torch

from retrain.training.reproducible import reproducible, seed_augmentation
from retrain.training.ultralytics_parts import DRAWING_MODULES


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(1))


def test_draws_inside_are_repeatable_and_outside_undisturbed() -> None:
    state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    with reproducible(5, threads=1):
        inside = draw()
    outside = draw()
    random.setstate(state[0])
    np.random.set_state(state[1])
    torch.set_rng_state(state[2])
    assert draw() == outside
    with reproducible(5, threads=1):
        assert draw() == inside


def test_thread_count_and_determinism_are_given_back() -> None:
    threads = torch.get_num_threads()
    with reproducible(0, threads=3):
        assert torch.get_num_threads() == 3
        assert torch.are_deterministic_algorithms_enabled()
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()


def test_every_position_of_every_epoch_draws_its_own_and_the_same_again() -> None:
    def augmentation(seed: int, epoch: int, position: int) -> tuple[float, float]:
        seed_augmentation(seed, epoch, position)
        return DRAWING_MODULES[0].random.random(), float(np.random.rand())

    with reproducible(0, threads=1):
        places = [
            (seed, epoch, position) for seed in range(3) for epoch in range(5) for position in range(20)
        ]
        seen = {augmentation(*place) for place in places}
        assert len(seen) == 300
        assert augmentation(1, 2, 3) in seen
