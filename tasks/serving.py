"""Publishes a release, points the route at it, and proves that the routers serve it."""

import time
from collections.abc import Mapping
from typing import Any

from prefect import get_run_logger, task

from retrain.errors import Conflict, LeaseLost, NotFound, RetrainError, Unavailable
from retrain.evaluation.served_confidence import ServedConfidence
from retrain.serving.release import Lineage
from retrain.serving.route import RouteRecord, wait_until_served
from retrain.storage.leases import Lease
from tasks.cycle import CycleWork
from tasks.events import announce
from tasks.resources import Resources
from tasks.retrying import RETRYING


@task(name="register release", timeout_seconds=1800, **RETRYING)
def register_release(
    work: CycleWork,
    training: Mapping[str, Any],
    version: Mapping[str, Any],
    parent: str | None,
    confidence: ServedConfidence,
) -> Mapping[str, Any]:
    """Publish the trained model as a release that serves boxes from `confidence`, and register it as the challenger."""

    def register() -> dict[str, Any]:
        resources = work.resources
        lineage = Lineage(version["name"], version["digest"], training["job_id"], parent, work.cycle.id)
        digest = resources.releases.publish(model_folder(resources, training), lineage, thresholds=confidence)
        tags = {"retrain.dataset": version["name"], "retrain.cycle": work.cycle.id}
        number = resources.registry.register(
            resources.model, digest, training["model_uri"], training["run_id"], tags
        )
        _name_challenger(work, digest, number)
        return {"digest": digest, "model_version": number}

    return work.cycle.stage("register", {"job": training["job_id"], "version": version["name"]}, register)


@task(name="serve first release", timeout_seconds=300, **RETRYING)
def serve_first(work: CycleWork, release: Mapping[str, Any]) -> Mapping[str, Any]:
    """Make the model's first champion and its first route; there is nothing to compare it with."""

    def serve() -> dict[str, Any]:
        resources, digest = work.resources, release["digest"]
        record = resources.routes.initialise(resources.model, digest, time.time())
        _crown(work, expected=None, release=release)
        _write_ledger(work, "promoted", {"digest": digest, "model_version": release["model_version"]})
        return {"epoch": record.epoch, "revision": record.revision}

    return work.cycle.stage("serve", {"digest": release["digest"]}, serve)


