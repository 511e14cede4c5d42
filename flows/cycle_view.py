"""How retraining cycles look in a terminal."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows.dataset_view import table_of, utc
from retrain.cycle import CycleRecord, read_cycle, stage_records
from retrain.evaluation.gate import GateDecision
from retrain.evaluation.result import shown
from retrain.storage.state import StateStore
from tasks.proofs import Proof

_OF_DECISION = {"verdict", "passed", "reasons", "rules"}


def cycle_line(cycle: CycleRecord) -> str:
    """How it ended: its status, and what the gate found or why there was nothing to do."""
    outcome = cycle.outcome or {}
    why = outcome["gate"]["verdict"] if "gate" in outcome else outcome.get("reason")
    return f"{cycle.id}: {cycle.status}" + (f" ({why})" if why else "")


def cycles_table(cycles: Iterable[CycleRecord]) -> Table:
    """One line for each cycle."""
    return table_of(
        ("cycle", "model", "status", "attempts", "started (UTC)"),
        [(one.id, one.model, one.status, str(one.attempts), utc(one.created_at)) for one in cycles],
    )


def proofs_table(proofs: Iterable[Proof]) -> Table:
    """What was found of each stage."""
    return table_of(
        ("stage", "", "found"),
        [
            (proof.stage, Text("holds") if proof.holds else Text("broken", style="red"), proof.said)
            for proof in proofs
        ],
    )


def show_cycle(state: StateStore, cycle_id: str, console: Console) -> None:
    """Its stages, which older images it trained on again, why it has no page, and its outcome.

    Raises:
        NotFound: there is no such cycle.
    """
    cycle, records = read_cycle(state, cycle_id), stage_records(state, cycle_id)
    stages = [
        (record.stage, utc(record.finished_at), f"{record.finished_at - record.started_at:.1f}")
        for record in records
    ]
    attempts = "1 attempt" if cycle.attempts == 1 else f"{cycle.attempts} attempts"
    console.print(Text(f"{cycle.id}: {cycle.status}, {attempts}"))
    console.print(table_of(("stage", "finished (UTC)", "seconds"), stages))
    for record in records:
        if record.stage == "layout" and record.output.get("replay", {}).get("rows"):
            console.print(replay_table(record.output["replay"]))
        if record.stage == "thresholds":
            console.print(_thresholds(record.output), markup=False)
        if record.stage == "report" and record.output["problem"] is not None:
            problem = f"the page could not be drawn: {record.output['problem']}"
            console.print(Text(problem, style="yellow"))
    _show_outcome(cycle.outcome or {}, console)


def _show_outcome(outcome: Mapping[str, Any], console: Console) -> None:
    """The decision first, then whatever else is recorded, a line for each."""
    rest = dict(outcome)
    if (gate := rest.pop("gate", None)) is not None:
        _show_decision(GateDecision.from_json(gate), console)
        rest |= {f"gate {name}": value for name, value in gate.items() if name not in _OF_DECISION}
    for name, value in rest.items():
        console.print(Text(f"{name.replace('_', ' ')}: {_said(name, value)}"))


def _show_decision(decision: GateDecision, console: Console) -> None:
    passed = "the challenger passed" if decision.passed else "the challenger did not pass"
    console.print(Text(f"gate: {decision.verdict}, {passed}"))
    for reason in decision.reasons:
        console.print(Text(f"  {reason}"))
    if decision.rules:
        numbers = ("value", "low", "high", "limit")
        rows = [
            (one.rule, one.verdict, *(shown(getattr(one, name)) for name in numbers))
            for one in decision.rules
        ]
        console.print(table_of(("rule", "verdict", *numbers), rows, numbers=numbers))


def _said(name: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, float) and name.endswith("_at"):
        return f"{utc(value)} UTC"
    if isinstance(value, Mapping) and all(map(_is_flat, value.values())):
        return ", ".join(f"{key.replace('_', ' ')} {_said(key, part)}" for key, part in value.items())
    return json.dumps(value, ensure_ascii=False)


def _is_flat(value: Any) -> bool:
    parts = value if isinstance(value, list) else [value]
    return not any(isinstance(part, Mapping | list) for part in parts)


def _thresholds(fitted: Mapping[str, Any]) -> str:
    each = ", ".join(f"{name} {score:.3g}" for name, score in fitted["confidences"].items())
    own = ", ".join(fitted["own"]) or "none"
    on = f"{fitted['rule']} on {fitted['images']} images of val"
    return f"served from {each} ({on}; fitted to their own objects: {own})"


def replay_table(replay: Mapping[str, Any]) -> Table:
    """Of each class at each camera, how many older images there are and how many are trained on again.

    Args:
        replay: `columns` and `rows`, as the stage `layout` records them.
    """
    rows = [["-" if cell is None else str(cell) for cell in row] for row in replay["rows"]]
    return table_of(replay["columns"], rows)
