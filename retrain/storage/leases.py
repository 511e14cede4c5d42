"""At most one holder per name, across processes and hosts, with a fencing token that outlives every holder."""

import hashlib
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil
from sqlalchemy import Connection, Row, insert, select, update

from retrain.errors import Active, BadInput, LeaseLost, RetrainError
from retrain.storage.processes import start_mark
from retrain.storage.schema import leases
from retrain.storage.state import StateStore

logger = logging.getLogger(__name__)


class Lease:
    """Held from `LeaseManager.acquire` until `release`, the end of its `with` block, or of the process.

    A thread renews it every third of its time to live. That makes losing it unlikely, not impossible (a
    host can sleep), so every write that must not be done by two holders calls `check` in its transaction.
    """

    def __init__(
        self,
        state: StateStore,
        clock: Callable[[], float],
        *,
        name: str,
        holder: str,
        token: int,
        ttl_s: float,
    ) -> None:
        self.name = name
        self.token = token
        self._state = state
        self._clock = clock
        self._holder = holder
        self._ttl_s = ttl_s
        self._stopped = threading.Event()
        self._renewal = threading.Thread(target=self._keep, name=f"lease-{name}", daemon=True)
        self._renewal.start()

    def check(self, connection: Connection) -> None:
        """Prove that no newer holder exists, inside the `StateStore.write()` whose writes depend on it.

        Raises:
            LeaseLost: somebody else acquired it since, or it was released.
        """
        row = connection.execute(select(leases).where(leases.c.name == self.name)).first()
        if row is None or (row.token, row.holder) != (self.token, self._holder):
            newest = "nobody" if row is None or not row.holder else f"{_who(row.holder)}, token {row.token}"
            raise LeaseLost(
                f"lease {self.name!r} with token {self.token} is no longer ours (held by {newest}); stop."
            )

    def renew(self) -> None:
        """Hold it for another `ttl_s` from now.

        Raises:
            LeaseLost: somebody else acquired it since, or it was released.
        """
        with self._state.write() as connection:
            self.check(connection)
            ours = (leases.c.name == self.name) & (leases.c.token == self.token)
            connection.execute(update(leases).where(ours).values(expires_at=self._clock() + self._ttl_s))

    def release(self) -> None:
        """Free it for the next holder; does nothing when it is already released or lost."""
        self._stopped.set()
        # The row stays, because the next token has to be greater than this one.
        ours = (leases.c.name == self.name) & (leases.c.token == self.token)
        with self._state.write() as connection:
            connection.execute(update(leases).where(ours).values(holder="", expires_at=self._clock()))
        self._renewal.join()

    def _keep(self) -> None:
        while not self._stopped.wait(self._ttl_s / 3):
            try:
                self.renew()
            except LeaseLost as error:
                if not self._stopped.is_set():
                    logger.warning("%s", error)
                return
            except RetrainError as error:
                # The lease may outlive a database restart: try again until it is lost for certain.
                logger.warning("lease %r was not renewed, trying again: %s", self.name, error)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.release()
        except RetrainError as failure:
            # What the lease protected is done, and without renewal it frees itself.
            logger.warning("lease %r was not released and will expire: %s", self.name, failure)


class LeaseManager:
    """Hands out leases kept in the `leases` table.

    Args:
        clock: seconds since the epoch. Clocks of different hosts must agree to well within the time to live.
    """

    def __init__(self, state: StateStore, clock: Callable[[], float] = time.time) -> None:
        self._state = state
        self._clock = clock

    def acquire(self, name: str, ttl_s: float) -> Lease:
        """Take the lease if it is free, expired, or held by a process of this host that no longer runs.

        Raises:
            Active: somebody holds it.
            BadInput: empty or too long name, or a time to live that is not positive.
        """
        longest = leases.c.name.type.length  # type: ignore[attr-defined]
        if not 0 < len(name) <= longest:
            raise BadInput(f"A lease name must be 1 to {longest} characters, but got {name!r}.")
        if ttl_s <= 0:
            raise BadInput(f"A lease must live for more than 0 seconds, but got ttl_s={ttl_s}.")
        holder = _this_process()
        with self._state.write() as connection:
            row = connection.execute(select(leases).where(leases.c.name == name)).first()
            now = self._clock()
            if row is not None and not _is_free(row, now):
                raise Active(
                    f"lease {name!r} is active: held by {_who(row.holder)} "
                    f"until {_when(row.expires_at)} unless renewed (token {row.token}); "
                    "wait for it or stop that process."
                )
            token = row.token + 1 if row is not None else 1
            values = {"holder": holder, "token": token, "expires_at": now + ttl_s}
            if row is None:
                connection.execute(insert(leases).values(name=name, **values))
            else:
                connection.execute(update(leases).where(leases.c.name == name).values(values))
        return Lease(self._state, self._clock, name=name, holder=holder, token=token, ttl_s=ttl_s)

    def is_held(self, name: str) -> bool:
        """Whether `acquire` would find a holder now; asking takes nothing and delays nobody."""
        with self._state.read() as connection:
            row = connection.execute(select(leases).where(leases.c.name == name)).first()
        return row is not None and not _is_free(row, self._clock())


def _is_free(row: Row[tuple[str, str, int, float]], now: float) -> bool:
    return not row.holder or row.expires_at <= now or _has_died(row.holder)


def _has_died(holder: str) -> bool:
    """Whether the holder ran on this host and certainly no longer does; in doubt it lives."""
    host, pid, started, _nonce = holder.rsplit(":", 3)
    if host != _host():
        return False
    try:
        os.kill(int(pid), 0)
        process = psutil.Process(int(pid))
        return bool(process.status() == psutil.STATUS_ZOMBIE or start_mark(process) != started)
    except ProcessLookupError:
        return True
    except (PermissionError, psutil.Error):
        # It runs under another user, and /proc may be hidden from us.
        return False


def _this_process() -> str:
    return f"{_host()}:{os.getpid()}:{start_mark(psutil.Process())}:{secrets.token_hex(4)}"


def _host() -> str:
    """Name of the host, with a mark of its boot and container: elsewhere a process id means nothing."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        mark = boot + str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return socket.gethostname()
    return f"{socket.gethostname()}/{hashlib.blake2b(mark.encode(), digest_size=4).hexdigest()}"


def _who(holder: str) -> str:
    host, pid, _started_at, _nonce = holder.rsplit(":", 3)
    return f"{host.partition('/')[0]}:{pid}"


def _when(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds")
