import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from retrain.data_collection.redis_backend.care import StreamCare
from retrain.data_collection.redis_backend.records import StreamFull, StreamRecord, image_name
from retrain.data_collection.redis_backend.server import StreamServer
from retrain.data_collection.redis_backend.stream import RedisStream
from retrain.data_collection.sample import SampleKey
from retrain.errors import ConfigError
from retrain.storage.digests import content_digest


def record(number, image=b"", model="m", **more):
    return StreamRecord(f"r{number}", b"body %d" % number, model, image, **more)


def named(image, model="m"):
    return image_name(SampleKey(model, content_digest(image)))


def take_all(stream, limit=100):
    taken = []
    while found := stream.take(limit):
        taken += found.entries
        stream.done(found.entries)
    return taken


def keys_left(redis, name):
    return sorted(key.decode() for key in redis.client.scan_iter(f"*{name}*", count=10_000))


def test_what_was_put_is_taken_in_order_with_its_image(stream):
    end = stream()
    end.put([record(1, b"one"), record(2, b"two"), record(3, problem="gone")])

    taken = end.take(10).entries

    assert [(one.record, one.body, one.problem) for one in taken] == [
        ("r1", b"body 1", ""),
        ("r2", b"body 2", ""),
        ("r3", b"body 3", "gone"),
    ]
    assert [one.image_bytes for one in taken] == [3, 3, 0]
    assert end.images(taken) == {named(b"one"): b"one", named(b"two"): b"two"}


def test_what_was_put_before_any_drainer_existed_is_taken(stream):
    stream().put([record(1)])

    assert [one.record for one in stream(consumer="late").take(10).entries] == ["r1"]


def test_an_image_is_sent_once_while_records_of_it_wait(stream, redis, name):
    end = stream()

    repeated = [end.put([record(1, b"same"), record(2, b"same")]), end.put([record(3, b"same")])]

    taken = end.take(10).entries
    assert repeated == [1, 1]
    assert end.images(taken) == {named(b"same"): b"same"}
    assert StreamCare(redis, name).depth().image_bytes == 4


def test_an_image_waits_until_the_last_record_of_it_is_done(stream):
    end = stream()
    end.put([record(1, b"same"), record(2, b"same")])
    first, second = end.take(10).entries

    end.done([first])

    assert end.images([second]) == {second.image_name: b"same"}
    end.done([second])
    assert end.images([second]) == {}


def test_an_image_that_was_stored_is_sent_again(stream):
    """An index restored from a backup lacks it, and nobody else has it then."""
    end = stream()
    end.put([record(1, b"same")])
    end.done(end.take(10).entries)

    assert end.put([record(2, b"same")]) == 0
    assert end.images(end.take(10).entries) == {named(b"same"): b"same"}


def test_nothing_is_left_in_redis_once_everything_is_done(stream, redis, name):
    end = stream()
    end.put([record(number, b"image %d" % (number % 7)) for number in range(50)])

    take_all(end, limit=8)

    assert keys_left(redis, name) == [f"{{{name}}}:collection:stream"]
    assert redis.client.xlen(f"{{{name}}}:collection:stream") == 0


@pytest.mark.parametrize(("limits", "fit"), [({"max_entries": 4}, 2), ({"max_bytes": 10}, 2)])
def test_nothing_is_put_beyond_the_limit_and_nothing_that_waits_is_dropped(stream, limits, fit):
    end = stream(**limits)
    batches = [[record(2 * n, b"%04d" % n), record(2 * n + 1, b"%04d" % n)] for n in range(4)]
    for batch in batches[:fit]:
        end.put(batch)

    with pytest.raises(StreamFull, match=rf"holds {2 * fit} collected frames with {4 * fit} bytes"):
        end.put(batches[fit])

    assert [one.record for one in take_all(end)] == [f"r{number}" for number in range(2 * fit)]
    end.put(batches[fit])
    assert len(take_all(end)) == 2


def test_an_image_larger_than_the_limit_goes_into_an_empty_stream(stream):
    end = stream(max_bytes=10)

    end.put([record(1, b"x" * 100)])

    with pytest.raises(StreamFull):
        end.put([record(2, b"y")])
    assert len(take_all(end)) == 1


def test_a_limit_must_be_positive(redis):
    with pytest.raises(ConfigError, match="max_entries of the stream must be at least 1, got 0"):
        RedisStream(redis, max_entries=0)


def test_an_image_that_goes_while_it_is_put_is_sent_after_all(stream, monkeypatch):
    end, other = stream(), stream()
    end.put([record(1, b"same")])
    call = StreamServer.call

    def call_and_be_overtaken(server, script, arguments):
        answer = call(server, script, arguments)
        if script == "UNKNOWN":
            take_all(other)
        return answer

    monkeypatch.setattr(StreamServer, "call", call_and_be_overtaken)

    end.put([record(2, b"same"), record(3, b"same")])

    taken = end.take(10).entries
    assert [one.record for one in taken] == ["r2", "r3"]
    assert end.images(taken) == {named(b"same"): b"same"}


def test_drainers_that_take_at_once_never_share_an_entry(stream):
    stream().put([record(number) for number in range(300)])
    ends = [stream(min_idle_s=60.0, consumer=str(number)) for number in range(4)]

    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(lambda end: take_all(end, limit=7), ends))

    taken = [one.record for part in parts for one in part]
    assert len(taken) == 300
    assert set(taken) == {f"r{number}" for number in range(300)}


def test_producers_that_put_at_once_send_each_image_once(stream, redis, name):
    ends, start = [stream() for _ in range(4)], threading.Barrier(4)

    def produce(end):
        start.wait()
        for number in range(50):
            end.put([record(number, b"image %d" % number)])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(produce, ends))

    depth = StreamCare(redis, name).depth()
    assert depth.entries == 200
    assert depth.image_bytes == sum(len(b"image %d" % number) for number in range(50))


