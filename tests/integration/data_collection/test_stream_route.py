"""What only the way through Redis can do: be cut off, be shared, be sent twice."""

import logging
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest
from sqlalchemy import delete

from retrain.data_collection.background import BackgroundDrainer
from retrain.data_collection.redis_backend.care import StreamCare
from retrain.data_collection.redis_backend.connection import RedisConnection
from retrain.data_collection.redis_backend.drainer import DEAD, StreamDrainer
from retrain.data_collection.redis_backend.forwarder import StreamForwarder
from retrain.data_collection.redis_backend.records import StreamFull, StreamRecord
from retrain.data_collection.redis_backend.stream import RedisStream
from retrain.data_collection.spool.reader import spool_depth
from retrain.data_collection.store.intake import Intake
from retrain.data_collection.store.packs import SamplePacks
from retrain.data_collection.store.samples import SampleStore
from retrain.errors import Unavailable
from retrain.storage.digests import content_digest
from retrain.storage.schema import samples
from tests.integration.data_collection.redis_world import (
    StreamRoute,
    collector,
    drawn,
    free_port,
    patiently,
    png,
    stored,
)


@pytest.fixture
def route(tmp_path, state, blobs, redis, name):
    return StreamRoute(tmp_path, state, blobs, redis, name)


@pytest.fixture
def collecting(tmp_path, state, blobs):
    return collector(tmp_path, state, blobs)


class AnswersLost(RedisStream):
    """Redis does what it is told, and its answer does not arrive."""

    def put(self, records):
        super().put(records)
        raise Unavailable("no answer")


