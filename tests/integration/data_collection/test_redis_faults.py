"""Redis killed and frozen, drainers killed with entries in their hands: nothing acknowledged is lost, nothing twice."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from retrain.data_collection.background import BackgroundDrainer
from retrain.data_collection.redis_backend.connection import RedisConnection
from retrain.data_collection.redis_backend.drainer import StreamDrainer
from retrain.data_collection.redis_backend.forwarder import StreamForwarder
from retrain.data_collection.redis_backend.records import StreamRecord
from retrain.data_collection.redis_backend.stream import RedisStream
from retrain.data_collection.spool.reader import spool_depth
from retrain.data_collection.store.intake import Intake
from retrain.data_collection.store.samples import SampleStore
from retrain.errors import RetrainError, Unavailable
from retrain.storage.digests import content_digest
from tests.integration.data_collection.redis_world import collector, drawn, patiently, png, stored

KILLS, SERVER_KILLS = 8, 4


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    driver = [sys.executable, Path(__file__).with_name("stream_driver.py"), tmp_path_factory.mktemp("killed")]
    done = subprocess.run(
        [*driver, str(KILLS), str(SERVER_KILLS), "1"],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_producers_forwarders_drainers_and_redis_were_killed_at_work(found):
    assert found["killed"] == found["ended"] == 4 * KILLS + 4
    assert found["acknowledged"] > 10 * KILLS


def test_every_acknowledged_frame_is_known_once_and_every_picture_stored_once(found):
    assert found["lost"] == 0
    # At most the one frame per killed producer that was handed over and not yet acknowledged.
    assert 0 <= found["draws"] - found["acknowledged"] <= KILLS + 1
    assert found["outcomes"] == {
        "stored": found["stored"],
        "duplicate": found["draws"] - found["stored"],
    }
    assert 0 <= found["stored"] - found["pictures"] <= KILLS + 1
    assert found["readable"] == found["stored"]


def test_nothing_is_left_in_spool_stream_or_packs(found):
    assert found["left"] == [0, 0, 0, 0]
    assert found["packs"] == 0


def test_what_redis_acknowledged_survives_its_kill(own_server, name):
    stream = RedisStream(RedisConnection(own_server.url), name)
    acknowledged, gone = [], threading.Event()

    def produce():
        for number in range(100_000):
            try:
                stream.put([StreamRecord(f"r{number}", b"body", "m", b"image %d" % number)])
            except Unavailable:
                gone.set()
                return
            acknowledged.append(f"r{number}")

    thread = threading.Thread(target=produce)
    thread.start()
    time.sleep(0.5)
    own_server.kill()
    thread.join()
    own_server.start()

    taken = stream.take(100_000).entries
    assert gone.is_set()
    assert len(acknowledged) > 10
    assert {one.record for one in taken} >= set(acknowledged)
    assert len(taken) <= len(acknowledged) + 1
    assert len(stream.images(taken)) == len(taken)


def test_a_frozen_redis_holds_up_no_frame_and_everything_drains_afterwards(
    own_server, tmp_path, state, blobs, name
):
    stream = RedisStream(RedisConnection(own_server.url, timeout_s=0.5), name)
    forwarder = StreamForwarder(tmp_path / "spool", stream, flush_s=1.0)
    background = BackgroundDrainer(forwarder, lambda: None)
    collecting = collector(tmp_path, state, blobs)
    collecting.collect(image=png(0), confidence=0.5)
    patiently(lambda: expect(spool_depth(forwarder.spool).records == 0), AssertionError)
    own_server.freeze()
    frozen_at = time.monotonic()

    taken = [collecting.collect(image=png(number), confidence=0.5).taken for number in range(1, 1001)]
    collected_in = time.monotonic() - frozen_at

    patiently(lambda: expect(background.standstill), AssertionError)
    time.sleep(max(0.0, frozen_at + 3.0 - time.monotonic()))
    assert spool_depth(forwarder.spool).records == 1000
    own_server.thaw()
    patiently(lambda: expect(background.standstill is None), AssertionError)
    background.close()
    store = SampleStore(state, blobs, tmp_path / "cache", "central")
    report = StreamDrainer(stream, Intake(store), tmp_path / "central").drain()
    assert taken == [True] * 1000
    # Making the pictures takes most of it; had each call waited for Redis, it were 500 s.
    assert collected_in < 20
    assert report.outcomes == {"stored": 1001}
    assert len(drawn(state)) == 1001


def expect(truth):
    assert truth


DYING_DRAINER = """
import os, signal, sys
from pathlib import Path
from retrain.data_collection.redis_backend.connection import RedisConnection
from retrain.data_collection.redis_backend.stream import RedisStream
from retrain.data_collection.store.intake import Intake
from retrain.data_collection.store.samples import SampleStore
from retrain.data_collection.redis_backend.drainer import StreamDrainer
from retrain.storage.local_blobs import LocalBlobs
from retrain.storage.state import open_state

