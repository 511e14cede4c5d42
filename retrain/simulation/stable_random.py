"""Random streams that stay the same for ever: across numpy releases, machines and Python hash seeds.

`numpy.random.Generator` may change its streams between releases; `RandomState` is frozen, and so are the raw
streams of its bit generators. The simulation draws only integers and uniform floats from it: normal deviates
go through the platform's logarithm, which may differ in the last bit.
"""

import hashlib
import json
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Rng = np.random.RandomState

_NOISE_SIDE = 512


def stable_rng(*key: int | str) -> Rng:
    """An independent stream for each key, e.g. `stable_rng(seed, "north-gate", 17)`."""
    digest = hashlib.blake2b(json.dumps(key).encode(), digest_size=16).digest()
    return np.random.RandomState(np.random.PCG64(int.from_bytes(digest, "big")))


def noise_field(rng: Rng, size: int) -> NDArray[np.int32]:
    """Grainy noise of mean 0 and standard deviation about 32, shape (size, size).

    Two crops of one fixed tile are added: far cheaper than drawing every pixel, and the pairs of offsets are
    too many to meet twice.
    """
    tile = _noise_tile(-(-size // _NOISE_SIDE))
    first, second, third, fourth = rng.randint(0, _NOISE_SIDE, 4)
    total = (
        tile[first : first + size, second : second + size]
        + tile[third : third + size, fourth : fourth + size]
    )
    return total.astype(np.int32)


@lru_cache(maxsize=4)
def _noise_tile(repeats: int) -> NDArray[np.int16]:
    """One tile wrapped around far enough that a crop of `repeats` tiles fits at every offset."""
    rng = stable_rng("noise tile")
    dice = rng.randint(0, 32, (4, _NOISE_SIDE, _NOISE_SIDE)).sum(axis=0) - 62
    return np.tile((dice * 5 // 4).astype(np.int16), (repeats + 1, repeats + 1))
