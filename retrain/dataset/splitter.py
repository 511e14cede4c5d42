"""Which split a recording belongs to: decided by its group key alone, so that new data never moves old data."""

import hashlib
import math
from collections.abc import Mapping

from retrain.errors import BadInput

SPLITS = ("train", "val", "test")
DEFAULT_FRACTIONS = {"train": 0.7, "val": 0.2, "test": 0.1}


def checked_fractions(splits: Mapping[str, float]) -> dict[str, float]:
    """The three fractions in the order train, val, test; a split that is not named gets 0.

    Raises:
        BadInput: an unknown split, a fraction outside [0, 1], or fractions that do not add up to 1.
    """
    if unknown := sorted(set(splits) - set(SPLITS)):
        raise BadInput(f"Unknown split {unknown[0]!r}. Splits are train, val and test.")
    fractions = {name: float(splits.get(name, 0.0)) for name in SPLITS}
    for name, fraction in fractions.items():
        if not 0 <= fraction <= 1:
            raise BadInput(f"{name} must be in [0, 1], got {fraction:g}.")
    total = math.fsum(fractions.values())
    if not math.isclose(total, 1.0, abs_tol=1e-6):
        terms = " + ".join(f"{fraction:g}" for fraction in fractions.values())
        raise BadInput(f"train + val + test must be 1, got {terms} = {total:g}.")
    return fractions


class DatasetSplitter:
    """Assigns groups (a camera's recording, a cluster of near-duplicates) to splits, never single images.

    Each group is assigned independently of all others, so fractions hold on average over groups: with few
    groups a small split can stay empty.

    Args:
        splits: fractions of the groups, which add up to 1.
        salt: another salt is another, independent assignment.
    """

    def __init__(self, splits: Mapping[str, float], salt: str = "") -> None:
        self.fractions = checked_fractions(splits)
        self.salt = salt

    def split_of(self, group: str) -> str:
        """The split of this group: the same in every process, whatever other groups there are."""
        digest = hashlib.blake2b(f"{self.salt}\0{group}".encode(), digest_size=8).digest()
        position, upper, chosen = int.from_bytes(digest) / 2**64, 0.0, ""
        for name, fraction in self.fractions.items():
            if fraction > 0:
                chosen, upper = name, upper + fraction
                if position < upper:
                    break
        # The last split with a share takes what rounding leaves above the sum.
        return chosen
