"""Which split a group of images belongs to: stratified over classes, and decided once, so that no image moves later."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain

import numpy as np

from retrain.boxes import FloatArray, IntArray
from retrain.errors import BadInput

SPLITS = ("train", "val", "test")
DEFAULT_FRACTIONS = {"train": 0.7, "val": 0.2, "test": 0.1}
_MOST_URGENT_FIRST = ("train", "test", "val")
_ROUNDING = 1e-9


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


@dataclass(frozen=True)
class GroupContents:
    """How many images a group (or a whole split) holds, and how many objects of each class index."""

    images: int
    objects: Mapping[int, int]


class DatasetSplitter:
    """Assigns groups (a camera's recording, a cluster of near-duplicates) to splits, never single images.

    Every split gets its share of each class and of the images, by iterative stratification (Sechidis,
    Tsoumakas, Vlahavas 2011: On the Stratification of Multi-Label Data) over groups instead of images.

    Args:
        splits: fractions of the data, which add up to 1.
        salt: another salt is another, equally good assignment.

    Raises:
        BadInput: as for `checked_fractions`.
    """

    def __init__(self, splits: Mapping[str, float], salt: str = "") -> None:
        self.fractions = checked_fractions(splits)
        self.salt = salt

    def assign(
        self, groups: Mapping[str, GroupContents], settled: Mapping[str, GroupContents] | None = None
    ) -> dict[str, str]:
        """The split of each group, the same in every process and for every order of the groups.

        The class that the fewest open groups hold is dealt out first, its largest groups first. A group goes to
        the split that lacks the greatest part of its share of that class and of the images, both weighing alike.
        (A class of one or two groups cannot be shared out: train is due most of it, and as a rule gets it.) Groups
        without objects come last and go by images alone; so dealt, each split is within one largest group of its
        share, if every share is worth a group.

        No split with a fraction above 0 stays empty as long as there are groups enough; where there are too few,
        train is served first, then test, then val.

        Args:
            groups: name → contents of the groups that have no split yet.
            settled: split → what it holds already. None of that moves; new groups make up for what it lacks.

        Returns:
            Group → split, for `groups` only, sorted by group.

        Raises:
            BadInput: a group without images, a negative count, or a settled split that does not exist.
        """
        settled = settled or {}
        if unknown := sorted(set(settled) - set(SPLITS)):
            raise BadInput(f"Unknown split {unknown[0]!r} in settled. Splits are train, val and test.")
        for name, group in groups.items():
            _check(f"Group {name!r}", group, least=1)
        for name, split in settled.items():
            _check(f"Split {name!r}", split, least=0)
        if not groups:
            return {}
        deal = _Deal(_Table(groups, self.salt), self.fractions, settled)
        deal.by_class()
        deal.fill_empty()
        return deal.result()


def _check(name: str, contents: GroupContents, least: int) -> None:
    if contents.images < least:
        raise BadInput(f"{name} must hold at least {least} images, got {contents.images}.")
    if contents.objects and (fewest := min(contents.objects.values())) < 0:
        raise BadInput(f"{name} must hold 0 or more objects of each class, got {fewest}.")


class _Table:
    """How much of each label is in each group, as one sparse table; the last label is the images.

    Attributes:
        ties: a hash per group, which decides what the contents leave open, shape (groups,).
        class_indices: class index of each label but the last, ascending.
        totals: of all groups together, shape (labels,).
    """

    def __init__(self, groups: Mapping[str, GroupContents], salt: str) -> None:
        self.names = sorted(groups)
        self.ties = np.array([_hash(salt, name) for name in self.names], dtype=np.uint64)
        contents = [groups[name] for name in self.names]
        rows = np.repeat(np.arange(len(contents)), [len(g.objects) for g in contents])
        classes = np.fromiter(chain.from_iterable(g.objects for g in contents), np.int64, len(rows))
        counts = np.fromiter(chain.from_iterable(g.objects.values() for g in contents), np.int64, len(rows))
        held = counts > 0
        self.class_indices, labels = np.unique(classes[held], return_inverse=True)
        self.images = np.array([g.images for g in contents], dtype=np.int64)
        self.rows = np.concatenate([rows[held], np.arange(len(contents))])
        self.labels = np.concatenate([labels, np.full(len(contents), len(self.class_indices))])
        self.counts = np.concatenate([counts[held], self.images])
        self.totals = np.bincount(self.labels, self.counts)
        self._of_group = _slices(np.argsort(self.rows, kind="stable"), self.rows, len(contents))
        falling = np.lexsort((self.ties[self.rows], -self.images[self.rows], -self.counts, self.labels))
        self._of_label = _slices(falling, self.labels, len(self.totals))

    def entries_of_group(self, group: int) -> IntArray:
        return self._of_group[group]

    def entries_of_label(self, label: int) -> IntArray:
        """The largest first; of equal ones those with more images, then as the hash says."""
        return self._of_label[label]


class _Deal:
    """Groups being dealt out to the splits that have a fraction."""

    def __init__(
        self, table: _Table, fractions: Mapping[str, float], settled: Mapping[str, GroupContents]
    ) -> None:
        self._table = table
        self._splits = [name for name, fraction in fractions.items() if fraction > 0]
        held = {name: _totals(table, contents) for name, contents in settled.items()}
        everything = table.totals + sum(held.values())
        nothing = np.zeros_like(table.totals)
        # Shape (labels, splits).
        self._wanted = everything[:, None] * np.array([fractions[name] for name in self._splits])
        self._got = np.stack([held.get(name, nothing) for name in self._splits], axis=1)
        self._settled = self._got[-1] > 0
        self._split_of = np.full(len(table.names), -1)
        self._open_groups = np.bincount(table.labels)

    def by_class(self) -> None:
        """Deal out all groups, those of the rarest class first."""
        images = len(self._open_groups) - 1
        while (open_groups := self._open_groups[:images]).any():
            self._deal_label(int(np.argmin(np.where(open_groups > 0, open_groups, np.inf))))
        self._deal_label(images)

    def _deal_label(self, label: int) -> None:
        table = self._table
        for entry in table.entries_of_label(label).tolist():
            group = int(table.rows[entry])
            if self._split_of[group] < 0:
                self._give(group, self._neediest(label, entry, group))

    def _neediest(self, label: int, entry: int, group: int) -> int:
        # With the class alone, classes of two groups would all end in train, and the images with them.
        need = self._unmet(label, self._table.counts[entry]) + self._unmet(-1, self._table.images[group])
        equal = np.flatnonzero(need >= need.max() - _ROUNDING)
        return int(equal[int(self._table.ties[group]) % len(equal)])

    def _unmet(self, label: int, size: int) -> FloatArray:
        # Relative to the share: else the largest groups would all go to train, and test would get none of the
        # crowded images. Half of the group counts as given (Webster's method), so small splits do not overshoot.
        wanted = self._wanted[label]
        unmet: FloatArray = (wanted - self._got[label] - size / 2) / wanted
        return unmet

    def _give(self, group: int, split: int) -> None:
        entries = self._table.entries_of_group(group)
        labels = self._table.labels[entries]
        self._got[labels, split] += self._table.counts[entries]
        self._open_groups[labels] -= 1
        self._split_of[group] = split

    def fill_empty(self) -> None:
        """Give a group to each split that holds none: one that can be spared, or that of a less urgent split."""
        urgent = [self._splits.index(name) for name in _MOST_URGENT_FIRST if name in self._splits]
        for position, split in enumerate(urgent):
            dealt = np.bincount(self._split_of, minlength=len(self._splits))
            if self._settled[split] or dealt[split]:
                continue
            spare = np.flatnonzero(dealt > ~self._settled).tolist()
            less_urgent = [other for other in reversed(urgent[position + 1 :]) if dealt[other]][:1]
            givers = np.isin(self._split_of, spare or less_urgent)
            if givers.any():
                self._split_of[self._fitting(np.flatnonzero(givers), split)] = split

    def _fitting(self, groups: IntArray, split: int) -> int:
        """That with the number of images nearest to what the split should have."""
        distance = np.abs(self._table.images[groups] - self._wanted[-1, split])
        return int(groups[np.lexsort((self._table.ties[groups], distance))[0]])

    def result(self) -> dict[str, str]:
        chosen = (self._splits[split] for split in self._split_of.tolist())
        return dict(zip(self._table.names, chosen, strict=True))


def _hash(salt: str, group: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"{salt}\0{group}".encode(), digest_size=8).digest())


def _slices(order: IntArray, keys: IntArray, count: int) -> list[IntArray]:
    """The places of each key 0 to `count` - 1, in the order that is given and sorted by key."""
    return np.split(order, np.cumsum(np.bincount(keys, minlength=count))[:-1])


def _totals(table: _Table, contents: GroupContents) -> FloatArray:
    objects = [contents.objects.get(index, 0) for index in table.class_indices.tolist()]
    return np.array([*objects, contents.images], dtype=np.float64)
