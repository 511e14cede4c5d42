import errno
import fcntl
import os
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrain.data_collection.queue import DataCollectionQueue, SpoolFull, SpoolLimits
from retrain.data_collection.spool.format import HEADER, MAGIC, SEGMENT, spool_bytes
from retrain.data_collection.spool.reader import segments, spool_depth
from retrain.errors import BadInput, ConfigError


def everything(folder):
    return [record for segment in segments(folder) for record in segment.records()]


@settings(max_examples=30, deadline=None)
@given(records=st.lists(st.tuples(st.binary(max_size=200), st.binary(max_size=200)), max_size=20))
def test_what_was_appended_is_read_back_in_order(tmp_path_factory, records):
    folder = tmp_path_factory.mktemp("spool")
    writer = DataCollectionQueue(folder, SpoolLimits(segment_bytes=300, max_bytes=10**6))

    for body, image in records:
        writer.append(body, image)

    assert [(record.body, record.image) for record in everything(folder)] == records
    assert spool_depth(folder).records == len(records)


def test_its_length_is_what_waits_in_the_folder_whoever_appended_it(tmp_path):
    one, other = DataCollectionQueue(tmp_path), DataCollectionQueue(tmp_path)
    one.append(b"a")
    other.append(b"b")
    other.append(b"c")

    assert len(one) == len(other) == 3


def test_a_header_of_which_a_reader_sees_only_the_magic_is_no_record(tmp_path):
    queue = DataCollectionQueue(tmp_path)
    queue.append(b"whole")
    [segment] = tmp_path.glob("*" + SEGMENT)
    with segment.open("r+b") as file:
        file.seek(HEADER.size + len(b"whole"))
        file.write(MAGIC)

    assert [record.body for record in everything(tmp_path)] == [b"whole"]


def test_threads_share_one_writer_without_mixing_their_records(tmp_path):
    writer = DataCollectionQueue(tmp_path, SpoolLimits(segment_bytes=5_000, max_bytes=10**7))
    bodies = [bytes([number % 256]) * (number % 90 + 1) for number in range(2000)]

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(writer.append, bodies))

    assert sorted(record.body for record in everything(tmp_path)) == sorted(bodies)


def test_a_linked_image_survives_the_deletion_of_its_file(tmp_path):
    frame = tmp_path / "frame.jpg"
    frame.write_bytes(b"pixels")
    writer = DataCollectionQueue(tmp_path / "spool")

    writer.append(b"body", file=frame, file_bytes=6)
    frame.unlink()

    [record] = everything(tmp_path / "spool")
    assert record.image_file.read_bytes() == b"pixels"


def test_where_no_link_is_possible_the_image_is_copied_with_its_times(tmp_path, monkeypatch):
    frame = tmp_path / "frame.jpg"
    frame.write_bytes(b"pixels")
    os.utime(frame, ns=(1, 1_234_567_891))

    def refuse(*_):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    DataCollectionQueue(tmp_path / "spool").append(b"body", file=frame, file_bytes=6)

    [record] = everything(tmp_path / "spool")
    assert record.image_file.read_bytes() == b"pixels"
    assert record.image_file.stat().st_mtime_ns == 1_234_567_891


def test_a_missing_image_is_an_error_and_leaves_nothing(tmp_path):
    writer = DataCollectionQueue(tmp_path)

    with pytest.raises(BadInput, match=r"nowhere\.jpg cannot be read: No such file"):
        writer.append(b"body", file="/nowhere.jpg", file_bytes=6)

    assert everything(tmp_path) == []
    assert list(tmp_path.rglob("*.images/*")) == []


@pytest.mark.parametrize("cut", range(1, HEADER.size + 13))
def test_a_record_cut_short_anywhere_is_not_read_and_those_before_it_are(tmp_path, cut):
    writer = DataCollectionQueue(tmp_path)
    writer.append(b"first", b"image")
    writer.append(b"second", b"image!!")
    writer.close()
    [segment] = segments(tmp_path)
    os.truncate(segment.path, segment.path.stat().st_size - cut)

    assert [record.body for record in segment.records()] == [b"first"]
    assert segment.is_torn()
    assert segment.count() == 1


