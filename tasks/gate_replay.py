"""Decides past cycles again under another policy, from the evaluations they stored; nothing is changed by it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from retrain.cycle import list_cycles, read_cycle, stage_records
from retrain.errors import NotFound, RetrainError
from retrain.evaluation.gate import GateDecision, decide
from retrain.evaluation.policy import GatePolicy
from tasks.evaluation_data import has_evaluations
from tasks.gate_evidence import EvaluatedCycle
from tasks.resources import Resources


@dataclass(frozen=True)
class Replayed:
    """One cycle under another policy.

    Attributes:
        before: verdict that the cycle recorded; None when it did not get so far.
        decision: None when there is a problem.
        problem: why it cannot be decided again, such as a dataset version that is gone.
    """

    cycle_id: str
    before: str | None
    decision: GateDecision | None
    problem: str | None = None


def replay_gate(
    resources: Resources, policy: GatePolicy, cycle_ids: Sequence[str] = ()
) -> Iterator[Replayed]:
    """Each of these cycles, or all of the model that stored evaluations, oldest first.

    Raises:
        NotFound: no such cycle, or one that is named stored no evaluations.
    """
    for cycle_id in cycle_ids:
        read_cycle(resources.state, cycle_id)
        if not has_evaluations(resources, cycle_id):
            raise NotFound(
                f"{cycle_id} stored no evaluations of champion and challenger; it did not get so far."
            )
    stored = [one.id for one in list_cycles(resources.state, resources.model)]
    for cycle_id in cycle_ids or [one for one in stored if has_evaluations(resources, one)]:
        outputs = {record.stage: record.output for record in stage_records(resources.state, cycle_id)}
        before = outputs["gate"]["verdict"] if "gate" in outputs else None
        try:
            if missing := [stage for stage in ("plan", "version") if stage not in outputs]:
                raise NotFound(f"its records of {' and '.join(missing)} are missing.")
            version, known = outputs["version"]["name"], outputs["plan"]["known_version"]
            cycle = EvaluatedCycle(resources, cycle_id, version, known, outputs.get("evaluate", {}))
            yield Replayed(cycle_id, before, decide(cycle.gathered(policy), policy))
        except RetrainError as error:
            yield Replayed(cycle_id, before, None, str(error))
