"""What `retrain collect` shows while it runs, and in the end."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

_LINE_EVERY_S = 10.0
_REASONS = 5


@dataclass
class Tally:
    """Frames of one run.

    Attributes:
        taken: by the arm that took them, the strategy or the audit.
        unusable: files that gave no frame, by reason; they were not offered.
        done_before: left out, because an earlier run offered them.
        outcomes: what became of those taken, (outcome, detail) -> frames; None if the store did not say.
        stopped: by Ctrl-C.
        expired: among those taken, older than retention keeps any.
    """

    offered: int = 0
    taken: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    unusable: Counter[str] = field(default_factory=Counter)
    first_unusable: str = ""
    done_before: int = 0
    outcomes: Counter[tuple[str, str]] | None = None
    stopped: bool = False
    expired: int = 0

    @property
    def seen(self) -> int:
        return self.offered + self.unusable.total() + self.done_before

    def unusable_because(self, name: str, reason: str) -> None:
        self.unusable[reason] += 1
        self.first_unusable = self.first_unusable or f"{name} {reason}"

    def by_outcome(self) -> Counter[str]:
        """Taken frames by outcome."""
        found: Counter[str] = Counter()
        for (outcome, _), frames in (self.outcomes or {}).items():
            found[outcome] += frames
        return found

    def rejections(self) -> Counter[str]:
        """Frames rejected at once and those rejected when they were read again, by reason."""
        later = {
            detail: frames
            for (outcome, detail), frames in (self.outcomes or {}).items()
            if outcome == "rejected"
        }
        return self.rejected + Counter(later)

    def line(self) -> str:
        parts = [f"{self.offered} offered", f"{self.taken.total()} taken"]
        if self.done_before:
            parts.append(f"{self.done_before} done before")
        if self.unusable:
            parts.append(f"{self.unusable.total()} unusable")
        return ", ".join(parts)


@contextmanager
def progress_display(
    console: Console, total: int | None, clock: Callable[[], float] = time.monotonic
) -> Iterator[Callable[[Tally], None]]:
    """A bar on a terminal; elsewhere a line now and then.

    Args:
        total: frames to come; None if nobody knows.
    """
    if not console.is_terminal:
        yield _lines(console, total, clock)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=total)
        yield lambda tally: bar.update(task, completed=tally.seen, description=tally.line())


def show_report(tally: Tally, place: Path, console: Console, max_age_days: float | None = None) -> None:
    """The final table, and what is to do next where something is.

    Args:
        max_age_days: that retention keeps samples.
    """
    table = Table("frames", "", "why", box=None, pad_edge=False)
    table.add_row("offered", str(tally.offered), "")
    for arm, frames in tally.taken.items():
        table.add_row("taken", str(frames), Text(arm))
    _reasons(table, "skipped", tally.skipped)
    _reasons(table, "rejected", tally.rejections())
    _reasons(table, "unusable", tally.unusable)
    if tally.done_before:
        table.add_row(
            "left out", str(tally.done_before), "offered by an earlier run; --again offers them again"
        )
    _store_rows(table, tally)
    console.print(table)
    if tally.expired:
        said = (
            f"{tally.expired} taken frames are older than data_collection.retention.max_age_days ({max_age_days:g}), "
            "by the time of their files: the next reconcile or `retrain collect retain` deletes them, and the same "
            "command leaves them out then. Set a higher age first, then offer them with --again."
        )
        console.print(Text(said, style="yellow"), soft_wrap=True)
    if tally.stopped:
        console.print("Stopped. The same command goes on from here.")
    if tally.outcomes is not None and (waiting := tally.taken.total() - tally.outcomes.total()) > 0:
        console.print(
            f"{waiting} taken frames are not stored yet: they wait in {place / 'spool'}, or in Redis where one is set. "
            "`retrain collect drain`, with the same --storage and --config, stores them.",
            soft_wrap=True,
        )


def _store_rows(table: Table, tally: Tally) -> None:
    if tally.outcomes is None:
        table.add_row("stored", "not known", "the store does not answer")
        return
    outcomes = tally.by_outcome()
    for outcome in ("duplicate", "near-duplicate"):
        if outcomes[outcome]:
            table.add_row(outcome, str(outcomes[outcome]), "their picture was stored already")
    table.add_row("stored", str(outcomes["stored"]), "")


def _reasons(table: Table, what: str, counts: Counter[str]) -> None:
    for reason, frames in counts.most_common(_REASONS):
        table.add_row(what, str(frames), Text(reason))
    if rest := counts.total() - sum(frames for _, frames in counts.most_common(_REASONS)):
        table.add_row(what, str(rest), "other reasons")


def _lines(console: Console, total: int | None, clock: Callable[[], float]) -> Callable[[Tally], None]:
    last = clock()

    def show(tally: Tally) -> None:
        nonlocal last
        if clock() - last >= _LINE_EVERY_S:
            last = clock()
            console.print(f"{tally.seen}{'' if total is None else f' of {total}'}: {tally.line()}")

    return show
