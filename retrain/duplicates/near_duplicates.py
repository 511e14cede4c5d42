"""Finds the stored picture that a new one repeats: re-encoded, scaled, a little brighter, cropped or mirrored.

Every stored hash is compared, none is skipped: at a million entries one pass of XOR and bit counts takes
milliseconds, and trees or buckets are slower at these distances.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from retrain.duplicates.perceptual_hash import ENTRY, PerceptualHash, first_same
from retrain.errors import BadInput, ConfigError

_CHUNK = 16_384
"""Hashes compared at a time: both kinds and the scratch space stay in the processor's second-level cache."""

_Ints = NDArray[np.int64]
_NONE: _Ints = np.empty(0, np.int64)


@dataclass(frozen=True)
class NearDuplicateRule:
    """When a new picture counts as a repetition. The defaults are fitted by `benchmarks/near_duplicates.py`.

    Attributes:
        max_distance: bits of 128 by which the hashes of a repetition may differ.
        max_difference: grey levels by which its most different spot may differ (`largest_differences`). Infinite
            leaves it to the hashes, and frames of a fixed camera get lost.
        mirrored: whether a picture flipped left to right is a repetition.
        max_candidates: pictures looked at closely, nearest and newest first. A repetition further back is missed,
            so its copy is kept.

    Raises:
        ConfigError: a value out of range.
    """

    max_distance: int = 26
    max_difference: float = 2.5
    mirrored: bool = True
    max_candidates: int = 32

    def __post_init__(self) -> None:
        if not 0 <= self.max_distance <= 128:
            raise ConfigError(f"max_distance must be 0 to 128 bits, got {self.max_distance}.")
        if math.isnan(self.max_difference) or self.max_difference < 0:
            raise ConfigError(f"max_difference must be 0 grey levels or more, got {self.max_difference}.")
        if self.max_candidates < 1:
            raise ConfigError(f"max_candidates must be at least 1, got {self.max_candidates}.")


@dataclass(frozen=True)
class Match:
    """The stored picture that a new one repeats.

    Attributes:
        id: as it was added.
        distance: bits of 128 in which the hashes differ.
        difference: of the most different spot, in grey levels.
        mirrored: whether the new one is the stored one flipped.
    """

    id: str
    distance: int
    difference: float
    mirrored: bool


