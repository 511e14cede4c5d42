"""The main job: a detector gets worse in (simulated) production, and Retrain makes it good again, for real."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prefect import flow

from flows.demo_progress import DemoProgress
from flows.first_champion import first_champion_flow
from flows.watch import watch_flow
from retrain.config import RetrainConfig
from retrain.cycle import STAGES
from retrain.data_collection.triggers.crossings import Crossing, unhandled, waiting_count
from retrain.errors import PostConditionFailed
from tasks.cycle_watch import CycleWatch, FlowRunFacts
from tasks.demo_report import DemoFacts, write_report
from tasks.production import Production
from tasks.proofs import Proof, prove_cycle
from tasks.resources import Resources, build_resources
from tasks.simulation import make_first_version, score_heldout

_ROUNDS_AFTER_SWITCH = 40
_SECONDS_PER_ROUND = 2.0
"""While the cycle trains, traffic goes on at this pace: it shares two cores with the training."""


@dataclass(frozen=True)
class DemoResult:
    """What the command prints and exits by."""

    report_json: str
    report_html: str
    failures: tuple[str, ...]


@flow(
    name="demo",
    flow_run_name="demo with seed {config.simulation.seed}",
    description="Drift hurts a detector; samples are collected; an automation retrains, proves and promotes it.",
    persist_result=False,
    validate_parameters=False,
)
def demo_flow(config: RetrainConfig, progress: DemoProgress) -> DemoResult:
    """Run the loop once, from no model to a proven better one."""
    resources = build_resources(config)
    started = time.time()
    with progress.step("make dataset v1.0.0") as step:
        version = make_first_version(resources)
        step.proof = (
            f"read back: tag {version['name']}, {version['images']} images, digest {version['digest'][:12]}"
        )
    first = _first_champion(config, resources, version, progress)
    with Production(resources) as production:
        crossing = _serve_until_crossing(resources, production, progress)
        with production.keep_serving(_SECONDS_PER_ROUND):
            watch = CycleWatch(resources, crossing)
            run = _wait_for_run(watch, progress)
            _wait_for_cycle(watch, progress)
        with progress.step("serve with the new release") as step:
            for _ in range(_ROUNDS_AFTER_SWITCH):
                production.serve_round(collect=False)
            step.proof = f"router serves {production.router.served_digest[:12]}"
        serving = production.router.served_digest
    before, after = first["release"]["digest"], watch.outcome.get("release", {}).get("digest")
    scores = {}
    if after is not None:
        with progress.step("score on held-out truth") as step:
            scores = score_heldout(resources, before, after)
            drifted = scores["drifted"]["map50"]
            step.proof = f"drifted mAP50 {drifted.champion:.3f} → {drifted.challenger:.3f}"
    with progress.step("read every stage's effect back again") as step:
        proofs = {proof.stage: proof for proof in prove_cycle(resources, watch.cycle_id)}
        of_first = prove_cycle(resources, CycleWatch.of_first(resources).cycle_id)
        broken = [proof for proof in (*of_first, *proofs.values()) if not proof.holds]
        step.proof = None if broken else f"{len(of_first)} + {len(proofs)} stages of both cycles hold"
    facts = DemoFacts(
        started, first, crossing, run, watch, production.observations, scores, serving, progress.steps, proofs
    )
    paths = write_report(resources, facts)
    return DemoResult(*paths, failures=tuple(_failures(facts, broken)))


def _first_champion(
    config: RetrainConfig, resources: Resources, version: Mapping[str, Any], progress: DemoProgress
) -> Mapping[str, Any]:
    with progress.step("train the first champion") as step:
        with CycleWatch.of_first(resources).showing(step.update):
            first = first_champion_flow(version["name"], config)
        step.proof = f"release {first['release']['digest'][:12]} is champion and routed"
    return first


def _serve_until_crossing(resources: Resources, production: Production, progress: DemoProgress) -> Crossing:
    threshold = resources.config.data_collection.retrain_threshold
    with progress.step("serve traffic, collect unsure frames") as step:
        while production.frames_per_camera < resources.config.simulation.max_frames:
            production.serve_round()
            waiting = waiting_count(resources.state, resources.model)
            step.update(
                f"{production.frames_per_camera} frames per camera, {waiting}/{threshold} kept",
                waiting,
                threshold,
            )
            if waiting >= threshold:
                # The scheduled watch on the worker may have been first; either way one crossing is recorded.
                watch_flow(resources.config)
                crossing = unhandled(resources.state, resources.model, time.time())[0]
                step.proof = f"{waiting} samples stored; crossing {crossing.id} recorded and announced"
                return crossing
    raise PostConditionFailed(
        f"{production.frames_per_camera} frames per camera gave {waiting} samples, not {threshold}: the drift did "
        "not make the model unsure. Lower data_collection.retrain_threshold or raise simulation.max_frames."
    )


def _wait_for_run(watch: CycleWatch, progress: DemoProgress) -> FlowRunFacts:
    with progress.step("event → automation → flow run") as step:
        run = watch.wait_for_run(timeout_s=120)
        step.proof = f"flow run {run.name!r} was created by automation {run.created_by!r}"
    return run


def _wait_for_cycle(watch: CycleWatch, progress: DemoProgress) -> None:
    with progress.step("retraining cycle on the worker") as step:
        watch.wait_until_finished(step.update, timeout_s=1800)
        step.proof = f"cycle {watch.cycle_id} finished as {watch.status}"


def _failures(facts: DemoFacts, broken: Sequence[Proof]) -> list[str]:
    """Why this demo must not be called a success; empty when it may."""
    failures = [f"stage {proof.stage!r} does not hold: {proof.said}" for proof in broken]
    failures += [f"step {stage.name!r} proved nothing" for stage in facts.all_stages() if not stage.proof]
    if facts.run.created_by_type != "AUTOMATION":
        failures.append(f"the flow run was created by {facts.run.created_by_type}, not by the automation")
    if facts.watch.status != "promoted":
        failures.append(f"the cycle ended as {facts.watch.status}: {'; '.join(facts.gate_reasons())}")
        return failures
    stages = {record.stage: record.output for record in facts.watch.stages()}
    if missing := [name for name in STAGES if name not in stages]:
        failures.append(f"the cycle skipped {', '.join(missing)}")
    elif not stages["promote"]["replicas"]:
        failures.append("no router acknowledged the new release")
    elif stages["annotate"]["left_out"]:
        failures.append(f"{len(stages['annotate']['left_out'])} samples were left out of the labels")
    elif stages["report"]["problem"]:
        failures.append(f"the page of the evaluation could not be drawn: {stages['report']['problem']}")
    if facts.after is None or facts.serving != facts.after:
        failures.append(f"the router serves {facts.serving[:12]}, not the promoted {facts.after}")
    drifted = facts.scores["drifted"]["map50"]
    if drifted.verdict != "better":
        failures.append(f"the challenger is not better on the drifted slice: {drifted.reason}")
    if not facts.ledger_verified():
        failures.append("the ledger's hash chain is broken")
    return failures
