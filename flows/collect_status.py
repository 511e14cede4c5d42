"""`retrain collect status`: what collection does now, once, live or for Prometheus."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.live import Live

from flows.collect_view import snapshot_view
from retrain.data_collection.monitor import DataCollectionMonitor
from retrain.data_collection.statistics.snapshot import CollectionSnapshot, Flow
from tasks.resources import Resources

_REFRESH_S = 2.0
_SHARE_OF_TIME = 4

Sleep = Callable[[float], None]


def monitor_of(resources: Resources) -> DataCollectionMonitor:
    """A monitor of the configured model."""
    classes = resources.config.model.classes
    return DataCollectionMonitor(resources.spool, resources.state, resources.model, classes=classes)


def show_status(
    monitor: DataCollectionMonitor,
    console: Console,
    *,
    watch: bool = False,
    as_json: bool = False,
    port: int | None = None,
    sleep: Sleep = time.sleep,
) -> None:
    """Print the snapshot once, or show it until Ctrl-C.

    Args:
        port: serve Prometheus there, to this machine only, until Ctrl-C.
        sleep: waits for the next reading.

    Raises:
        Unavailable: the port is taken, or the state does not answer.
    """
    with _endpoint(monitor, console, port):
        if watch:
            _until_interrupted(lambda: _live(monitor, console, sleep))
        elif port is not None:
            _until_interrupted(lambda: _wait(sleep))
        elif as_json:
            console.print_json(snapshot_json(_with_rates(monitor, sleep)))
        else:
            console.print(snapshot_view(_with_rates(monitor, sleep)))


def snapshot_json(snapshot: CollectionSnapshot) -> str:
    """Everything in the snapshot; null is not known."""
    held = snapshot.stored
    more = {
        "flow": _flow_json(snapshot.flow),
        "cameras": {camera: _flow_json(flow) for camera, flow in snapshot.cameras.items()},
        "oldest_wait_s": snapshot.oldest_wait_s,
        "outcomes": snapshot.outcomes(),
        "stored": {
            **asdict(held),
            "bytes_per_sample": held.bytes_per_sample,
            "zero_detection_share": held.zero_detection_share,
        },
    }
    return json.dumps({**asdict(snapshot), **more})


def _flow_json(flow: Flow | None) -> dict[str, Any] | None:
    if flow is None:
        return None
    return {**asdict(flow), "offered": flow.offered, "accept_ratio": flow.accept_ratio}


def _with_rates(monitor: DataCollectionMonitor, sleep: Sleep) -> CollectionSnapshot:
    """A second reading where somebody publishes, because a rate needs two."""
    snapshot = monitor.snapshot()
    if any(producer.life == "live" for producer in snapshot.producers):
        sleep(_REFRESH_S)
        snapshot = monitor.snapshot()
    return snapshot


def _live(monitor: DataCollectionMonitor, console: Console, sleep: Sleep) -> None:
    with Live(console=console, auto_refresh=False) as live:
        while True:
            began = time.monotonic()
            live.update(snapshot_view(monitor.snapshot()), refresh=True)
            # A large index takes a second to count; looking must not be what keeps the machine busy.
            sleep(max(_REFRESH_S, _SHARE_OF_TIME * (time.monotonic() - began)))


def _wait(sleep: Sleep) -> None:
    while True:
        sleep(_REFRESH_S)


def _until_interrupted(act: Callable[[], None]) -> None:
    try:
        act()
    except KeyboardInterrupt:
        return


@contextmanager
def _endpoint(monitor: DataCollectionMonitor, console: Console, port: int | None) -> Iterator[None]:
    if port is None:
        yield
        return
    from retrain.data_collection.statistics.prometheus import serve_metrics

    server = serve_metrics(monitor, port)
    console.print(f"Prometheus metrics at http://127.0.0.1:{server.server_port}/metrics until Ctrl-C.")
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
