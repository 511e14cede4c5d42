"""The collection snapshot as Prometheus metrics, and the endpoint that serves them."""

import errno
from collections.abc import Callable, Iterator, Mapping
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from retrain.data_collection.monitor import DataCollectionMonitor
from retrain.data_collection.statistics.counters import BINS
from retrain.data_collection.statistics.snapshot import CollectionSnapshot, Flow
from retrain.errors import Unavailable

_PREFIX = "retrain_collection_"


def registry(snapshot: Callable[[], CollectionSnapshot]) -> CollectorRegistry:
    """A registry that takes a new snapshot for every scrape."""
    made = CollectorRegistry(auto_describe=False)
    made.register(_SnapshotCollector(snapshot))
    return made


def serve_metrics(monitor: DataCollectionMonitor, port: int, address: str = "127.0.0.1") -> WSGIServer:
    """Answer Prometheus from a thread of this process; each scrape reads anew.

    Args:
        port: 0 takes a free one, see `server_port` of the result.
        address: to listen on. There is no password: 0.0.0.0 shows the figures to everyone who reaches this machine.

    Returns:
        The server; `shutdown()` and `server_close()` end it.

    Raises:
        Unavailable: the port is taken or may not be used.
    """
    try:
        server, _ = start_http_server(port, addr=address, registry=registry(monitor.snapshot))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise Unavailable(f"Port {port} is taken on {address}. Choose another with --port.") from error
        raise Unavailable(f"Cannot listen on {address}, port {port}: {error.strerror}.") from error
    return server


class _SnapshotCollector(Collector):
    def __init__(self, snapshot: Callable[[], CollectionSnapshot]) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        """Every metric of which something is known."""
        snapshot = self._snapshot()
        for metric in _metrics(snapshot):
            if metric.samples:
                yield metric


def _metrics(snapshot: CollectionSnapshot) -> Iterator[Metric]:
    yield _frames(snapshot)
    yield _evicted(snapshot.flow)
    yield _confidence(snapshot)
    yield _gauge(
        "offered_per_second", "Frames offered per second over the last minute", snapshot.offered_per_s
    )
    yield _gauge("taken_per_second", "Frames taken per second over the last minute", snapshot.taken_per_s)
    queue = snapshot.queue
    yield _gauge("queue_records", "Frames waiting in the spool", None if queue is None else queue.records)
    yield _gauge("queue_bytes", "Bytes of the spool on disk", None if queue is None else queue.bytes)
    yield _gauge("queue_oldest_seconds", "Longest possible wait in the spool", snapshot.oldest_wait_s)
    yield _draws(snapshot)
    yield from _store(snapshot)
    yield _producers(snapshot)
    yield _standstills(snapshot)
    yield _gauge(
        "published_timestamp_seconds", "When a producer last published counts", snapshot.published_at
    )


def _frames(snapshot: CollectionSnapshot) -> Metric:
    """One count per frame offered, so that they add up."""
    metric = CounterMetricFamily(
        _PREFIX + "frames", "Frames offered, by what was decided", labels=["camera", "outcome", "reason"]
    )
    for camera, flow in snapshot.cameras.items():
        metric.add_metric([camera, "taken", ""], flow.taken)
        metric.add_metric([camera, "rejected", ""], flow.rejected)
        for reason, frames in flow.skipped.items():
            metric.add_metric([camera, "skipped", reason], frames)
        for reason, frames in flow.dropped.items():
            metric.add_metric([camera, "dropped", reason], frames)
    return metric


def _evicted(flow: Flow | None) -> Metric:
    metric = CounterMetricFamily(
        _PREFIX + "evicted_frames", "Frames taken, then dropped from a full spool", labels=[]
    )
    if flow is not None:
        metric.add_metric([], flow.evicted)
    return metric


def _confidence(snapshot: CollectionSnapshot) -> Metric:
    metric = HistogramMetricFamily(
        _PREFIX + "confidence", "Confidence of offered frames that have one", labels=[]
    )
    if snapshot.histogram is not None:
        total, buckets = 0, []
        for number, frames in enumerate(snapshot.histogram, start=1):
            total += frames
            buckets.append((f"{number / BINS:g}", float(total)))
        # Their sum is not recorded, so only the buckets are given.
        metric.add_metric([], [*buckets, ("+Inf", float(total))], None)
    return metric


def _draws(snapshot: CollectionSnapshot) -> Metric:
    metric = CounterMetricFamily(
        _PREFIX + "draws", "Taken frames, by what became of them", labels=["strategy", "outcome"]
    )
    for strategy, outcomes in snapshot.draws.items():
        for outcome, frames in outcomes.items():
            metric.add_metric([strategy, outcome], frames)
    return metric


def _store(snapshot: CollectionSnapshot) -> Iterator[Metric]:
    held = snapshot.stored
    yield _gauge("stored_samples", "Samples in the store", held.samples)
    yield _gauge("stored_bytes", "Bytes of all packs", held.pack_bytes)
    yield _gauge("bytes_per_sample", "Bytes of the packs per image in them", held.bytes_per_sample)
    yield _gauge(
        "zero_detection_ratio",
        "Share of stored samples in which the model saw nothing",
        held.zero_detection_share,
    )
    yield _ratios("strategy", "all frames that the strategy takes", snapshot.strategy_ratios)
    yield _ratios("class", "the frames showing the class that is taken", snapshot.class_ratios)


def _ratios(label: str, said: str, ratios: Mapping[str, float | None]) -> Metric:
    metric = GaugeMetricFamily(f"{_PREFIX}{label}_accept_ratio", f"Estimated part of {said}", labels=[label])
    for name, ratio in ratios.items():
        if ratio is not None:
            metric.add_metric([name], ratio)
    return metric


def _producers(snapshot: CollectionSnapshot) -> Metric:
    metric = GaugeMetricFamily(_PREFIX + "producers", "Processes with counts of their own", labels=["life"])
    for life in ("live", "stale", "ended"):
        metric.add_metric([life], sum(one.life == life for one in snapshot.producers))
    return metric


def _standstills(snapshot: CollectionSnapshot) -> Metric:
    said = "Longest time for which a process could not go on with it; 0 where all can"
    metric = GaugeMetricFamily(_PREFIX + "standstill_seconds", said, labels=["what"])
    live = [one.standstills for one in snapshot.producers if one.life == "live"]
    for what in ("storing", "quota") if live else ():
        since = [found[what].since for found in live if what in found]
        metric.add_metric([what], max((snapshot.at - one for one in since), default=0.0))
    return metric


def _gauge(name: str, said: str, value: float | None) -> Metric:
    metric = GaugeMetricFamily(_PREFIX + name, said, labels=[])
    if value is not None:
        metric.add_metric([], value)
    return metric
