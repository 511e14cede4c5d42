"""What travels through the stream between the hosts that collect and those that store."""

from collections.abc import Mapping
from dataclasses import dataclass

from retrain.data_collection.sample import SampleKey
from retrain.errors import StorageFull
from retrain.storage.digests import content_digest


class StreamFull(StorageFull):
    """The stream holds as much as it may; its drainers are behind, or there are none."""


@dataclass(frozen=True)
class StreamRecord:
    """A spooled record on its way.

    Attributes:
        model: that predicted it; the same image is a sample of each model.
        image: encoded.
        problem: why there is no image.
    """

    id: str
    body: bytes
    model: str = ""
    image: bytes = b""
    problem: str = ""

    @property
    def image_name(self) -> str:
        """Under which Redis keeps and remembers the image; empty when there is none."""
        return image_name(SampleKey(self.model, content_digest(self.image))) if self.image else ""


def image_name(sample: SampleKey) -> str:
    """The name in Redis of a sample's image."""
    return f"{sample.id}/{sample.model}"


@dataclass(frozen=True)
class Entry:
    """A record as a drainer gets it.

    Attributes:
        key: its place in the stream.
        image_name: under which Redis has its image; empty when there is none.
        image_bytes: length of the image in Redis.
        deliveries: times it was handed out, this one included.
    """

    key: bytes
    record: str
    body: bytes
    image_name: str
    image_bytes: int
    problem: str
    deliveries: int = 1

    @property
    def sample(self) -> SampleKey:
        """The sample that its image is; without an id when there is none."""
        digest, _, model = self.image_name.partition("/")
        return SampleKey(model, digest)

    @classmethod
    def read(cls, key: bytes, fields: Mapping[bytes, bytes], deliveries: int = 1) -> "Entry":
        """As `scripts.PUT` writes it."""
        return cls(
            key,
            fields[b"record"].decode(),
            fields[b"body"],
            fields[b"image"].decode(),
            int(fields[b"bytes"]),
            fields[b"problem"].decode(),
            deliveries,
        )


@dataclass(frozen=True)
class Taken:
    """What one `take` found: entries to store, how many it put aside as deadly, and how many were lost."""

    entries: list[Entry]
    buried: int = 0
    lost: int = 0

    def __bool__(self) -> bool:
        return bool(self.entries or self.buried or self.lost)


@dataclass(frozen=True)
class DeadLetter:
    """An entry put aside, its `deliveries` the times it was tried, and why."""

    entry: Entry
    reason: str


@dataclass(frozen=True)
class StreamDepth:
    """What is in Redis.

    Attributes:
        entries: not stored yet; `taken` of them are with a drainer.
        image_bytes: of their images.
        dead: entries put aside.
        oldest_at: when the oldest entry was put, by the clock of Redis.
    """

    entries: int
    taken: int
    image_bytes: int
    dead: int
    oldest_at: float | None