url, name, folder, moment = sys.argv[1:]
folder = Path(folder)

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

class Dying(RedisStream):
    done = die if moment == "stored" else RedisStream.done

class Store(SampleStore):
    add = die if moment == "taken" else SampleStore.add

state = open_state(f"sqlite:///{folder / 'state.sqlite'}")
store = Store(state, LocalBlobs(folder / "blobs"), folder / "dying" / "cache", "dying")
StreamDrainer(Dying(RedisConnection(url), name), Intake(store), folder / "dying").drain()
"""


@pytest.mark.parametrize("moment", ["taken", "stored"])
def test_another_drainer_takes_over_from_one_killed_before_it_was_done(
    moment, shared_server, name, tmp_path, state, blobs
):
    collecting = collector(tmp_path, state, blobs)
    for number in range(30):
        collecting.collect(image=png(number // 3), confidence=0.5)
    stream = RedisStream(RedisConnection(shared_server.url), name, min_idle_s=0.2)
    StreamForwarder(tmp_path / "spool", stream).drain()
    dying = subprocess.run(
        [sys.executable, "-c", DYING_DRAINER, shared_server.url, name, str(tmp_path), moment],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    store = SampleStore(state, blobs, tmp_path / "cache", "central")
    drainer = StreamDrainer(stream, Intake(store), tmp_path / "central")

    time.sleep(0.3)
    drainer.drain()

    assert dying.returncode == -signal.SIGKILL
    assert Counter(draw.outcome for draw in drawn(state)) == {"stored": 10, "duplicate": 20}
    assert {sample.id for sample in stored(state)} == {content_digest(png(number)) for number in range(10)}
    assert all(content_digest(store.image(sample)) == sample.id for sample in stored(state))
    assert not stream.take(10)


def test_the_store_gone_during_an_outage_of_redis_loses_nothing_either(
    own_server, tmp_path, state, blobs, name
):
    collecting = collector(tmp_path, state, blobs)
    for number in range(10):
        collecting.collect(image=png(number), confidence=0.5)
    stream = RedisStream(RedisConnection(own_server.url, timeout_s=0.5), name, min_idle_s=0.2)
    StreamForwarder(tmp_path / "spool", stream).drain()

    class Failing(SampleStore):
        def add(self, arrivals, now):
            own_server.kill()
            raise Unavailable("S3 does not answer")

    with pytest.raises(RetrainError, match="Redis"):
        failing = Failing(state, blobs, tmp_path / "cache", "central")
        StreamDrainer(stream, Intake(failing), tmp_path / "central").drain()
    own_server.start()
    time.sleep(0.3)
    store = SampleStore(state, blobs, tmp_path / "cache", "central")

    report = StreamDrainer(stream, Intake(store), tmp_path / "central").drain()

    assert report.outcomes == {"stored": 10}
