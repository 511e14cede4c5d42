"""The keys of one stream in Redis, and how its scripts and its group of drainers are reached."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

from retrain.data_collection.redis_backend import scripts
from retrain.data_collection.redis_backend.connection import RedisConnection

logger = logging.getLogger(__name__)

GROUP = "drainers"


class StreamServer:
    """One stream, by its name."""

    def __init__(self, redis: RedisConnection, name: str) -> None:
        self.redis = redis
        # Braces: one hash slot for all keys, should Redis be a cluster.
        self._prefix = f"{{{name}}}:collection:"
        self.stream, self.dead = self._prefix + "stream", self._prefix + "dead"
        self.images, self.totals = self._prefix + "images", self._prefix + "totals"
        self._scripts = {
            script: redis.client.register_script(getattr(scripts, script))
            for script in ("UNKNOWN", "PUT", "DONE", "BURY", "REVIVE")
        }
        self._had_group = False

    def call(self, script: str, arguments: Sequence[Any]) -> Any:
        """Run one of `scripts` on this stream.

        Raises:
            StorageFull: Redis has no memory left; nothing was changed.
            Unavailable: Redis does not answer; it may have run.
        """
        keys = [self.stream, self.images, self._prefix + "uses", self.totals, self.dead]
        with self.redis.answering():
            return self._scripts[script](keys=keys, args=arguments)

    def ask_group(self, ask: Callable[[Any], Any]) -> Any:
        """What the client answers to `ask`, which needs the group of drainers; it is made where there is none.

        Raises:
            Unavailable: Redis does not answer.
        """
        missing = self.redis.errors.ResponseError
        with self.redis.answering() as client:
            try:
                answer = ask(client)
            except missing as error:
                if "NOGROUP" not in str(error):
                    raise
                self._make_group(client)
                answer = ask(client)
        self._had_group = True
        return answer

    def _make_group(self, client: Any) -> None:
        if self._had_group:
            logger.error("%s has lost the stream %s, and what waited there.", self.redis.place, self.stream)
        try:
            # From the beginning: producers may have been first.
            client.xgroup_create(self.stream, GROUP, id="0", mkstream=True)
        except self.redis.errors.ResponseError as error:
            # Another drainer was faster.
            if "BUSYGROUP" not in str(error):
                raise
