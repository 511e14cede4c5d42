"""How a replay of the gate looks in a terminal."""

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tasks.gate_replay import Replayed


def show_replayed(replayed: Iterable[Replayed], console: Console) -> None:
    """A line for each cycle: the verdict it recorded, the one of the policy, and the rule that decided."""
    table = Table("cycle", "verdict then", "verdict now", "decided by", box=None, pad_edge=False)
    cycles = changed = undecided = 0
    for one in replayed:
        cycles += 1
        now = "cannot be decided" if one.decision is None else one.decision.verdict
        changed += one.decision is not None and now != one.before
        undecided += one.decision is None
        table.add_row(*map(Text, (one.cycle_id, one.before or "none recorded", now, _reason(one))))
    if not cycles:
        console.print("No cycle stored evaluations of champion and challenger yet.")
        return
    console.print(table)
    rest = f", {undecided} cannot be decided" if undecided else ""
    console.print(f"{cycles} cycles, {changed} verdicts would be others{rest}; nothing was changed.")


def _reason(one: Replayed) -> str:
    if one.decision is None:
        return one.problem or ""
    rule = one.decision.decided_by
    # When all rules hold, the first stands for them.
    return "" if rule is None else f"{rule.rule}: {rule.said}"
