"""How one retraining cycle looks in a terminal."""

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.pretty import Pretty
from rich.table import Table
from rich.text import Text

from retrain.cycle import read_cycle, stage_records
from retrain.storage.state import StateStore


def show_cycle(state: StateStore, cycle_id: str, console: Console) -> None:
    """Its stages, which older images it trained on again, why it has no page, and its outcome.

    Raises:
        NotFound: there is no such cycle.
    """
    cycle, records = read_cycle(state, cycle_id), stage_records(state, cycle_id)
    table = Table("stage", "finished (UTC)", "seconds", box=None, pad_edge=False)
    for record in records:
        finished = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(record.finished_at))
        table.add_row(record.stage, finished, f"{record.finished_at - record.started_at:.1f}")
    console.print(f"{cycle.id}: {cycle.status}, {cycle.attempts} attempts")
    console.print(table)
    for record in records:
        if record.stage == "layout" and record.output.get("replay", {}).get("rows"):
            console.print(replay_table(record.output["replay"]))
        if record.stage == "thresholds":
            console.print(_thresholds(record.output), markup=False)
        if record.stage == "report" and record.output["problem"] is not None:
            problem = f"the page could not be drawn: {record.output['problem']}"
            console.print(Text(problem, style="yellow"))
    console.print(Pretty(cycle.outcome))


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
    table = Table(*replay["columns"], box=None, pad_edge=False)
    for row in replay["rows"]:
        table.add_row(*(Text("-" if cell is None else str(cell)) for cell in row))
    return table