@task(name="promote", timeout_seconds=1800, **RETRYING)
def promote(
    work: CycleWork, plan: Mapping[str, Any], release: Mapping[str, Any], evidence: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Switch the route, wait until every live router serves the release, then make it champion.

    If the routers do not follow in time, the route goes back to the old champion and the promotion fails.
    """

    def switch() -> dict[str, Any]:
        resources, digest = work.resources, release["digest"]
        _require_champion(work, (plan["champion"], digest))
        withdrawals = _withdrawals(work)
        payload = {"digest": digest, "from": plan["champion"], "evidence": dict(evidence)}
        _write_ledger(work, "decided", payload, withdrawals)
        record = _route_to(work, digest, plan)
        try:
            replicas = _wait_until_served(work, record, digest)
            _crown(work, expected=plan["champion"], release=release)
        except (Unavailable, LeaseLost):
            raise  # a retry, or whoever holds the lease now, goes on from here
        except RetrainError:
            get_run_logger().error("promotion failed; the route goes back to %s", plan["champion"])
            _route_back(work, record, plan["champion"])
            _write_ledger(work, "withdrawn", {"digest": digest, "back_to": plan["champion"]}, withdrawals)
            raise
        served_at = time.time()
        payload = {"digest": digest, "from": plan["champion"], "replicas": replicas}
        _write_ledger(work, "promoted", {**payload, "model_version": release["model_version"]})
        announce(
            "release.promoted", resources.model, work.cycle.id, {"digest": digest, "cycle_id": work.cycle.id}
        )
        return {"digest": digest, "replicas": replicas, "served_at": served_at}

    return work.cycle.stage("promote", {"digest": release["digest"], "from": plan["champion"]}, switch)


def model_folder(resources: Resources, training: Mapping[str, Any]) -> Any:
    """Where a training job left its model; jobs live under the home folder, which may move."""
    return resources.home / training["model_folder"]


def restore_route(resources: Resources, model: str, lease: Lease, attempt: str) -> str | None:
    """Point the route back at the champion if a promotion was left half done; the digest it went back to.

    None: it points there already, or the model never had a champion.
    """
    routes = resources.routes
    try:
        champion = resources.registry.current(model, "champion").digest
    except NotFound:
        return None
    record = routes.get(model)
    if record.control == champion:
        return None
    routes.switch(
        model,
        champion,
        expected=record.version,
        epoch=lease.token,
        attempt=attempt,
        now=time.time(),
        guard=lease.check,
    )
    return champion


def _require_champion(work: CycleWork, expected: tuple[str, str]) -> None:
    champion = work.resources.registry.current(work.resources.model, "champion").digest
    if champion not in expected:
        raise Conflict(
            f"The champion is {champion[:12]} now; this cycle compared with {expected[0][:12]}, so its evidence "
            "does not hold."
        )


def _route_to(work: CycleWork, digest: str, plan: Mapping[str, Any]) -> RouteRecord:
    routes, model = work.resources.routes, work.resources.model
    before = routes.get(model)
    if before.control == digest:
        return before
    if before.control != plan["champion"]:
        raise Conflict(
            f"The route of {model} went to {before.control[:12]} while this cycle compared with another champion; "
            "its evidence does not hold for that release."
        )
    return _switch(work, before, digest, f"{work.cycle.id}-{work.cycle.record.attempts}")


def _route_back(work: CycleWork, record: RouteRecord, champion: str) -> None:
    _switch(work, record, champion, f"{work.cycle.id}-{work.cycle.record.attempts}-back")


def _switch(work: CycleWork, before: RouteRecord, digest: str, attempt: str) -> RouteRecord:
    return work.resources.routes.switch(
        work.resources.model,
        digest,
        expected=before.version,
        epoch=work.cycle.token,
        attempt=attempt,
        now=time.time(),
        guard=work.cycle.check,
    )


def _wait_until_served(work: CycleWork, record: RouteRecord, digest: str) -> list[str]:
    serving = work.resources.config.serving
    served = wait_until_served(
        work.resources.routes,
        work.resources.model,
        record,
        digest,
        deadline_s=serving.ack_timeout_s,
        min_replicas=serving.min_replicas,
        clock=time.time,
        sleep=time.sleep,
    )
    return [replica.replica for replica in served]


def _name_challenger(work: CycleWork, digest: str, version: str) -> None:
    registry, model = work.resources.registry, work.resources.model
    try:
        before = registry.current(model, "challenger").digest
    except NotFound:
        before = None
    _move_alias(work, "challenger", before, digest, version)


def _crown(work: CycleWork, expected: str | None, release: Mapping[str, Any]) -> None:
    _move_alias(work, "champion", expected, release["digest"], release["model_version"])


def _move_alias(work: CycleWork, alias: str, expected: str | None, digest: str, version: str) -> None:
    work.resources.registry.move_alias(
        work.resources.model,
        alias,
        expected_digest=expected,
        new_digest=digest,
        new_version=version,
        now=time.time(),
        check=work.cycle.check,
    )


def _withdrawals(work: CycleWork) -> int:
    """How often this cycle's promotion was taken back: each new try is a decision of its own."""
    entries = work.resources.ledger.entries(work.resources.model)
    return sum(entry.kind == "withdrawn" and entry.payload["cycle"] == work.cycle.id for entry in entries)


def _write_ledger(work: CycleWork, kind: str, payload: Mapping[str, Any], number: int = 0) -> None:
    resources = work.resources
    key = f"{work.cycle.id}/{kind}/{number}"
    resources.ledger.append(resources.model, key, kind, {**payload, "cycle": work.cycle.id}, time.time())
