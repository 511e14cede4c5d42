"""Numbers in words and digits, the same on the page and in the terminal."""

import math
from datetime import UTC, datetime

from retrain.monitoring.report import Comparison, Interval, LoopReport, SliceScores

NOT_MEASURED = "not measured"
MINUS = "\u2212"
VERDICTS = {
    "better": "better",
    "worse": "worse",
    "inconclusive": "no proven difference",
    "invalid": "not comparable",
}


def score(value: float | None) -> str:
    """Three digits, or the words for None."""
    return NOT_MEASURED if value is None or not math.isfinite(value) else f"{value:.3f}"


def signed(value: float | None) -> str:
    """With its sign and a true minus."""
    if value is None or not math.isfinite(value):
        return NOT_MEASURED
    return "±0.000" if abs(value) < 0.0005 else f"{value:+.3f}".replace("-", MINUS)


def interval(value: Interval | None) -> str:
    """E.g. "+0.321 (95 % interval +0.280 to +0.360)"."""
    if value is None:
        return NOT_MEASURED
    return f"{signed(value.value)} ({value.level * 100:g} % interval {bounds(value)})"


def bounds(value: Interval) -> str:
    return f"{signed(value.low)} to {signed(value.high)}"


def verdict(comparison: Comparison) -> str:
    return NOT_MEASURED if comparison.verdict is None else VERDICTS[comparison.verdict]


def count(value: int | None) -> str:
    """With thin spaces between thousands."""
    return NOT_MEASURED if value is None else f"{value:,}".replace(",", "\u202f")


def duration(seconds: float | None) -> str:
    """As a person says it: 0.4 s, 42 s, 3 min 12 s, 1 h 04 min."""
    if seconds is None or not math.isfinite(seconds):
        return NOT_MEASURED
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def size(value: int | None) -> str:
    """Bytes in decimal units."""
    if value is None:
        return NOT_MEASURED
    return f"{value / 1e9:.1f} GB" if value >= 1e9 else f"{value / 1e6:.0f} MB"


def moment(at: float | None) -> str:
    return NOT_MEASURED if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def clock(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%H:%M:%S")


def title(report: LoopReport) -> str:
    """The outcome in one line."""
    if report.outcome == "promoted" and report.after is not None:
        return f"{report.after.label} replaced {report.before.label}"
    return f"{report.before.label} stays"


def change(scores: SliceScores) -> str:
    """One held-out set's mAP50, as a sentence; its verb follows the verdict, not the point estimate."""
    compared = scores.map50
    if compared.before is None or compared.after is None:
        known = compared.before if compared.after is None else compared.after
        return f"On {scores.title}, the change in mAP50 was not measured (known: {score(known)})."
    verb = {"better": "rose", "worse": "fell"}.get(compared.verdict or "", "went")
    tail = "" if compared.verdict in {"better", "worse"} else f": {verdict(compared)}"
    return f"On {scores.title}, mAP50 {verb} from {score(compared.before)} to {score(compared.after)}{tail}."


def proofs(report: LoopReport) -> str:
    """How many stages read their effect back, in words."""
    total, proven = len(report.stages), sum(stage.proof is not None for stage in report.stages)
    if not total:
        return "No stages were recorded."
    if proven == total:
        return f"All {total} stages read their effect back."
    return f"{total - proven} of {total} stages did not read their effect back."