class NearDuplicates:
    """The pictures seen so far, in memory: 1048 bytes each and their ids. For one thread at a time."""

    def __init__(
        self,
        rule: NearDuplicateRule | None = None,
        scope: Literal["camera", "global"] = "camera",
        capacity: int = 100_000,
    ) -> None:
        """Start empty.

        Args:
            scope: "camera" looks for repetitions among the pictures of the same camera only.
            capacity: pictures remembered, over all cameras; the oldest is forgotten for the newest.

        Raises:
            ConfigError: an unknown scope, or a capacity below 1.
        """
        if scope not in {"camera", "global"}:
            raise ConfigError(f"scope must be camera or global, got {scope!r}.")
        if capacity < 1:
            raise ConfigError(f"capacity must be at least 1 picture, got {capacity}.")
        self.rule = rule or NearDuplicateRule()
        self.scope, self.capacity = scope, capacity
        self._shelves: dict[str, _Shelf] = {}
        # In order of age, as a dict keeps the order in which its keys came.
        self._shelf_of: dict[str, _Shelf] = {}

    @classmethod
    def from_rows(cls, rows: Iterable[tuple[str, str, bytes]], **options: Any) -> "NearDuplicates":
        """Rebuild from stored rows.

        Args:
            rows: (id, camera, `PerceptualHash.to_bytes()`), oldest first, each id once.
            options: as for `NearDuplicates(...)`.

        Raises:
            BadInput: a hash of another length, or an id twice.
        """
        index = cls(**options)
        newest = list(rows)[-index.capacity :]
        of_shelf: dict[str, list[tuple[str, bytes]]] = defaultdict(list)
        for id_, camera, data in newest:
            of_shelf[index._key(camera)].append((id_, data))
        for key, entries in of_shelf.items():
            index._shelves[key] = _Shelf()
            index._shelves[key].extend([id_ for id_, _ in entries], _entries([data for _, data in entries]))
        index._shelf_of = {id_: index._shelves[index._key(camera)] for id_, camera, _ in newest}
        if len(index) < len(newest):
            raise BadInput(f"Each id may come once, got {len(newest)} rows with {len(index)} ids.")
        return index

    def __len__(self) -> int:
        return len(self._shelf_of)

    def __contains__(self, id_: object) -> bool:
        return id_ in self._shelf_of

    @property
    def nbytes(self) -> int:
        """Bytes reserved for hashes and thumbnails; ids come on top."""
        return sum(shelf.nbytes for shelf in self._shelves.values())

    def add(self, id_: str, picture: PerceptualHash, camera: str = "") -> None:
        """Remember a picture as the newest; one already there under this id is replaced."""
        self.remove(id_)
        if len(self) == self.capacity:
            self.remove(next(iter(self._shelf_of)))
        shelf = self._shelves.setdefault(self._key(camera), _Shelf())
        shelf.extend([id_], _entries([picture.to_bytes()]))
        self._shelf_of[id_] = shelf

    def remove(self, id_: str) -> bool:
        """Forget a picture; False when it was not there."""
        shelf = self._shelf_of.pop(id_, None)
        if shelf is not None:
            shelf.remove(id_)
        return shelf is not None

    def find(self, picture: PerceptualHash, camera: str = "") -> Match | None:
        """The nearest stored picture that this one repeats, by hash distance; the newest of equally near ones."""
        return self.find_many([picture], [camera])[0]

    def find_many(self, pictures: Sequence[PerceptualHash], cameras: Sequence[str]) -> list[Match | None]:
        """`find` for each picture and its camera, reading the stored hashes once; not compared with each other."""
        asked: dict[str, list[int]] = defaultdict(list)
        for place, (_, camera) in enumerate(zip(pictures, cameras, strict=True)):
            asked[self._key(camera)].append(place)
        matches: list[Match | None] = [None] * len(pictures)
        for key, places in asked.items():
            if shelf := self._shelves.get(key):
                for place, match in zip(
                    places, self._search(shelf, [pictures[i] for i in places]), strict=True
                ):
                    matches[place] = match
        return matches

    def _key(self, camera: str) -> str:
        return camera if self.scope == "camera" else ""

    def _search(self, shelf: "_Shelf", pictures: list[PerceptualHash]) -> list[Match | None]:
        asked = pictures + [picture.mirrored for picture in pictures] if self.rule.mirrored else pictures
        near = shelf.within(asked, self.rule.max_distance)
        return [
            self._match(shelf, picture, near[place :: len(pictures)])
            for place, picture in enumerate(pictures)
        ]

    def _match(
        self, shelf: "_Shelf", picture: PerceptualHash, near: list[tuple[_Ints, _Ints]]
    ) -> Match | None:
        """Look at the candidates themselves. `near`: slots and distances as it is and perhaps mirrored."""
        slots, distances = (np.concatenate(part) for part in zip(*near, strict=True))
        mirrored = np.arange(len(slots)) >= len(near[0][0])
        best = np.lexsort((-shelf.at("age", slots), distances))[: self.rule.max_candidates]
        if not best.size:
            return None
        stored = shelf.at("thumbnail", slots[best])
        stored[mirrored[best]] = stored[mirrored[best], :, ::-1]
        if (same := first_same(stored, picture.cells, self.rule.max_difference)) is None:
            return None
        found, difference = best[same[0]], same[1]
        return Match(shelf.ids[slots[found]], int(distances[found]), difference, bool(mirrored[found]))


