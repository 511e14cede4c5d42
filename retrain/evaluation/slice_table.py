"""All slices of several attributes and of pairs of them, as columns of codes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from retrain.boxes import IntArray
from retrain.evaluation.slices import Slicing


@dataclass(frozen=True, eq=False)
class SliceTable:
    """Slices of several attributes, each of which puts an image into one slice at most.

    Attributes:
        codes: slice of each image by attribute or pair, or the number of slices, shape (images, attributes and pairs).
        where: what each slice is.
        sizes, groups: images and recordings of each slice.
        judged: attributes that have slices by themselves.
    """

    codes: IntArray
    where: list[dict[str, str]]
    sizes: IntArray
    groups: IntArray
    judged: frozenset[str]

    @classmethod
    def of(cls, slicings: Sequence[Slicing], group_of: IntArray, min_groups: int) -> "SliceTable":
        """Of all attributes and pairs, but for slices of all images, of fewer recordings, or the same as one before."""
        columns, sizes, groups, seen = [], [], [], set()
        where: list[dict[str, str]] = []
        for parts in _singles_and_pairs(slicings):
            keys = np.column_stack([each.slice_of for each in parts])
            kinds, slice_of = np.unique(keys, axis=0, return_inverse=True)
            column = np.full(len(group_of), -1, dtype=np.int64)
            for kind, values in enumerate(kinds):
                own = slice_of.reshape(-1) == kind
                n_groups = len(np.unique(group_of[own]))
                if (values < 0).any() or n_groups < min_groups or own.all() or own.tobytes() in seen:
                    continue
                seen.add(own.tobytes())
                column[own] = len(where)
                where.append(
                    {each.attribute: each.values[value] for each, value in zip(parts, values, strict=True)}
                )
                sizes.append(int(own.sum()))
                groups.append(n_groups)
            columns.append(column)
        codes = np.column_stack(columns)
        return cls(
            np.where(codes < 0, len(where), codes),
            where,
            np.array(sizes, dtype=np.int64),
            np.array(groups, dtype=np.int64),
            frozenset(name for each in where if len(each) == 1 for name in each),
        )


def _singles_and_pairs(slicings: Sequence[Slicing]) -> Iterator[tuple[Slicing, ...]]:
    yield from ((one,) for one in slicings)
    yield from combinations(slicings, 2)
