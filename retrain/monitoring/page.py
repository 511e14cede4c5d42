"""The loop report as one HTML page that needs nothing but itself: no network, no script, no other file."""

import functools
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import jinja2
from markupsafe import Markup

from retrain.boxes import Detections
from retrain.errors import PostConditionFailed
from retrain.monitoring import figures, frames, wording
from retrain.monitoring.report import Count, FramePair, Interval, LabelCounts, LoopReport, Stage
from retrain.pages.environment import page_environment
from retrain.storage.blobs import BlobStore

TEMPLATES = Path(__file__).parent / "templates"


def render_html(report: LoopReport) -> str:
    """The whole page as text; everything that came from outside is escaped."""
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            report=report, before=report.before.label, after=_after(report), figures=figures, wording=wording
        )
    )


def publish(report: LoopReport, blobs: BlobStore, name: str) -> None:
    """Store `<name>.json` (to draw the page again) and then `<name>.html`.

    Raises:
        PostConditionFailed: what is stored is not what was written.
    """
    for key, text in ((f"{name}.json", report.to_json()), (f"{name}.html", render_html(report))):
        blobs.put(key, text.encode())
        if blobs.get(key) != text.encode():
            raise PostConditionFailed(f"The report was written to {key}, but other bytes were read back.")


@functools.cache
def _environment() -> jinja2.Environment:
    environment = page_environment(TEMPLATES)
    environment.filters |= {
        "score": wording.score,
        "signed": wording.signed,
        "count": wording.count,
        "duration": unbroken,
        "size": wording.size,
        "moment": wording.moment,
        "clock": wording.clock,
        "short": short,
        "code": code,
        "uri": frames.data_uri,
    }
    environment.globals |= {
        "panels": panels,
        "forest": forest,
        "shares": shares,
        "bar": bar,
        "added": added,
        "is_address": is_address,
    }
    return environment


@dataclass(frozen=True)
class Panel:
    label: str
    which: str
    svg: Markup
    counts: str


@dataclass(frozen=True)
class Seen:
    """What one model (`before` or `after`) detected, as far as it is drawn."""

    which: str
    label: str
    detections: Detections


def panels(report: LoopReport, pair: FramePair, number: int) -> list[Panel]:
    """The frame as the old and as the new model saw it."""
    seen = (("before", report.before.label, pair.before), ("after", _after(report), pair.after))
    return [
        _panel(report, pair, f"frame-{number}", Seen(which, label, detections.above(report.drawn_confidence)))
        for which, label, detections in seen
    ]


def _panel(report: LoopReport, pair: FramePair, name: str, seen: Seen) -> Panel:
    counts = str(frames.judge(pair.truth, seen.detections))
    svg = frames.overlay(
        pair.picture,
        pair.truth,
        seen.detections,
        report.classes,
        name=name,
        draws_image=seen.which == "before",
        said=f"{pair.camera}, {pair.caption}, as {seen.label} saw it: {counts}",
    )
    return Panel(seen.label, seen.which, svg, counts)


def forest(interval: Interval, reach: float) -> Markup:
    """The interval as a bar on an axis from -reach to +reach with zero in the middle."""

    def at(value: float) -> float:
        return 50 + 50 * max(-1.0, min(1.0, value / (reach or 1.0)))

    sign = "good" if interval.low > 0 else "bad" if interval.high < 0 else "plain"
    return Markup(
        '<svg class="forest {}" viewBox="0 0 100 12" role="img" aria-label="{}">'
        '<line class="zero" x1="50" x2="50" y1="0" y2="12"/>'
        '<line class="span" x1="{:.1f}" x2="{:.1f}" y1="6" y2="6"/><circle cx="{:.1f}" cy="6" r="2.6"/></svg>'
    ).format(sign, wording.interval(interval), at(interval.low), at(interval.high), at(interval.value))


def shares(counts: LabelCounts) -> list[tuple[str, str, int, float]]:
    """(style, words, samples, percent) of each way a sample can go, empty ones left out."""
    ways = (
        ("auto", "auto-labelled", counts.auto),
        ("human", "reviewed by hand", counts.human),
        ("out", "left out", counts.left_out),
        ("wait", "not in this cycle", counts.waiting),
    )
    return [(style, words, n, 100 * n / counts.collected) for style, words, n in ways if n]


def bar(report: LoopReport, stage: Stage) -> tuple[float, float]:
    """Where the stage's bar begins and how long it is, in percent of the whole."""
    whole = (report.finished_at - report.started_at) or 1.0
    return 100 * (stage.started_at - report.started_at) / whole, 100 * stage.seconds / whole


def added(count: Count) -> str:
    """The change of a count, in words when there is none."""
    change = count.after - count.before
    return "unchanged" if change == 0 else f"{change:+d}".replace("-", wording.MINUS)


def short(digest: str | None) -> str:
    """Enough of a digest to recognise it."""
    return wording.NOT_MEASURED if digest is None else digest[:12]


def unbroken(seconds: float | None) -> str:
    """A duration that no line break splits."""
    return wording.duration(seconds).replace(" ", "\u00a0")


def code(text: str) -> Markup:
    """Text with what stands between backticks set as code."""
    parts = enumerate(text.split("`"))
    return Markup().join(Markup("<code>{}</code>").format(part) if n % 2 else part for n, part in parts)


def is_address(target: str) -> bool:
    """Whether a target may become a link; all else (a path, a command, `javascript:`) is shown as text."""
    return urlsplit(target).scheme in {"http", "https", "file"}


def _after(report: LoopReport) -> str:
    return "no challenger" if report.after is None else report.after.label
