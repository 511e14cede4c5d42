"""Same inputs, same weights: seeds, threads and deterministic kernels for one training, given back afterwards."""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from retrain.training.ultralytics_parts import DRAWING_MODULES

# Typed as a plain module, but its switches are properties.
_memory: Any = torch.utils.deterministic


# Prefect's and MLflow's threads draw from Python's global generator whenever they wait with jitter: with draws of its
# own mixed in between, the same seed gave other weights each time.
_augmentation = random.Random()


def seed_everything(seed: int) -> None:
    """Seed python, numpy and torch (every device), and the generator that augmentation alone draws from."""
    random.seed(seed)
    _augmentation.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - the global generator is the one augmentation draws from
    torch.manual_seed(seed)


def seed_augmentation(seed: int, epoch: int, position: int) -> None:
    """Make what is drawn next that of one position in one epoch.

    Keyed on these and nothing else, an image is augmented alike by any process, by any loader worker and after a
    resume, with no generator state saved.
    """
    drawn = int(np.random.SeedSequence([seed, epoch, position]).generate_state(1)[0])
    _augmentation.seed(drawn)
    np.random.seed(drawn)  # noqa: NPY002 - as above


@contextmanager
def reproducible(seed: int, threads: int) -> Iterator[None]:
    """Seed, fix the thread count and ask for deterministic kernels; restore the process's own state at the end."""
    python, numpy, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    old_threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    cudnn, fill = torch.backends.cudnn.deterministic, _memory.fill_uninitialized_memory
    # cuBLAS reads it once, when CUDA starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    try:
        # Set by hand: importing ultralytics before torch silently leaves one thread.
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(mode=True, warn_only=True)
        torch.backends.cudnn.deterministic = True
        _memory.fill_uninitialized_memory = False
        for module in DRAWING_MODULES:
            module.random = _augmentation
        seed_everything(seed)
        yield
    finally:
        for module in DRAWING_MODULES:
            module.random = random
        _memory.fill_uninitialized_memory = fill
        torch.backends.cudnn.deterministic = cudnn
        torch.use_deterministic_algorithms(mode=deterministic)
        torch.set_num_threads(old_threads)
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        torch.set_rng_state(torch_state)
