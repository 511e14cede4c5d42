"""Retention: collected samples that are too old, or that no longer fit, are deleted, the oldest first."""

import math
from dataclasses import dataclass

from sqlalchemy import case, select

from retrain.data_collection.background import SpoolDrainer
from retrain.data_collection.forgetting.eraser import Eraser
from retrain.data_collection.forgetting.removal import claimed_by_running, remove_samples
from retrain.data_collection.forgetting.tombstones import bury
from retrain.data_collection.sample import SampleKey
from retrain.data_collection.spool.scrub import scrub
from retrain.errors import ConfigError
from retrain.storage.schema import packs, samples

EXPIRED = "expired"
"""Outcome of draws whose picture retention deleted."""
_DELETED_AT_ONCE = 5000

# A camera whose clock runs ahead must not keep its pictures for ever.
_captured_at = case(
    (samples.c.captured_at < samples.c.stored_at, samples.c.captured_at), else_=samples.c.stored_at
)


@dataclass(frozen=True)
class RetentionPolicy:
    """How long and how many samples are kept.

    What a running cycle has selected is never deleted. Dataset versions hold copies of their own, so a sample may go
    once it is in one, and none goes from a version.

    Attributes:
        max_age_s: since it was captured; None: any age.
        max_bytes: of all packs together; None: any size.

    Raises:
        ConfigError: a limit that is negative.
    """

    max_age_s: float | None = None
    max_bytes: int | None = None

    def __post_init__(self) -> None:
        for name, limit in (("max_age_s", self.max_age_s), ("max_bytes", self.max_bytes)):
            if limit is not None and not limit >= 0:
                raise ConfigError(f"{name} of the retention must be 0 or more, got {limit}.")


@dataclass(frozen=True)
class RetentionReport:
    """What `retain` did.

    Attributes:
        samples: ids of the deleted ones, in the order they went.
        packs: replaced or deleted, the blob store was asked and has none of them any more.
        bytes_before, bytes_after: of all packs, as the store had and has them.
        over: bytes above `max_bytes` that are left, because a running cycle uses them.
        left: what the database itself keeps of deleted rows, in words; empty when it keeps nothing.
    """

    samples: tuple[str, ...]
    packs: int
    bytes_before: int
    bytes_after: int
    over: int
    left: str

    @property
    def bytes_freed(self) -> int:
        return self.bytes_before - self.bytes_after


def retain(
    eraser: Eraser, policy: RetentionPolicy, now: float, *, drainer: SpoolDrainer | None = None
) -> RetentionReport:
    """Delete what the policy no longer keeps. Killed anywhere and called again, it goes on where it was.

    The size of a sample is taken to be the mean of its pack, and the packs are measured after each round, so up to
    one pack more than needed may go. The same picture is stored again if it comes again.

    Args:
        drainer: of the spool on this machine, which is emptied first and cleared of what was read: a segment that
            fills slowly would keep its bytes longer than the policy allows. None leaves it.

    Raises:
        RetrainError: a store does not answer; what is missing is done by the next call.
    """
    if drainer is not None:
        scrub(drainer)
    before, gone = eraser.stored_bytes(), []
    if policy.max_age_s is not None:
        gone += _delete_oldest(eraser, now, older_than=now - policy.max_age_s)
    erased = eraser.erase(now)
    replaced = erased.packs
    while (over := _over(eraser, policy)) and (more := _delete_oldest(eraser, now, enough_bytes=over)):
        gone += more
        erased = eraser.erase(now)
        replaced += erased.packs
    return RetentionReport(tuple(gone), replaced, before, eraser.stored_bytes(), over, erased.left)


def _over(eraser: Eraser, policy: RetentionPolicy) -> int:
    return 0 if policy.max_bytes is None else max(eraser.stored_bytes() - policy.max_bytes, 0)


def _delete_oldest(
    eraser: Eraser, now: float, *, older_than: float = math.inf, enough_bytes: float = math.inf
) -> list[str]:
    """Delete samples captured before `older_than` from the oldest on, until they make `enough_bytes`."""
    query = (
        select(samples.c.model, samples.c.id, samples.c.cycle_id, packs.c.bytes, packs.c.images)
        .outerjoin(packs, packs.c.id == samples.c.pack)
        .where(_captured_at < older_than, ~claimed_by_running())
        .order_by(_captured_at, samples.c.id, samples.c.model)
        .limit(_DELETED_AT_ONCE)
    )
    gone: list[str] = []
    size = 0.0
    while size < enough_bytes:
        chosen = []
        with eraser.state.write() as connection:
            eraser.guard(connection)
            for row in connection.execute(query).all():
                if size < enough_bytes:
                    chosen.append(row)
                    size += row.bytes / row.images if row.images else 0.0
            bury(connection, "expired", [row.id for row in chosen if row.cycle_id], now, "retention")
            remove_samples(connection, [SampleKey(row.model, row.id) for row in chosen], EXPIRED)
        if not chosen:
            break
        gone += [row.id for row in chosen]
    return gone
