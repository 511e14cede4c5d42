"""One way to reach Redis: short waits, nothing tried again unasked, errors in words that show no login."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from retrain.errors import ConfigError, StorageFull, Unavailable

_SLOWEST_UPLINK = 100_000
"""Bytes per second. A socket's timeout is for the whole of what is sent, so one number cannot suit all sizes."""


class RedisConnection:
    """A client of one Redis server, 7 or newer, for threads and forked children alike. Opening it connects to nothing.

    Args:
        url: `redis://user:password@host:port/database`, `rediss://…` (TLS) or `unix://…`.
        timeout_s: how long to wait for a connection and for an answer; longer for what is sent at `_SLOWEST_UPLINK`.

    Raises:
        ConfigError: the URL cannot be used, or redis-py is not installed.
    """

    def __init__(self, url: str, timeout_s: float = 5.0) -> None:
        self.place, self._timeout_s = _place(url), timeout_s
        try:
            import redis
            from redis.backoff import NoBackoff
            from redis.retry import Retry
        except ModuleNotFoundError as error:
            raise ConfigError(
                "Collecting through Redis needs redis-py: pip install 'retrain[redis]'."
            ) from error
        self.errors = redis.exceptions
        # Said, because redis-py's own default is up to ten tries over 3 s, differently from version to version. And a
        # command whose answer was lost may have run: whether it can be repeated is known only where it is given.
        self.client: Any = redis.Redis.from_url(
            url,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
        )
        pool = self.client.connection_pool
        # What `from_url` chose: plain, TLS or a Unix socket.
        pool.connection_class = _patient(pool.connection_class)

    @contextmanager
    def answering(self) -> Iterator[Any]:
        """The client, its errors as ours.

        Raises:
            Unavailable: Redis does not answer or refuses; whether the command ran is not known.
            StorageFull: its memory is.
        """
        began = time.monotonic()
        try:
            yield self.client
        except self.errors.TimeoutError as error:
            waited_s = round(time.monotonic() - began, 1)
            raise Unavailable(f"{self.place} did not answer within {waited_s:g} s.") from error
        except self.errors.AuthenticationError as error:
            raise Unavailable(
                f"{self.place} refused the login; check the user and password of redis_url."
            ) from error
        except self.errors.ConnectionError as error:
            raise Unavailable(f"{self.place} cannot be reached: {str(error).rstrip('.')}.") from error
        except self.errors.ResponseError as error:
            if "'maxmemory'" in str(error):
                raise StorageFull(f"{self.place} has reached its maxmemory.") from error
            needs = " It must be version 7 or newer." if "unknown command" in str(error) else ""
            raise Unavailable(f"{self.place} refused: {str(error).rstrip('.')}.{needs}") from error

    def dangers(self) -> list[str]:
        """What about the settings of this Redis can lose frames that wait there, in words.

        Raises:
            Unavailable: Redis does not answer.
        """
        with self.answering() as client:
            info = client.info("persistence") | client.info("memory")
        found = []
        if not info["aof_enabled"]:
            found.append(
                f"{self.place} keeps the frames that wait there in memory only, and a restart loses them: set "
                "appendonly yes, and appendfsync always to lose nothing to a power cut either."
            )
        if info["maxmemory"] and info["maxmemory_policy"] != "noeviction":
            found.append(
                f"{self.place} deletes what waits there when its memory is full (maxmemory-policy "
                f"{info['maxmemory_policy']}): set it to noeviction."
            )
        return found


def _patient(connection_class: Any) -> Any:
    """The class of connections, but with more time for what is large, and for the answer to it."""

    class PatientConnection(connection_class):  # type: ignore[misc]
        def send_packed_command(self, command: Any, check_health: bool = True) -> None:
            if not self._sock:
                self.connect()
            parts = [command] if isinstance(command, str) else list(command)
            self._sock.settimeout(self.socket_timeout + sum(map(len, parts)) / _SLOWEST_UPLINK)
            super().send_packed_command(parts, check_health)

    return PatientConnection


def _place(url: str) -> str:
    """The server in words, without user, password or query."""
    try:
        parts = urlsplit(url)
        place = parts.path if parts.scheme == "unix" else f"{parts.hostname}:{parts.port or 6379}{parts.path}"
    # What urlsplit says shows a part of the URL, perhaps of its password.
    except ValueError:
        raise ConfigError(
            "redis_url cannot be read; write redis://user:password@host:port/database, special characters as %XX."
        ) from None
    if parts.scheme not in {"redis", "rediss", "unix"}:
        # All before the last @ may be a login; what follows a ? may be a password.
        shown = re.sub(r"^(\w+://)?.*@", r"\1***@", url).partition("?")[0]
        raise ConfigError(f"redis_url must begin with redis://, rediss:// or unix://, got {shown!r}.")
    # redis-py would take database 0.
    if parts.scheme != "unix" and not re.fullmatch(r"(/\d*)?", parts.path):
        raise ConfigError(f"The database in redis_url must be a number, got {parts.path.strip('/')!r}.")
    return f"Redis at {place}"