def test_a_damaged_record_is_reported_and_those_behind_it_are_not_lost(tmp_path):
    writer = DataCollectionQueue(tmp_path)
    for body in (b"first", b"second", b"third"):
        writer.append(body, b"image")
    [segment] = segments(tmp_path)
    data = bytearray(segment.path.read_bytes())
    data[data.index(b"second")] ^= 1
    segment.path.write_bytes(data)

    found = list(segment.records())

    assert [record.body for record in found if record.intact] == [b"first", b"third"]
    assert len([record for record in found if not record.intact]) == 1


def test_a_damaged_size_does_not_hide_the_records_behind_it(tmp_path):
    writer = DataCollectionQueue(tmp_path)
    for body in (b"first", b"second", b"third"):
        writer.append(body)
    [segment] = segments(tmp_path)
    data = bytearray(segment.path.read_bytes())
    data[HEADER.size + 5 + 8 + 3] = 0xFF  # the top byte of the second body's size
    segment.path.write_bytes(data)

    assert [record.body for record in segment.records() if record.intact] == [b"first", b"third"]


def test_reading_goes_on_behind_what_was_consumed(tmp_path):
    writer = DataCollectionQueue(tmp_path)
    writer.append(b"first")
    [segment] = segments(tmp_path)
    segment.consumed(next(segment.records()).end)

    writer.append(b"second")

    assert [record.body for record in segment.records()] == [b"second"]
    assert spool_depth(tmp_path).records == 1


def test_a_segment_is_finished_when_its_writer_closed_it(tmp_path):
    writer = DataCollectionQueue(tmp_path)
    writer.append(b"first")
    [segment] = segments(tmp_path)

    assert not segment.is_finished()
    writer.close()
    assert segment.is_finished()
    writer.append(b"second")
    assert len(segments(tmp_path)) == 2


def test_one_reader_at_a_time_has_a_segment(tmp_path):
    DataCollectionQueue(tmp_path).append(b"first")
    [first], [second] = segments(tmp_path), segments(tmp_path)

    assert first.lock()
    assert not second.lock()
    first.unlock()
    assert second.lock()
    second.unlock()


def fill(writer, count, body=b"x" * 200):
    taken = 0
    for _ in range(count):
        try:
            writer.append(body)
            taken += 1
        except SpoolFull:
            pass
    return taken


def test_drop_new_keeps_to_the_limit_and_what_is_there(tmp_path):
    writer = DataCollectionQueue(tmp_path, SpoolLimits(max_bytes=4_000, segment_bytes=1_000))

    taken = fill(writer, 100)

    assert 0 < taken < 100
    assert len(everything(tmp_path)) == taken
    assert spool_bytes(tmp_path) <= 4_000 + 1_000


def test_drop_oldest_keeps_the_newest_and_says_how_many_went(tmp_path):
    dropped = []
    limits = SpoolLimits(max_bytes=4_000, segment_bytes=1_000, when_full="drop_oldest")
    writer = DataCollectionQueue(tmp_path, limits, on_dropped=dropped.append)

    for number in range(100):
        writer.append(f"{number:03d}".encode() * 60)

    left = [int(record.body[:3]) for record in everything(tmp_path)]
    assert left == list(range(100 - len(left), 100))
    assert sum(dropped) == 100 - len(left)
    assert spool_bytes(tmp_path) <= 4_000 + 1_000


def test_drop_oldest_leaves_a_segment_that_is_being_read(tmp_path):
    limits = SpoolLimits(max_bytes=4_000, segment_bytes=1_000, when_full="drop_oldest")
    writer = DataCollectionQueue(tmp_path, limits)
    fill(writer, 5)
    reading = segments(tmp_path)[0]
    assert reading.lock()

    fill(writer, 100)

    assert reading.path.exists()
    reading.unlock()


def test_block_waits_for_room_and_then_drops(tmp_path):
    limits = SpoolLimits(max_bytes=2_000, segment_bytes=1_000, when_full="block", block_s=0.3)
    writer = DataCollectionQueue(tmp_path, limits)
    fill(writer, 8)

    with pytest.raises(SpoolFull, match=r"at its limit of 2000 bytes.*retrain collect drain"):
        writer.append(b"x" * 1_900)


