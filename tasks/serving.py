"""Publishes a release, points the route at it, and proves that the routers serve it."""

import time
from collections.abc import Mapping
from typing import Any

from prefect import get_run_logger, task

from retrain.errors import Conflict, NotFound, PostConditionFailed
from retrain.serving.release import Lineage
from retrain.serving.route import wait_until_served
from tasks.cycle import CycleWork
from tasks.events import announce
from tasks.resources import Resources
from tasks.retrying import RETRYING


@task(name="register release", timeout_seconds=1800, **RETRYING)
def register_release(
    work: CycleWork, training: Mapping[str, Any], version: Mapping[str, Any], parent: str | None
) -> Mapping[str, Any]:
    """Publish the trained model as a release and register it as the challenger."""

    def register() -> dict[str, Any]:
        resources = work.resources
        lineage = Lineage(version["name"], version["digest"], training["job_id"], parent, work.cycle.id)
        digest = resources.releases.publish(
            model_folder(resources, training), lineage, thresholds=resources.config.evaluation.confidence
        )
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
        _write_ledger(
            work,
            "decided",
            {"digest": digest, "from": plan["champion"], "evidence": dict(evidence)},
        )
        replicas = _route_to(work, digest, plan)
        _crown(work, expected=plan["champion"], release=release)
        payload = {
            "digest": digest,
            "from": plan["champion"],
            "model_version": release["model_version"],
            "replicas": replicas,
        }
        _write_ledger(work, "promoted", payload)
        announce(
            "release.promoted", resources.model, work.cycle.id, {"digest": digest, "cycle_id": work.cycle.id}
        )
        return {"digest": digest, "replicas": replicas, "served_at": time.time()}

    return work.cycle.stage("promote", {"digest": release["digest"], "from": plan["champion"]}, switch)


def model_folder(resources: Resources, training: Mapping[str, Any]) -> Any:
    """Where a training job left its model; jobs live under the home folder, which may move."""
    return resources.home / training["model_folder"]


def _route_to(work: CycleWork, digest: str, plan: Mapping[str, Any]) -> list[str]:
    resources, serving = work.resources, work.resources.config.serving
    routes, model = resources.routes, resources.model
    attempt = f"{work.cycle.id}-{work.cycle.record.attempts}"
    before = routes.get(model)
    if before.control == digest:
        record = before
    elif before.control != plan["champion"]:
        raise Conflict(
            f"The route of {model} went to {before.control[:12]} while this cycle compared with another champion; "
            "its evidence does not hold for that release."
        )
    else:
        record = routes.switch(
            model,
            digest,
            expected=before.version,
            epoch=work.cycle.token,
            attempt=attempt,
            now=time.time(),
            guard=work.cycle.check,
        )
    try:
        served = wait_until_served(
            routes,
            model,
            record,
            digest,
            deadline_s=serving.ack_timeout_s,
            min_replicas=serving.min_replicas,
            clock=time.time,
            sleep=time.sleep,
        )
    except PostConditionFailed:
        get_run_logger().error("routers did not follow; the route goes back to %s", plan["champion"])
        routes.switch(
            model,
            plan["champion"],
            expected=record.version,
            epoch=work.cycle.token,
            attempt=f"{attempt}-back",
            now=time.time(),
            guard=work.cycle.check,
        )
        _write_ledger(work, "withdrawn", {"digest": digest, "back_to": plan["champion"]})
        raise
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


def _write_ledger(work: CycleWork, kind: str, payload: Mapping[str, Any]) -> None:
    resources = work.resources
    key = f"{work.cycle.id}/{kind}"
    resources.ledger.append(resources.model, key, kind, {**payload, "cycle": work.cycle.id}, time.time())
