"""One pass of the loop: from waiting samples to a proven better model in production."""

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Cancelled

from retrain.config import RetrainConfig
from retrain.cycle import CycleRecord, read_cycle
from retrain.errors import Active
from tasks.annotation import annotate
from tasks.cycle import CycleWork, cycle_work, finish_cycle
from tasks.data_collection import resolve_trigger, select_batch
from tasks.dataset import build_version, lay_out, plan_cycle
from tasks.evaluation import evaluate_models, gate
from tasks.evaluation_report import report_evaluation
from tasks.gate_rules import own_policy
from tasks.resources import build_resources
from tasks.serving import promote, register_release
from tasks.thresholds import fit_serving_thresholds
from tasks.training import train


def _run_name() -> str:
    return f"retrain after {flow_run.parameters.get('trigger_id') or 'a manual start'}"


@flow(
    name="continuous-retraining",
    flow_run_name=_run_name,
    description="One pass of the loop: select, annotate, version, train, evaluate, gate, report, register, promote.",
    # No flow retries: Prefect would hold the run's slot while it waits; reconcile starts an unfinished cycle again.
    timeout_seconds=8 * 24 * 3600,
    persist_result=False,
)
def continuous_retraining_flow(
    trigger_id: str | None = None, config: RetrainConfig | None = None
) -> CycleRecord | State[Any]:
    """Run, or continue, the cycle that answers a trigger.

    Args:
        trigger_id: the crossing to answer; without one, the oldest unanswered, or else a start by hand.
        config: unset, the configuration of the process that runs the flow.
    """
    resources = build_resources(config)
    # What is wrong with the gate's rules is told before there is a cycle.
    own_policy(resources.config)
    trigger = resolve_trigger(resources, trigger_id, str(flow_run.id))
    try:
        with cycle_work(resources, trigger) as work:
            if work.cycle.record.status == "running":
                run_cycle(work)
            return read_cycle(resources.state, work.cycle.id)
    except Active as error:
        return Cancelled(name="CycleActive", message=str(error))


def run_cycle(work: CycleWork) -> None:
    """The stages in order; each returns at once if it is already proven done."""
    plan = plan_cycle(work)
    if not select_batch(work)["sample_ids"]:
        finish_cycle(work, "nothing_to_do", {"reason": "no sample waited"})
        return
    labels = annotate(work, plan["champion"])
    version = build_version(work, plan)
    folders = lay_out(work, version, plan["known_version"])
    training = train(work, version, folders, plan["champion"])
    confidence = fit_serving_thresholds(work, version, training)
    comparisons = evaluate_models(work, plan, version, training, confidence)
    decision = gate(work, plan, version, comparisons)
    report_evaluation(work, plan, version, training, decision)
    counts = {name: len(labels[name]) for name in ("auto", "human", "left_out")}
    outcome = {"version": version["name"], "labels": counts, "gate": decision}
    if not decision["passed"]:
        finish_cycle(work, "kept_champion", outcome)
        return
    release = register_release(work, training, version, plan["champion"], confidence)
    served = promote(work, plan, release, decision)
    finish_cycle(work, "promoted", {**outcome, "release": release, "served": served})
