"""What data collection does now: rates, ratios, queue, store. Everything is read from a record, nothing is guessed.

Frames by camera come from the counts that processes publish in the spool's folder, so they are of this machine. What
became of taken frames comes from the state, so it is of every machine that shares it.
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Lock

from retrain.data_collection.spool.reader import spool_depth
from retrain.data_collection.statistics.counter_files import LIVE_S, read_published
from retrain.data_collection.statistics.counters import BINS, Counts
from retrain.data_collection.statistics.records import (
    RecentDraw,
    draw_counts,
    last_rejections,
    recent_draws,
    stored,
)
from retrain.data_collection.statistics.snapshot import CollectionSnapshot, Flow, read_flow
from retrain.storage.state import StateStore

_RECENT = 2000
_FEWEST = 10
"""Audit draws without which a ratio is not known."""
_REJECTIONS = 5


class DataCollectionMonitor:
    """Reads the state of collection; changes nothing. Safe for threads, and for any number of monitors."""

    def __init__(
        self,
        spool: Path,
        state: StateStore,
        model: str | None = None,
        *,
        classes: Sequence[str] = (),
        window_s: float = 60.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Set up; the folder need not exist yet.

        Args:
            spool: folder of the spool.
            model: whose samples and draws; None: all. Counts, queue and packs are of all models.
            classes: names in index order; without, a class is shown as its index.
            window_s: over which rates are taken, from the readings that were made in it.
        """
        self._spool, self._state, self._model, self._classes = spool, state, model, tuple(classes)
        self._rates, self._clock = _Rates(window_s), clock

    def snapshot(self) -> CollectionSnapshot:
        """Everything known now.

        Raises:
            Unavailable: the state does not answer.
        """
        now = self._clock()
        published = read_published(self._spool, now)
        flow = read_flow(published.counts.outcomes.values()) if published.counts else None
        offered_per_s, taken_per_s = self._rates.read(published.counts, flow, now)
        with self._state.read() as connection:
            draws = draw_counts(connection, self._model)
            recent = recent_draws(connection, self._model, _RECENT)
            held = stored(connection, self._model)
            rejections = last_rejections(connection, self._model, _REJECTIONS) if _rejected(draws) else ()
        outcomes = published.counts.outcomes if published.counts else {}
        cameras = {camera: read_flow([counts]) for camera, counts in outcomes.items()}
        return CollectionSnapshot(
            at=now,
            flow=flow,
            cameras={camera: flow for camera, flow in cameras.items() if flow.offered},
            published_at=published.counts.at if published.counts else None,
            offered_per_s=offered_per_s,
            taken_per_s=taken_per_s,
            histogram=tuple(published.counts.histogram[:BINS]) if published.counts else None,
            without_confidence=_without_confidence(published.counts, flow),
            producers=published.producers,
            damaged=published.damaged,
            queue=spool_depth(self._spool) if self._spool.is_dir() else None,
            draws=draws,
            audit_draws=sum(draw.audit for draw in recent),
            strategy_ratios=_ratios(recent, lambda draw: [draw.strategy], everyone=True),
            class_ratios=_ratios(recent, self._names),
            classes=dict(
                Counter(name for draw in recent if draw.outcome == "stored" for name in self._names(draw))
            ),
            stored=held,
            rejections=rejections,
        )

    def to_prometheus(self) -> str:
        """The snapshot in Prometheus' text format; what is not known is left out."""
        from prometheus_client import generate_latest

        from retrain.data_collection.statistics.prometheus import registry

        return generate_latest(registry(self.snapshot)).decode()

    def _names(self, draw: RecentDraw) -> list[str]:
        known = len(self._classes)
        return [self._classes[label] if label < known else str(label) for label in draw.classes]


class _Rates:
    """Remembers the readings of the window, and compares the last with the first of them."""

    def __init__(self, window_s: float) -> None:
        self._window_s, self._lock = window_s, Lock()
        self._readings: deque[tuple[float, int, int]] = deque()

    def read(self, counts: Counts | None, flow: Flow | None, now: float) -> tuple[float | None, float | None]:
        """Offered and taken frames per second."""
        if counts is None or flow is None:
            return None, None
        with self._lock:
            readings = self._readings
            if readings and flow.offered < readings[-1][1]:
                readings.clear()  # somebody deleted counts
            if not readings or counts.at > readings[-1][0]:
                readings.append((counts.at, flow.offered, flow.taken))
            # One from before the window stays, to compare with.
            while len(readings) > 2 and readings[1][0] <= counts.at - self._window_s:
                readings.popleft()
            (began, offered, taken), (ended, offered_now, taken_now) = readings[0], readings[-1]
        if ended <= began or now - ended > LIVE_S:
            return None, None
        return (offered_now - offered) / (ended - began), (taken_now - taken) / (ended - began)


def _without_confidence(counts: Counts | None, flow: Flow | None) -> int | None:
    """Frames without a box; the last bin also holds those that were rejected or dropped, whatever they showed."""
    if counts is None or flow is None:
        return None
    return counts.histogram[BINS] - flow.rejected - sum(flow.dropped.values()) - flow.evicted


def _rejected(draws: Mapping[str, Mapping[str, int]]) -> bool:
    return any(outcomes.get("rejected") for outcomes in draws.values())


def _ratios(
    recent: Sequence[RecentDraw], groups: Callable[[RecentDraw], Sequence[str]], *, everyone: bool = False
) -> dict[str, float | None]:
    """Taken frames of each group over the offered ones they stand for (of all groups together with `everyone`)."""
    taken: Counter[str] = Counter()
    offered: dict[str, float] = {}
    audited: Counter[str] = Counter()
    for draw in recent:
        for name in groups(draw):
            taken[name] += 1
            offered[name] = offered.get(name, 0.0) + 1.0 / draw.inclusion_probability
            audited[name] += draw.audit
    if everyone:
        offered = dict.fromkeys(offered, sum(offered.values()))
        audited = Counter(dict.fromkeys(audited, audited.total()))
    return {name: taken[name] / offered[name] if audited[name] >= _FEWEST else None for name in taken}
