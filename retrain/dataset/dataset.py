"""A version's images, or some of them, ready to be read."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, overload

from retrain.boxes import FloatArray
from retrain.dataset.reading.balance import sampling_weights
from retrain.dataset.reading.query import parse_query
from retrain.dataset.version import DatasetItem, DatasetVersion
from retrain.errors import BadInput


class ImageSource(Protocol):
    """Gives the bytes of items; `DatasetManager` is one."""

    def images(
        self, version: DatasetVersion, items: Iterable[DatasetItem]
    ) -> Iterator[tuple[DatasetItem, bytes]]: ...


class Dataset(Sequence[DatasetItem]):
    """Items in the order of their digests. Narrowing it gives another one and reads nothing."""

    def __init__(
        self, version: DatasetVersion, source: ImageSource, items: Sequence[DatasetItem] | None = None
    ) -> None:
        self.version, self._source = version, source
        self.items = tuple(version.items if items is None else items)

    def __len__(self) -> int:
        return len(self.items)

    @overload
    def __getitem__(self, index: int) -> DatasetItem: ...
    @overload
    def __getitem__(self, index: slice) -> "Dataset": ...
    def __getitem__(self, index: int | slice) -> "DatasetItem | Dataset":
        return (
            Dataset(self.version, self._source, self.items[index])
            if isinstance(index, slice)
            else self.items[index]
        )

    @property
    def classes(self) -> tuple[str, ...]:
        return self.version.classes

    def split(self, name: str) -> "Dataset":
        """The images of one split.

        Raises:
            BadInput: no such split.
        """
        if name not in self.version.splits:
            raise BadInput(f"Unknown split {name!r}; splits are {', '.join(self.version.splits)}.")
        return self._narrowed(item for item in self.items if item.split == name)

    def where(self, *conditions: str) -> "Dataset":
        """Images that meet all conditions, such as `camera=north*` or `class=car,truck` (see `query.py`).

        Raises:
            BadInput: a condition that cannot be understood.
        """
        query = parse_query(conditions, self.version.classes)
        return self._narrowed(item for item in self.items if query(item))

    def images(self) -> Iterator[tuple[DatasetItem, bytes]]:
        """Items with their encoded bytes, each checked against its digest; ordered by pack."""
        return self._source.images(self.version, self.items)

    def weights(self) -> FloatArray:
        """How often to draw each image so that rare classes are seen more; shape (n,), mean 1."""
        return sampling_weights(self.items, len(self.version.classes))

    def _narrowed(self, items: Iterable[DatasetItem]) -> "Dataset":
        return Dataset(self.version, self._source, tuple(items))