def test_what_is_sent_twice_is_stored_once(route, collecting, state, redis, name):
    for number in range(5):
        collecting.collect(image=png(number // 2), confidence=0.5)
    cut_off = StreamForwarder(route.forwarder.spool, AnswersLost(redis, name))
    for _ in range(2):
        with pytest.raises(Unavailable):
            cut_off.drain()

    report = route.bring()

    assert report.outcomes == {"stored": 3, "duplicate": 2}
    assert len(drawn(state)) == 5
    assert StreamCare(redis, name).depth().entries == 0


def test_what_a_killed_drainer_left_half_stored_goes_with_its_next_pass_also_when_nothing_waits(
    route, state, blobs, tmp_path
):
    killed = SamplePacks(state, blobs, tmp_path / "cache", "central")
    killed.put({f"{content_digest(png(1))}.png": png(1)}, 1.0)

    route.drainer.drain()

    assert list(blobs.keys("packs/")) == []


def test_what_is_sent_again_after_it_was_stored_is_stored_once(route, collecting, state, redis, name):
    collecting.collect(image=png(1), confidence=0.5)
    with pytest.raises(Unavailable):
        StreamForwarder(route.forwarder.spool, AnswersLost(redis, name)).drain()
    assert route.drainer.drain().outcomes == {"stored": 1}

    again = route.bring()

    assert again.outcomes == {}
    assert [draw.outcome for draw in drawn(state)] == ["stored"]


def test_what_the_forwarder_cannot_read_is_counted(route, collecting):
    collecting._spool.append(b"another version")

    assert route.forwarder.drain().unreadable == 1


def test_a_repeated_image_is_sent_once_and_counted(route, collecting):
    for _ in range(3):
        collecting.collect(image=png(1), confidence=0.5)

    assert route.forwarder.drain().outcomes == {"sent": 1, "repeated": 2}


def test_a_full_stream_leaves_the_rest_in_the_spool(tmp_path, state, blobs, redis, name, collecting):
    small = RedisStream(redis, name, max_entries=4, min_idle_s=0.0)
    forwarder = StreamForwarder(tmp_path / "spool", small)
    intake = Intake(SampleStore(state, blobs, tmp_path / "cache", "c"))
    drainer = StreamDrainer(small, intake, tmp_path / "central")
    for number in range(10):
        collecting.collect(image=png(number), confidence=0.5)

    for _ in range(2):
        with pytest.raises(StreamFull, match="holds 4 collected frames"):
            forwarder.drain()

    assert spool_depth(forwarder.spool).records == 6
    drainer.drain()
    with pytest.raises(StreamFull):
        forwarder.drain()
    drainer.drain()
    forwarder.drain()
    drainer.drain()
    assert len(stored(state)) == 10


def test_a_redis_that_is_not_there_leaves_everything_in_the_spool_and_is_said(tmp_path, collecting):
    nowhere = RedisConnection(f"redis://user:secret@127.0.0.1:{free_port()}/0")
    forwarder = StreamForwarder(tmp_path / "spool", RedisStream(nowhere))
    collecting.collect(image=png(1), confidence=0.5)

    with pytest.raises(Unavailable, match="cannot be reached") as caught:
        forwarder.drain()

    assert spool_depth(forwarder.spool).records == 1
    assert nowhere.place in str(caught.value)
    assert "secret" not in str(caught.value)


def test_the_background_thread_forwards_and_at_the_end_sends_the_rest(route, collecting, redis, name):
    route.forwarder.flush_s = 1.0
    background = BackgroundDrainer(route.forwarder, lambda: None)
    collecting.collect(image=png(1), confidence=0.5)
    care = StreamCare(redis, name)
    patiently(lambda: expect(care.depth().entries == 1), AssertionError)

    collecting.collect(image=png(2), confidence=0.5)
    background.close()

    assert care.depth().entries == 2


def expect(truth):
    assert truth


def test_forwarders_of_one_spool_take_turns(route, collecting, redis, name):
    for number in range(50):
        collecting.collect(image=png(number), confidence=0.5)
    others = [StreamForwarder(route.forwarder.spool, RedisStream(redis, name)) for _ in range(4)]
    threads = [threading.Thread(target=one.drain) for one in others]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert StreamCare(redis, name).depth().entries == 50


def test_an_image_that_the_index_lost_is_stored_when_it_comes_again(route, collecting, state):
    """As after a restore from a backup; whoever sent its record without the image would have lost it."""
    collecting.collect(image=png(1), confidence=0.5)
    route.bring()
    with state.write() as connection:
        connection.execute(delete(samples))

    for _ in range(2):
        collecting.collect(image=png(1), confidence=0.5)
        route.bring()

    assert Counter(draw.outcome for draw in drawn(state)) == {"stored": 2, "duplicate": 1}
    assert [sample.id for sample in stored(state)] == [content_digest(png(1))]


def test_an_image_gone_from_redis_is_rejected_with_the_reason(route, collecting, state, redis, name):
    collecting.collect(image=png(1), confidence=0.5)
    route.forwarder.drain()
    redis.client.delete(f"{{{name}}}:collection:images")

    route.drainer.drain()

    assert [draw.outcome for draw in drawn(state)] == ["rejected"]
    assert "gone from Redis" in drawn(state)[0].detail


def test_a_record_of_another_version_is_put_aside_and_stored_by_whoever_can_read_it(
    route, collecting, state, redis, name
):
    route.stream.put([StreamRecord("s:0", msgspec.msgpack.encode(["other version"]), "m", png(1))])
    collecting.collect(image=png(2), confidence=0.5)

    report = route.bring()

    assert report.outcomes == {"stored": 1, DEAD: 1}
    [letter] = StreamCare(redis, name).dead_letters()
    assert letter.entry.record == "s:0"
    assert "another version of Retrain" in letter.reason


class Deadly(SampleStore):
    """Fails on one image, as a bug would."""

    def add(self, arrivals, now):
        if any(arrival.sample and arrival.sample.id == content_digest(png(3)) for arrival in arrivals):
            raise ZeroDivisionError
        return super().add(arrivals, now)


def test_a_frame_that_makes_drainers_fail_is_put_aside_and_the_others_are_stored(
    tmp_path, state, blobs, redis, name, collecting
):
    stream = RedisStream(redis, name, min_idle_s=0.0)
    intake = Intake(Deadly(state, blobs, tmp_path / "cache", "c"))
    drainer = StreamDrainer(stream, intake, tmp_path / "central")
    for number in range(6):
        collecting.collect(image=png(number), confidence=0.5)
    StreamForwarder(tmp_path / "spool", stream).drain()

    failures = 0
    for _ in range(10):
        try:
            drainer.drain()
        except ZeroDivisionError:
            failures += 1

    assert failures == 5
    assert {sample.id for sample in stored(state)} == {content_digest(png(n)) for n in range(6) if n != 3}
    assert [letter.entry.sample.id for letter in StreamCare(redis, name).dead_letters()] == [
        content_digest(png(3))
    ]


def test_drainers_of_one_folder_take_turns(route, tmp_path, state, blobs, redis, name, collecting):
    collecting.collect(image=png(1), confidence=0.5)
    route.forwarder.drain()
    entered, leave = threading.Event(), threading.Event()

    class Slow(SampleStore):
        def add(self, arrivals, now):
            entered.set()
            assert leave.wait(30)
            return super().add(arrivals, now)

    slow = StreamDrainer(
        RedisStream(redis, name), Intake(Slow(state, blobs, tmp_path / "cache", "c")), tmp_path / "central"
    )
    thread = threading.Thread(target=slow.drain)
    thread.start()
    assert entered.wait(30)

    beside = route.drainer.drain()
    leave.set()
    thread.join()

    assert beside.outcomes == {}
    assert [draw.outcome for draw in drawn(state)] == ["stored"]


def test_drainers_on_two_hosts_that_got_the_same_entries_store_them_once(
    tmp_path, state, blobs, redis, name, collecting
):
    """One is so slow that its entries are given to the other; then both store at once."""
    for number in range(20):
        collecting.collect(image=png(number // 2), confidence=0.5)
    StreamForwarder(tmp_path / "spool", RedisStream(redis, name)).drain()
    is_slow, both = threading.Event(), threading.Barrier(2)

    class Together(SampleStore):
        def add(self, arrivals, now):
            is_slow.set()
            both.wait(30)
            return super().add(arrivals, now)

    def drain(host, min_idle_s):
        store = Together(state, blobs, tmp_path / host / "cache", host)
        return StreamDrainer(
            RedisStream(redis, name, min_idle_s=min_idle_s), Intake(store), tmp_path / host
        ).drain()

    with ThreadPoolExecutor(2) as pool:
        slow = pool.submit(drain, "slow", 60.0)
        assert is_slow.wait(30)
        other = pool.submit(drain, "other", 0.0)
        outcomes = slow.result().outcomes + other.result().outcomes

    assert outcomes == {"stored": 10, "duplicate": 10}
    assert len(drawn(state)) == 20


def test_settings_of_redis_that_lose_frames_are_said_once(route, collecting, caplog):
    with caplog.at_level(logging.WARNING):
        for number in range(2):
            collecting.collect(image=png(number), confidence=0.5)
            route.forwarder.drain()

    [said] = [record.message for record in caplog.records if "in memory only" in record.message]
    assert said.startswith(route.stream.redis.place)


def test_collecting_goes_on_while_the_stream_is_forwarded_and_drained(route, collecting, state):
    done = threading.Event()

    def move():
        while not done.is_set():
            route.bring()
            time.sleep(0.01)

    thread = threading.Thread(target=move)
    thread.start()
    taken = [collecting.collect(image=png(number % 100), confidence=0.5).taken for number in range(500)]
    done.set()
    thread.join()
    route.bring()

    assert all(taken)
    assert len(drawn(state)) == 500
    assert len(stored(state)) == 100