def test_room_made_meanwhile_lets_a_blocked_writer_go_on(tmp_path):
    limits = SpoolLimits(max_bytes=2_000, segment_bytes=1_000, when_full="block", block_s=20)
    writer = DataCollectionQueue(tmp_path, limits)
    fill(writer, 8)

    with ThreadPoolExecutor(1) as pool:
        blocked = pool.submit(writer.append, b"x" * 900)
        assert not blocked.done()
        segments(tmp_path)[0].remove()
        blocked.result(timeout=10)


def test_a_record_whose_header_was_never_written_is_torn(tmp_path):
    writer = DataCollectionQueue(tmp_path, SpoolLimits(segment_bytes=1000, max_bytes=10_000))
    writer.append(b"first")
    [segment] = segments(tmp_path)
    assert not segment.is_torn()
    # What a kill between body and header leaves: a writer that is gone, and a file that was never cut to size.
    with segment.path.open("r+b") as file:
        file.seek(HEADER.size + 5 + HEADER.size)
        file.write(b"second")
    writer._after_fork()

    assert segment.is_finished()
    assert [record.body for record in segment.records()] == [b"first"]
    assert segment.is_torn()


def test_the_header_is_written_last_and_in_one_piece(tmp_path):
    writer, writes = DataCollectionQueue(tmp_path), []
    writer.append(b"first")

    class Watched:
        def __setitem__(self, where, data):
            writes.append((where.start, len(data)))

    memory, writer._memory = writer._memory, Watched()
    writer.append(b"second", b"image")
    writer._memory = memory

    start = HEADER.size + len(b"first")
    assert sorted(writes[:-1]) == [(start + HEADER.size, 6), (start + HEADER.size + 6, 5)]
    assert writes[-1] == (start, HEADER.size)


def test_what_fits_the_reserved_segment_is_taken_although_others_filled_the_spool(tmp_path):
    frame, folder = tmp_path / "frame.jpg", tmp_path / "spool"
    frame.write_bytes(bytes(3_500))
    writer = DataCollectionQueue(folder, SpoolLimits(max_bytes=4_000, segment_bytes=1_000))
    writer.append(b"first")
    (folder / "other.spool").write_bytes(bytes(4_000))

    with pytest.raises(SpoolFull):
        writer.append(b"second", file=frame, file_bytes=3_500)
    writer.append(b"third")

    assert [record.body for record in everything(folder)] == [b"first", b"third"]


def test_a_header_that_is_read_while_it_is_written_is_no_damage(tmp_path):
    writer = DataCollectionQueue(tmp_path)
    writer.append(b"first")
    [segment] = segments(tmp_path)
    data = bytearray(segment.path.read_bytes()[: HEADER.size + 5])
    data[8:] = bytes(len(data) - 8)  # half a header, nothing behind it
    with segment.path.open("r+b") as file:
        file.write(data)

    assert list(segment.records()) == []


def test_no_room_for_a_segment_means_full_and_leaves_no_file(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)

    with pytest.raises(SpoolFull, match="No space left"):
        DataCollectionQueue(tmp_path).append(b"first")

    assert list(tmp_path.iterdir()) == []


def test_the_lock_of_a_segment_goes_with_its_writer(tmp_path):
    writer = DataCollectionQueue(tmp_path)
    writer.append(b"x")
    path = segments(tmp_path)[0].path

    with path.open("rb") as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"max_bytes": 10, "segment_bytes": 10}, "at least 2 segments"),
        ({"when_full": "explode"}, "drop_new, drop_oldest or block"),
        ({"block_s": -1}, "0 or more seconds"),
    ],
)
def test_limits_that_make_no_sense_are_refused(values, said):
    with pytest.raises(ConfigError, match=said):
        SpoolLimits(**values)


def test_a_segment_can_be_seen_only_once_it_is_locked(tmp_path, monkeypatch):
    seen = []
    lock = fcntl.flock

    def watched(descriptor, operation):
        seen.append([segment.path for segment in segments(tmp_path)])
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", watched)
    DataCollectionQueue(tmp_path).append(b"first")

    assert seen == [[]]
    assert not segments(tmp_path)[0].is_finished()


def test_what_a_killed_writer_reserved_is_given_back(tmp_path):
    for name in ("old", "new"):
        (tmp_path / f".{name}.arriving").write_bytes(bytes(1000))
    os.utime(tmp_path / ".old.arriving", (1, 1))

    DataCollectionQueue(tmp_path).append(b"first")

    assert [path.name for path in tmp_path.glob(".*.arriving")] == [".new.arriving"]
