"""The last thing `retrain demo` prints: the report's numbers as a table."""

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from retrain.monitoring import wording
from retrain.monitoring.report import Comparison, Interval, LoopReport

_STYLES = {"better": "green", "worse": "red", "inconclusive": "yellow", "invalid": "red"}


def terminal_summary(report: LoopReport) -> RenderableType:
    """The outcome, the scores and the facts, for rich's console."""
    style = "green" if report.outcome == "promoted" else "yellow"
    head = Text.assemble((f"{report.model}: {wording.title(report)}", f"bold {style}"), "\n", report.reason)
    return Group(Panel(head, border_style=style, expand=False), _scores(report), "", _facts(report))


def _scores(report: LoopReport) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 1, 0, 0))
    table.add_column("held-out set", no_wrap=True)
    table.add_column("metric", no_wrap=True)
    for label in (report.before.label, "challenger" if report.after is None else report.after.label):
        table.add_column(Text(label), justify="right")
    table.add_column(r"difference \[interval]", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for scores in report.scores:
        _score_row(table, f"{scores.title}, n={wording.count(scores.images)}", "mAP50", scores.map50)
        _score_row(table, "", "mAP50-95", scores.map50_95)
    return table


def _score_row(table: Table, first: str, metric: str, compared: Comparison) -> None:
    table.add_row(
        Text(first),
        metric,
        wording.score(compared.before),
        wording.score(compared.after),
        _interval(compared.difference),
        Text(compared.verdict or wording.NOT_MEASURED, style=_STYLES.get(compared.verdict or "", "dim")),
    )


def _interval(difference: Interval | None) -> Text:
    """Short enough for eighty columns; the page says the level."""
    if difference is None:
        return Text(wording.NOT_MEASURED)
    return Text(f"{difference.value:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]")


def _facts(report: LoopReport) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column()
    labels = report.labels
    labelled = (
        wording.NOT_MEASURED
        if labels is None
        else f"{wording.count(labels.total.labelled)} images, {wording.count(labels.total.human)} by hand"
    )
    ledger = wording.NOT_MEASURED
    if report.ledger is not None:
        ledger = f"{len(report.ledger.entries)} entries, {report.ledger.check or 'chain not checked'}"
    last = report.reaction[-1].title if report.reaction else "new model"
    facts = {
        "labelled": labelled,
        f"threshold crossed to {last}": wording.duration(report.reaction_s),
        "serving now": report.serving_digest or wording.NOT_MEASURED,
        "ledger": ledger,
        "stages": wording.proofs(report),
        "whole run": wording.duration(report.finished_at - report.started_at),
    }
    for name, value in facts.items():
        table.add_row(Text(name), Text(value))
    return table
