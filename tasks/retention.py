"""Deletes the collected samples that the configuration no longer keeps, and copies of those deleted elsewhere."""

import time

from prefect import get_run_logger, task

from retrain.config import RetrainConfig
from retrain.data_collection.forgetting.eraser import Eraser
from retrain.data_collection.forgetting.retention import RetentionPolicy, retain
from retrain.errors import Active
from tasks.resources import Resources
from tasks.retrying import RETRYING

DELETION = "collection-deletion"
"""Name of the lease that whoever deletes samples holds."""
LEASE_S = 60.0
_DAY_S = 86_400.0


def retention_policy(config: RetrainConfig) -> RetentionPolicy:
    """How long samples are kept, by this configuration."""
    retention = config.data_collection.retention
    age = None if retention.max_age_days is None else retention.max_age_days * _DAY_S
    return RetentionPolicy(age, retention.max_bytes)


@task(name="apply retention", timeout_seconds=3600, **RETRYING)
def delete_expired(resources: Resources) -> int:
    """How many samples went; none where no limit is set, or while somebody else deletes some.

    Copies on this machine of what was deleted by another one go in any case.
    """
    cache = resources.home / "cache"
    Eraser(resources.state, resources.sample_blobs, cache).prune_cache()
    policy = retention_policy(resources.config)
    if policy == RetentionPolicy():
        return 0
    try:
        with (
            resources.leases.acquire(DELETION, LEASE_S) as lease,
            resources.collection_service(background=False) as service,
        ):
            eraser = Eraser(resources.state, resources.sample_blobs, cache, lease.check)
            # The spool is emptied on the way: its segments hold the bytes of expired pictures, too.
            report = retain(eraser, policy, time.time(), drainer=service.drainer)
    except Active as active:
        get_run_logger().info("nothing deleted: %s", active)
        return 0
    if report.samples and report.left:
        get_run_logger().warning("%s", report.left)
    if report.samples:
        get_run_logger().info("%d samples deleted, %d bytes freed", len(report.samples), report.bytes_freed)
    return len(report.samples)
