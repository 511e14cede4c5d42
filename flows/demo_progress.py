"""What a person sees while the demo runs: one line per step with its time and what was read back."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from retrain.monitoring.report import Stage


@dataclass
class Step:
    """A running step; say what is going on with `update`, and what was read back with `proof`."""

    name: str
    proof: str | None = None
    _show: Progress | None = None
    _row: int | None = None
    _printed: str = ""

    def update(self, text: str, done: float | None = None, total: float | None = None) -> None:
        """Show how far it is; off a terminal, print a line per change, but of a long count only every tenth."""
        if self._show is None:
            tenth = text if done is None or not total else str(int(10 * done / total))
            if tenth != self._printed:
                print(f"    {text}", flush=True)
                self._printed = tenth
        else:
            self._show.update(self._row, detail=text, completed=done, total=total)  # type: ignore[arg-type]


@dataclass
class DemoProgress:
    """Live progress; `steps` is the record the report shows."""

    console: Console = field(default_factory=Console)
    steps: list[Stage] = field(default_factory=list)

    @contextmanager
    def step(self, name: str) -> Iterator[Step]:
        """Run the block as one step; it is recorded only if it ends without an error."""
        started = time.time()
        if self.console.is_terminal:
            columns = (
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(bar_width=20),
                TimeElapsedColumn(),
                TextColumn("[dim]{task.fields[detail]}"),
            )
            with Progress(*columns, console=self.console, transient=True) as show:
                step = Step(name, _show=show, _row=show.add_task(name, total=None, detail=""))
                yield step
        else:
            print(f"  … {name}", flush=True)
            step = Step(name)
            yield step
        finished = time.time()
        self.steps.append(Stage(name, "demo", started, finished, step.proof))
        proof = f"  [dim]{step.proof}[/dim]" if step.proof else ""
        self.console.print(
            f"[green]✓[/green] {name:<34} {finished - started:6.1f} s{proof}", highlight=False, soft_wrap=True
        )