class _Shelf:
    """Pictures that are searched together, without gaps: the last one moves into the place of one removed."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self._slots: dict[str, int] = {}
        self._added = 0
        # Slots change with removals, so age is a column of its own.
        self._columns: dict[str, NDArray[Any]] = {
            "age": np.empty(0, np.int64),
            **{name: np.empty(0, ENTRY)[name].copy() for name in ("p", "d", "thumbnail")},
        }

    @property
    def nbytes(self) -> int:
        return sum(column.nbytes for column in self._columns.values())

    def at(self, column: Literal["age", "thumbnail"], slots: _Ints) -> NDArray[Any]:
        """Copies of the entries' ages (higher is newer) or thumbnails."""
        copies: NDArray[Any] = self._columns[column][slots]
        return copies

    def extend(self, ids: list[str], entries: NDArray[np.void]) -> None:
        first, size = len(self.ids), len(self.ids) + len(ids)
        if size > self._room():
            self._resize(max(size, self._room() * 5 // 4))
        for name in ("p", "d", "thumbnail"):
            self._columns[name][first:size] = entries[name]
        self._columns["age"][first:size] = np.arange(self._added, self._added + len(ids))
        self._added += len(ids)
        self.ids += ids
        self._slots.update(zip(ids, range(first, size), strict=True))

    def remove(self, id_: str) -> None:
        hole, last = self._slots.pop(id_), len(self.ids) - 1
        moved = self.ids.pop()
        if hole != last:
            for column in self._columns.values():
                column[hole] = column[last]
            self.ids[hole], self._slots[moved] = moved, hole
        # A camera that was switched off gives its memory back.
        if last < self._room() // 2:
            self._resize(last)

    def within(self, pictures: list[PerceptualHash], distance: int) -> list[tuple[_Ints, _Ints]]:
        """Slots of the entries within `distance` bits of each picture, and how far they are."""
        size = len(self.ids)
        return hashes_within(self._columns["p"][:size], self._columns["d"][:size], pictures, distance)

    def _room(self) -> int:
        return len(self._columns["p"])

    def _resize(self, room: int) -> None:
        for name, old in self._columns.items():
            self._columns[name] = np.empty((room, *old.shape[1:]), old.dtype)
            self._columns[name][: len(self.ids)] = old[: len(self.ids)]


def hashes_within(
    p: NDArray[np.uint64], d: NDArray[np.uint64], pictures: Sequence[PerceptualHash], distance: int
) -> list[tuple[_Ints, _Ints]]:
    """Which hashes are near each of some pictures, all compared: a nanosecond or two for each comparison.

    Args:
        p: pHashes, shape (n,).
        d: dHashes of the same pictures, shape (n,).
        distance: bits of 128, at most.

    Returns:
        For each picture the places in `p` and `d`, rising, and the distances there.
    """
    hits = [([_NONE], [_NONE]) for _ in pictures]
    keys = [(np.uint64(picture.p), np.uint64(picture.d)) for picture in pictures]
    for start in range(0, len(p), _CHUNK):
        p_chunk, d_chunk = p[start : start + _CHUNK], d[start : start + _CHUNK]
        for (p_asked, d_asked), (places, distances) in zip(keys, hits, strict=True):
            bits = np.bitwise_count(p_chunk ^ p_asked)
            bits += np.bitwise_count(d_chunk ^ d_asked)
            near = np.flatnonzero(bits <= distance)
            if near.size:
                places.append(near + start)
                distances.append(bits[near].astype(np.int64))
    return [(np.concatenate(places), np.concatenate(distances)) for places, distances in hits]


def _entries(hashes: list[bytes]) -> NDArray[np.void]:
    """Stored hashes as one array of `ENTRY`."""
    if wrong := [len(data) for data in hashes if len(data) != ENTRY.itemsize]:
        raise BadInput(f"A stored hash has {ENTRY.itemsize} bytes, got {wrong[0]}.")
    return np.frombuffer(b"".join(hashes), ENTRY)
