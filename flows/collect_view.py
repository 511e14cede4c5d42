"""The collection snapshot as tables for a terminal."""

from collections.abc import Mapping

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from retrain.data_collection.statistics.snapshot import CollectionSnapshot, Flow

UNKNOWN = "not known"
_REASONS = 4
_BARS = " ▁▂▃▄▅▆▇█"


def snapshot_view(snapshot: CollectionSnapshot) -> RenderableType:
    """Everything in the snapshot, for people."""
    summary = _table("data collection", "", "")
    _frames(summary, snapshot)
    _queue_and_store(summary, snapshot)
    parts: list[RenderableType] = [summary]
    if snapshot.cameras:
        parts.append(_cameras(snapshot.cameras))
    if snapshot.draws:
        parts.append(_strategies(snapshot))
    if snapshot.class_ratios:
        parts.append(_classes(snapshot))
    if snapshot.rejections:
        parts.append(_rejections(snapshot))
    return Group(*(part for one in parts for part in ("", one)))


def _frames(table: Table, snapshot: CollectionSnapshot) -> None:
    flow = snapshot.flow
    table.add_row("counts published", _ago(snapshot.at, snapshot.published_at), _producers(snapshot))
    for producer in snapshot.producers:
        for what, one in producer.standstills.items() if producer.life == "live" else ():
            said = Text(f"process {producer.name}: {one.why}", style="red")
            table.add_row(f"{what} stands still", _ago(snapshot.at, one.since), said)
    for name in snapshot.damaged:
        table.add_row("damaged", Text(name), "its frames are missing here; delete the file")
    if flow is None:
        table.add_row("frames offered", UNKNOWN, "nobody has published counts in this spool")
        return
    table.add_row("frames offered", f"{flow.offered:,}", _rate(snapshot.offered_per_s))
    table.add_row("taken", f"{flow.taken:,}", f"{_percent(flow.accept_ratio)}, {_rate(snapshot.taken_per_s)}")
    _reasons(table, "skipped", flow.skipped)
    table.add_row("rejected at once", f"{flow.rejected:,}", "")
    _reasons(table, "dropped", flow.dropped)
    if flow.evicted:
        table.add_row("evicted", f"{flow.evicted:,}", "taken, then dropped from a full spool")
    table.add_row("confidence 0 to 1", Text(_histogram(snapshot.histogram or ())), "")
    table.add_row("no boxes", _number(snapshot.without_confidence), "frames in which the model saw nothing")


def _queue_and_store(table: Table, snapshot: CollectionSnapshot) -> None:
    queue, held, outcomes = snapshot.queue, snapshot.stored, snapshot.outcomes()
    if queue is None:
        table.add_row("in the spool", UNKNOWN, "there is no spool yet")
    else:
        waits = (
            "" if snapshot.oldest_wait_s is None else f", waiting {_duration(snapshot.oldest_wait_s)} at most"
        )
        table.add_row("in the spool", f"{queue.records:,}", f"{_size(queue.bytes)} on disk{waits}")
    for outcome, frames in sorted(outcomes.items()):
        if outcome != "stored":
            table.add_row(outcome, f"{frames:,}", "")
    table.add_row("samples stored", f"{held.samples:,}", f"{_size(held.bytes_per_sample)} each")
    table.add_row("the model saw nothing", _percent(held.zero_detection_share), "of the stored samples")


def _cameras(cameras: Mapping[str, Flow]) -> Table:
    table = _table("camera", "offered", "taken", "accepted")
    for camera, flow in sorted(cameras.items()):
        table.add_row(Text(camera), f"{flow.offered:,}", f"{flow.taken:,}", _percent(flow.accept_ratio))
    return table


def _strategies(snapshot: CollectionSnapshot) -> Table:
    table = _table("strategy", "taken", "stored", "accepts (estimate)")
    for strategy, outcomes in sorted(snapshot.draws.items()):
        ratio = _percent(snapshot.strategy_ratios.get(strategy))
        table.add_row(Text(strategy), f"{sum(outcomes.values()):,}", f"{outcomes.get('stored', 0):,}", ratio)
    return table


def _classes(snapshot: CollectionSnapshot) -> Table:
    table = _table("class", "stored lately", "accepted (estimate)")
    for name, ratio in sorted(snapshot.class_ratios.items()):
        table.add_row(Text(name), f"{snapshot.classes.get(name, 0):,}", _percent(ratio))
    return table


def _rejections(snapshot: CollectionSnapshot) -> Table:
    table = _table("rejected", "camera", "why")
    for one in snapshot.rejections:
        table.add_row(_ago(snapshot.at, one.at), Text(one.camera), Text(one.detail))
    return table


def _producers(snapshot: CollectionSnapshot) -> str:
    by_life = [
        (life, sum(one.life == life for one in snapshot.producers)) for life in ("live", "stale", "ended")
    ]
    said = ", ".join(f"{count} {life}" for life, count in by_life if count)
    stale = [one.name for one in snapshot.producers if one.life == "stale"]
    return f"processes: {said}" * bool(said) + (f" (silent: {', '.join(stale[:3])})" if stale else "")


def _table(*columns: str) -> Table:
    return Table(*columns, box=None, pad_edge=False)


def _reasons(table: Table, what: str, counts: Mapping[str, int]) -> None:
    most = sorted(counts.items(), key=lambda one: -one[1])
    said = ", ".join(f"{reason}: {frames:,}" for reason, frames in most[:_REASONS])
    table.add_row(what, f"{sum(counts.values()):,}", Text(said + (", …" if len(most) > _REASONS else "")))


def _histogram(bins: tuple[int, ...]) -> str:
    highest = max(bins, default=0)
    # Whatever is not empty shows.
    return "".join(_BARS[-(-frames * (len(_BARS) - 1) // highest)] if frames else _BARS[0] for frames in bins)


def _number(value: int | None) -> str:
    return UNKNOWN if value is None else f"{value:,}"


def _percent(share: float | None) -> str:
    return UNKNOWN if share is None else f"{share:.1%}"


def _rate(per_s: float | None) -> str:
    return f"rate {UNKNOWN}" if per_s is None else f"{per_s:,.1f} per second"


def _size(size: float | None) -> str:
    if size is None:
        return UNKNOWN
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:,.0f} {unit}"
        size /= 1024
    return f"{size:,.1f} GiB"


def _ago(now: float, then: float | None) -> str:
    return UNKNOWN if then is None else f"{_duration(now - then)} ago"


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
