"""What an operator sees of the stream, and does about its dead letters."""

from retrain.data_collection.redis_backend.connection import RedisConnection
from retrain.data_collection.redis_backend.records import DeadLetter, Entry, StreamDepth
from retrain.data_collection.redis_backend.server import GROUP, StreamServer


class StreamCare:
    """Looks after one stream, by its name. Every method raises `Unavailable` when Redis does not answer."""

    def __init__(self, redis: RedisConnection, name: str = "retrain") -> None:
        self._redis, self._server = redis, StreamServer(redis, name)

    def depth(self) -> StreamDepth:
        """What is in Redis now."""
        server = self._server
        entries, first, taken, held, dead = server.ask_group(
            lambda client: (
                client.pipeline(transaction=True)
                .xlen(server.stream)
                .xrange(server.stream, count=1)
                .xpending(server.stream, GROUP)
                .hget(server.totals, "bytes")
                .xlen(server.dead)
                .execute()
            )
        )
        oldest_at = int(first[0][0].split(b"-")[0]) / 1000 if first else None
        return StreamDepth(entries, taken["pending"], int(held or 0), dead, oldest_at)

    def dead_letters(self, limit: int = 1000) -> list[DeadLetter]:
        """Entries put aside, oldest first."""
        with self._redis.answering() as client:
            found = client.xrange(self._server.dead, count=limit)
        return [
            DeadLetter(Entry.read(key, fields, int(fields[b"deliveries"])), fields[b"reason"].decode())
            for key, fields in found
        ]

    def revive(self) -> int:
        """Put all dead letters back into the stream, as if they were new. Returns how many."""
        revived = 0
        while count := int(self._server.call("REVIVE", [])):
            revived += count
        return revived
