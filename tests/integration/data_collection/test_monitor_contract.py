"""The monitor reads the same from SQLite and from Postgres, and Prometheus gets it over HTTP."""

import os
import time
import urllib.error
import urllib.request

import pytest

from retrain.data_collection.collector import DataCollectionService
from retrain.data_collection.monitor import DataCollectionMonitor
from retrain.data_collection.statistics.prometheus import serve_metrics
from retrain.data_collection.statistics.records import UNPREDICTED, draws_of_process
from retrain.errors import Unavailable
from retrain.storage.local_blobs import LocalBlobs
from retrain.storage.state import open_state
from tests.unit.data_collection.conftest import one_box, png_bytes


@pytest.fixture(params=["sqlite", "postgres"])
def state(request, tmp_path):
    sqlite = f"sqlite:///{tmp_path / 'state.sqlite'}"
    store = open_state(sqlite if request.param == "sqlite" else request.getfixturevalue("postgres_url"))
    yield store
    store.close()


@pytest.fixture
def collected(state, tmp_path):
    """Seven frames: two empty, one without a prediction, one repeated, one that is no image."""
    blobs = LocalBlobs(tmp_path / "blobs")
    service = DataCollectionService(
        tmp_path, "all", blobs=blobs, state=state, model="m", background=False, audit_rate=1.0
    )
    for number, prediction in enumerate([one_box(0.5), one_box(0.9), [], [], one_box(0.9)]):
        service.collect(image=png_bytes(number % 4), prediction=prediction)
    service.collect(image=png_bytes(8), metadata={UNPREDICTED: True})
    service.collect(image=b"hello", prediction=one_box(0.5))
    service.flush()
    service.close()
    return DataCollectionMonitor(tmp_path / "spool", state, "m")


def test_every_number_is_the_same_on_both_databases(collected):
    snapshot = collected.snapshot()

    held = snapshot.stored
    assert (held.samples, held.predicted, held.without_detections, held.pack_images) == (5, 4, 2, 5)
    assert snapshot.draws == {"all": {"stored": 5, "duplicate": 1, "rejected": 1}}
    assert (snapshot.audit_draws, snapshot.classes) == (7, {"0": 2})
    assert [rejection.detail for rejection in snapshot.rejections] == ["The image (5 bytes) is not an image."]


def test_the_draws_of_a_process_are_told_from_those_of_others(collected, state):
    with state.read() as connection:
        mine = draws_of_process(connection, os.getpid(), 0)
        later = draws_of_process(connection, os.getpid(), time.time_ns())
        others = draws_of_process(connection, os.getpid() + 1, 0)

    assert sum(mine.values()) == 7
    assert mine["stored", ""] == 5
    assert not later
    assert not others


def test_prometheus_reads_it_over_http_anew_with_every_scrape(collected, state):
    server = serve_metrics(collected, 0)
    address = f"http://127.0.0.1:{server.server_port}/metrics"
    try:
        with urllib.request.urlopen(address) as answer:
            assert b"retrain_collection_stored_samples 5.0" in answer.read()
        assert server.server_address[0] == "127.0.0.1"
    finally:
        server.shutdown()
        server.server_close()
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(address)


def test_a_taken_port_is_one_clear_error(collected):
    server = serve_metrics(collected, 0)
    try:
        with pytest.raises(Unavailable, match=rf"^Port {server.server_port} is taken on 127\.0\.0\.1\."):
            serve_metrics(collected, server.server_port)
    finally:
        server.shutdown()
        server.server_close()
