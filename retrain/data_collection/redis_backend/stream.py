"""The stream in Redis between producers on many hosts and the central drainers that store what they took."""

import itertools
import logging
import os
import secrets
import socket
from collections.abc import Iterable, Sequence
from typing import Any

from retrain.data_collection.redis_backend.connection import RedisConnection
from retrain.data_collection.redis_backend.records import Entry, StreamFull, StreamRecord, Taken
from retrain.data_collection.redis_backend.server import GROUP, StreamServer
from retrain.errors import ConfigError

logger = logging.getLogger(__name__)

_FEWER = 16
"""From the third delivery on, so many times fewer entries come together: with 256 at first, one from the fourth on."""


class RedisStream:
    """Records from `put` until `done`. Safe for threads, forked children and any number of processes.

    An image is in Redis once per model, as long as an entry needs it. What is stored is not remembered: an index that
    was restored from a backup would lack images whose records came without them. A record that is put twice is there
    twice; whoever stores it goes by its id.
    """

    def __init__(
        self,
        redis: RedisConnection,
        name: str = "retrain",
        *,
        max_entries: int = 50_000,
        max_bytes: int = 2**30,
        min_idle_s: float = 120.0,
        max_deliveries: int = 5,
        consumer: str | None = None,
    ) -> None:
        """Set up; Redis is reached when it is first needed.

        Args:
            name: of the stream; begins all its keys.
            max_entries, max_bytes: entries, and bytes of their images, that may wait, dead letters included; nothing
                is ever trimmed.
            min_idle_s: a drainer silent for so long is taken to be dead and its entries are given to others.
            max_deliveries: an entry not stored after so many is put aside.
            consumer: name of this drainer; by default one of its own.

        Raises:
            ConfigError: a limit that is not positive.
        """
        limits = {"max_entries": max_entries, "max_bytes": max_bytes, "max_deliveries": max_deliveries}
        for limit, value in limits.items():
            if value < 1:
                raise ConfigError(f"{limit} of the stream must be at least 1, got {value}.")
        self.redis, self.max_entries = redis, max_entries
        self._server = StreamServer(redis, name)
        self._max_bytes = max_bytes
        self._min_idle_ms, self._max_deliveries = int(min_idle_s * 1000), max_deliveries
        self._consumer = consumer or f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self._claimed_until: bytes | str = "0-0"

    def put(self, records: Sequence[StreamRecord]) -> int:
        """Append them, all or none, each with its image unless Redis has that already.

        Returns:
            How many went without their image.

        Raises:
            StreamFull: there is no room; nothing was put.
            StorageFull: Redis has no memory left; nothing was put.
            Unavailable: Redis does not answer; they may have been put.
        """
        if not records:
            return 0
        names = [record.image_name for record in records]
        named = sorted({name for name in names if name})
        unknown = self._server.call("UNKNOWN", named) if named else []
        answer = self._put(records, names, {name.decode() for name in unknown})
        if answer[0] == b"image":
            # It was there when asked for, and is gone since: this time with every image.
            answer = self._put(records, names, set(names))
        if answer[0] == b"full":
            raise StreamFull(
                f"{self.redis.place} holds {answer[1]} collected frames with {answer[2]} bytes of images, and no more "
                "may wait there. Is `retrain collect drain` running, and are there dead letters?"
            )
        return int(answer[1])

    def take(self, limit: int) -> Taken:
        """Entries for this drainer: those of dead ones first, else new ones; nothing when nothing waits.

        Entries handed out in vain come with ever fewer others, until the one that kills its drainers comes alone and
        is put aside.

        Raises:
            Unavailable: Redis does not answer.
        """
        found, lost = self._claim(limit)
        if not found:
            new = {self._server.stream: ">"}
            answer = self._server.ask_group(
                lambda client: client.xreadgroup(GROUP, self._consumer, new, count=limit)
            )
            return Taken([Entry.read(key, fields) for _, part in answer for key, fields in part], 0, lost)
        deadly = [entry for entry in found if entry.deliveries > self._max_deliveries]
        self.bury(
            deadly,
            f"handed out {self._max_deliveries} times and never stored: drainers died or failed with it",
        )
        rest = sorted(
            (entry for entry in found if entry.deliveries <= self._max_deliveries),
            key=lambda entry: -entry.deliveries,
        )
        if rest:
            together = max(limit // _FEWER ** max(rest[0].deliveries - 2, 0), 1)
            self.release(rest[together:])
            rest = rest[:together]
        return Taken(rest, len(deadly), lost)

    def images(self, entries: Iterable[Entry]) -> dict[str, bytes]:
        """The images of entries by name, as far as Redis has them.

        Raises:
            Unavailable: Redis does not answer.
        """
        names = list({entry.image_name for entry in entries if entry.image_name})
        if not names:
            return {}
        with self.redis.answering() as client:
            found = client.hmget(self._server.images, names)
        return {name: data for name, data in zip(names, found, strict=True) if data is not None}

    def done(self, entries: Iterable[Entry]) -> None:
        """Forget entries that are stored.

        Raises:
            Unavailable: Redis does not answer; the entries come again, which changes nothing.
        """
        used = [value for entry in entries for value in (entry.key, entry.image_name)]
        self._server.call("DONE", [GROUP, *used])

    def release(self, entries: Iterable[Entry]) -> None:
        """Give back entries that could not be stored for no fault of theirs; whoever asks next gets them.

        Raises:
            Unavailable: Redis does not answer; they come again when this drainer is taken to be dead.
        """
        by_deliveries = itertools.groupby(
            sorted(entries, key=lambda one: one.deliveries), lambda one: one.deliveries
        )
        with self.redis.answering() as client:
            for deliveries, group in by_deliveries:
                client.xclaim(
                    self._server.stream,
                    GROUP,
                    self._consumer,
                    0,
                    [entry.key for entry in group],
                    idle=self._min_idle_ms,
                    retrycount=deliveries - 1,
                    justid=True,
                )

    def bury(self, entries: Sequence[Entry], reason: str) -> None:
        """Put entries aside as dead letters, see `StreamCare`.

        Raises:
            Unavailable: Redis does not answer.
        """
        for entry in entries:
            logger.error("Record %s is put aside as a dead letter: %s.", entry.record, reason)
        if entries:
            arguments = [value for entry in entries for value in (entry.key, entry.deliveries)]
            self._server.call("BURY", [GROUP, reason, *arguments])

    def _put(self, records: Sequence[StreamRecord], names: Sequence[str], unsent: set[str]) -> Any:
        """One attempt; `unsent` are the names of the images that go along, each once."""
        arguments: list[Any] = []
        for record, name in zip(records, names, strict=True):
            image = record.image if name in unsent else b""
            unsent.discard(name)
            arguments += [record.id, record.body, name, image, record.problem]
        return self._server.call("PUT", [self.max_entries, self._max_bytes, *arguments])

    def _claim(self, limit: int) -> tuple[list[Entry], int]:
        """Entries of drainers that are dead, and how many of theirs somebody deleted."""
        self._claimed_until, found, deleted = self._server.ask_group(
            lambda client: client.xautoclaim(
                self._server.stream,
                GROUP,
                self._consumer,
                self._min_idle_ms,
                self._claimed_until,
                count=limit,
            )
        )
        if deleted:
            logger.error(
                "%d collected frames were deleted from %s before they were stored, and are lost: %s.",
                len(deleted),
                self.redis.place,
                b", ".join(deleted[:5]).decode(),
            )
        deliveries = self._deliveries([key for key, _ in found])
        return [Entry.read(key, fields, deliveries.get(key, 1)) for key, fields in found], len(deleted)

    def _deliveries(self, keys: Sequence[bytes]) -> dict[bytes, int]:
        if not keys:
            return {}
        with self.redis.answering() as client:
            pipeline = client.pipeline(transaction=False)
            for key in keys:
                pipeline.xpending_range(self._server.stream, GROUP, key, key, 1)
            return {one["message_id"]: one["times_delivered"] for part in pipeline.execute() for one in part}