def test_entries_of_a_drainer_that_is_silent_go_to_another(stream):
    stream().put([record(1), record(2)])
    dead, alive = stream(consumer="dead"), stream(consumer="alive")
    dead.take(10)

    taken = alive.take(10).entries

    assert [(one.record, one.deliveries) for one in taken] == [("r1", 2), ("r2", 2)]


def test_entries_of_a_drainer_at_work_are_left_to_it(stream):
    stream().put([record(1)])
    at_work, other = stream(min_idle_s=60.0, consumer="at work"), stream(min_idle_s=60.0, consumer="other")
    at_work.take(10)

    assert not other.take(10)


def test_dead_drainers_entries_are_found_behind_those_of_drainers_at_work(stream, redis, name):
    stream().put([record(number) for number in range(36)])
    stream(consumer="at work", min_idle_s=60.0).take(35)
    dead, other = stream(consumer="dead", min_idle_s=60.0), stream(consumer="other", min_idle_s=60.0)
    # Given back, it is idle for a minute at once, as if it had been taken then.
    dead.release(dead.take(1).entries)

    # Redis looks at ten entries to claim one, so it takes four looks to get there.
    taken = [one.record for _ in range(4) for one in other.take(1).entries]

    assert taken == ["r35"]


def test_an_entry_that_kills_drainers_comes_alone_in_the_end_and_the_others_are_stored(stream, redis, name):
    end = stream(max_deliveries=4)
    end.put([record(number) for number in range(10)])

    def drain_until_r7_kills():
        """A drainer as in production, but for what it dies of."""
        stored = []
        while taken := end.take(100):
            if any(one.record == "r7" for one in taken.entries):
                return stored
            stored += [one.record for one in taken.entries]
            end.done(taken.entries)
        return stored

    runs = [drain_until_r7_kills() for _ in range(6)]

    assert sorted(record for run in runs for record in run) == [
        f"r{number}" for number in range(10) if number != 7
    ]
    [letter] = StreamCare(redis, name).dead_letters()
    assert (letter.entry.record, letter.entry.body, letter.entry.deliveries) == ("r7", b"body 7", 5)
    assert letter.reason == "handed out 4 times and never stored: drainers died or failed with it"


def test_entries_given_back_are_not_held_against_them(stream):
    end = stream(max_deliveries=2)
    end.put([record(1), record(2)])

    deliveries = []
    for _ in range(10):
        taken = end.take(10).entries
        deliveries.append([one.deliveries for one in taken])
        end.release(taken)

    assert deliveries == [[1, 1]] * 10


def test_entries_given_back_go_to_whoever_asks_next_though_nobody_died(stream):
    stream().put([record(1)])
    first, second = stream(min_idle_s=60.0, consumer="first"), stream(min_idle_s=60.0, consumer="second")
    first.release(first.take(10).entries)

    assert [one.record for one in second.take(10).entries] == ["r1"]


def test_a_dead_letter_keeps_its_image_and_comes_back_as_new_when_it_is_revived(stream, redis, name, caplog):
    end, care = stream(), StreamCare(redis, name)
    end.put([record(1, b"image"), record(2, b"image")])
    deadly, other = end.take(10).entries
    end.bury([deadly], "it is odd")
    end.done([other])

    assert "Record r1 is put aside as a dead letter: it is odd." in caplog.text
    assert care.depth().dead == 1
    assert care.revive() == 1

    [entry] = end.take(10).entries
    assert (entry.record, entry.deliveries, care.depth().dead) == ("r1", 1, 0)
    assert end.images([entry]) == {entry.image_name: b"image"}


def test_dead_letters_count_towards_the_limit(stream):
    end = stream(max_entries=2)
    end.put([record(1), record(2)])
    end.bury(end.take(10).entries, "they are odd")

    with pytest.raises(StreamFull, match="are there dead letters"):
        end.put([record(3)])


def test_entries_deleted_by_somebody_else_are_said_to_be_lost(stream, redis, name, caplog):
    end = stream()
    end.put([record(1), record(2, b"image")])
    taken = end.take(10).entries
    redis.client.xdel(f"{{{name}}}:collection:stream", *[one.key for one in taken])

    with caplog.at_level(logging.ERROR):
        found = end.take(10)

    assert (found.entries, found.lost) == ([], 2)
    assert "2 collected frames were deleted" in caplog.text
    end.put([record(3)])
    take_all(end)
    assert keys_left(redis, name) == [f"{{{name}}}:collection:stream"]


def test_a_redis_that_lost_everything_is_said_and_goes_on(stream, redis, name, caplog):
    end = stream()
    end.put([record(1)])
    end.take(10)
    redis.client.delete(f"{{{name}}}:collection:stream")
    end.put([record(2)])

    taken = end.take(10).entries

    assert [one.record for one in taken] == ["r2"]
    assert "has lost the stream" in caplog.text


def test_done_twice_counts_once(stream):
    end = stream()
    end.put([record(1, b"same"), record(2, b"same")])
    first, second = end.take(10).entries

    end.done([first])
    end.done([first])

    assert end.images([second]) == {second.image_name: b"same"}


def test_the_depth_says_what_waits_where(stream, redis, name):
    end, care = stream(), StreamCare(redis, name)
    nothing = care.depth()
    end.put([record(1, b"four"), record(2), record(3)])
    end.take(2)

    depth = care.depth()

    assert (nothing.entries, nothing.oldest_at) == (0, None)
    assert (depth.entries, depth.taken, depth.image_bytes, depth.dead) == (3, 2, 4, 0)
    assert depth.oldest_at == pytest.approx(redis.client.time()[0], abs=60)
