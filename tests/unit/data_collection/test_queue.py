import errno
import fcntl
import mmap
import os
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrain.data_collection.queue import DataCollectionQueue, SpoolFull, SpoolLimits
from retrain.data_collection.spool.format import (
    HEADER,
    IMAGES,
    MAGIC,
    SEGMENT,
    START,
    Position,
    spool_bytes,
)
from retrain.data_collection.spool.reader import segments, spool_depth
from retrain.errors import BadInput, ConfigError, Unavailable


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
        file.seek(START.end + HEADER.size + len(b"whole"))
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

    def refuse(*_, **__):
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

    [first] = segment.records()
    assert first.body == b"first"
    assert segment.is_torn(first.end)
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
    data[START.end + HEADER.size + 5 + 8 + 3] = 0xFF  # the top byte of the second body's size
    segment.path.write_bytes(data)

    assert [record.body for record in segment.records() if record.intact] == [b"first", b"third"]


def test_reading_goes_on_behind_what_was_consumed(tmp_path):
    writer = DataCollectionQueue(tmp_path)
    writer.append(b"first")
    [segment] = segments(tmp_path)
    segment.consumed(Position(next(segment.records()).end, 0))

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
    [first] = segment.records()
    assert not segment.is_torn(first.end)
    # What a kill between body and header leaves: a writer that is gone, and a file that was never cut to size.
    with segment.path.open("r+b") as file:
        file.seek(first.end + HEADER.size)
        file.write(b"second")
    writer._after_fork()

    assert segment.is_finished()
    assert [record.body for record in segment.records()] == [b"first"]
    assert segment.is_torn(first.end)


def test_the_header_is_written_last_and_in_one_piece(tmp_path):
    writer, writes = DataCollectionQueue(tmp_path), []
    writer.append(b"first")

    class Watched:
        def __setitem__(self, where, data):
            writes.append((where.start, len(data)))

    memory, writer._memory = writer._memory, Watched()
    writer.append(b"second", b"image")
    writer._memory = memory

    start = START.end + HEADER.size + len(b"first")
    assert sorted(writes[:-1]) == [(start + HEADER.size, 6), (start + HEADER.size + 6, 5)]
    assert writes[-1] == (start, HEADER.size)


def test_what_fits_the_reserved_segment_is_taken_although_others_filled_the_spool(tmp_path):
    frame, folder = tmp_path / "frame.jpg", tmp_path / "spool"
    frame.write_bytes(bytes(2_500))
    writer = DataCollectionQueue(folder, SpoolLimits(max_bytes=4_000, segment_bytes=1_000))
    writer.append(b"first")
    (folder / "other.spool").write_bytes(bytes(4_000))

    with pytest.raises(SpoolFull):
        writer.append(b"second", file=frame, file_bytes=2_500)
    writer.append(b"third")

    assert [record.body for record in everything(folder)] == [b"first", b"third"]


def test_a_header_that_is_read_while_it_is_written_is_no_damage(tmp_path):
    writer = DataCollectionQueue(tmp_path)
    writer.append(b"first")
    [segment] = segments(tmp_path)
    data = bytearray(segment.path.read_bytes()[: START.end + HEADER.size + 5])
    data[START.end + 8 :] = bytes(len(data) - START.end - 8)  # half a header, nothing behind it
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


def linked(folder):
    return [record.image_file.read_bytes() for record in everything(folder)]


def test_a_symbolic_link_gives_the_image_it_points_to_at_that_moment(tmp_path, monkeypatch):
    for number in (1, 2):
        (tmp_path / f"frame_{number}.jpg").write_bytes(b"pixels %d" % number)
    latest = tmp_path / "latest.jpg"
    latest.symlink_to("frame_1.jpg")
    monkeypatch.chdir(tmp_path)
    queue = DataCollectionQueue(tmp_path / "spool")

    queue.append(b"absolute", file=latest, file_bytes=8)
    queue.append(b"relative", file="latest.jpg", file_bytes=8)
    latest.unlink()
    latest.symlink_to("frame_2.jpg")

    assert linked(tmp_path / "spool") == [b"pixels 1"] * 2
    assert not any(record.image_file.is_symlink() for record in everything(tmp_path / "spool"))


@pytest.mark.parametrize("way", ["link", "copy"])
def test_an_append_that_is_interrupted_after_the_image_came_does_not_stand_in_the_way(
    tmp_path, monkeypatch, way
):
    class Interrupted(BaseException):
        pass

    whole, copy = os.link, shutil.copy2

    def interrupted(work):
        def go(*arguments, **options):
            work(*arguments, **options)
            raise Interrupted

        return go

    def refused(*_, **__):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    frame = tmp_path / "frame.jpg"
    frame.write_bytes(b"pixels")
    queue = DataCollectionQueue(tmp_path / "spool")
    queue.append(b"first")
    with monkeypatch.context() as patch:
        patch.setattr(os, "link", interrupted(whole) if way == "link" else refused)
        patch.setattr(shutil, "copy2", interrupted(copy))
        with pytest.raises(Interrupted):
            queue.append(b"interrupted", file=frame, file_bytes=6)

    assert list((tmp_path / "spool").glob(f"*{IMAGES}/*")) == []
    queue.append(b"second", file=frame, file_bytes=6)
    assert [record.body for record in everything(tmp_path / "spool")] == [b"first", b"second"]


def test_an_image_that_a_kill_left_without_its_record_is_replaced(tmp_path):
    frame = tmp_path / "frame.jpg"
    frame.write_bytes(b"pixels")
    queue = DataCollectionQueue(tmp_path / "spool")
    queue.append(b"first", file=frame, file_bytes=6)
    images = tmp_path / "spool" / (segments(tmp_path / "spool")[0].stem + IMAGES)
    [first] = everything(tmp_path / "spool")
    (images / str(first.end)).write_bytes(b"of nobody")

    queue.append(b"second", file=frame, file_bytes=6)

    assert linked(tmp_path / "spool") == [b"pixels", b"pixels"]


def test_a_copy_that_fills_the_disk_leaves_nothing_and_the_next_frame_is_taken(tmp_path, monkeypatch):
    def refused(*_, **__):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    def full(_, target):
        with open(target, "wb") as file:
            file.write(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    frame = tmp_path / "frame.jpg"
    frame.write_bytes(b"pixels")
    queue = DataCollectionQueue(tmp_path / "spool")
    with monkeypatch.context() as patch:
        patch.setattr(os, "link", refused)
        patch.setattr(shutil, "copy2", full)
        with pytest.raises(SpoolFull, match="No space left"):
            queue.append(b"first", file=frame, file_bytes=6)

    assert list((tmp_path / "spool").glob(f"*{IMAGES}/*")) == []
    queue.append(b"second", file=frame, file_bytes=6)
    assert linked(tmp_path / "spool") == [b"pixels"]


@pytest.mark.parametrize(
    ("failure", "raised"),
    [(OSError(errno.EIO, "Input/output error"), Unavailable), (KeyboardInterrupt(), KeyboardInterrupt)],
)
def test_what_follows_a_frame_whose_sync_failed_does_not_take_its_place(
    tmp_path, monkeypatch, failure, raised
):
    class Memory(mmap.mmap):
        fails = False

        def flush(self, *where):
            if self.fails:
                raise failure
            super().flush(*where)

    monkeypatch.setattr(mmap, "mmap", Memory)
    queue = DataCollectionQueue(tmp_path, SpoolLimits(sync=True))
    queue.append(b"first")
    queue._memory.fails = True
    with pytest.raises(raised):
        queue.append(b"unsynced")
    [segment] = segments(tmp_path)
    for record in segment.records():
        segment.consumed(Position(record.end, 0))  # a reader may have it by now
    queue._memory.fails = False

    queue.append(b"acknowledged")

    assert [record.body for record in segment.records()] == [b"acknowledged"]


def test_an_interrupted_start_of_a_segment_leaves_nothing_and_the_next_frame_is_taken(tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    queue = DataCollectionQueue(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(mmap, "mmap", interrupted)
        with pytest.raises(KeyboardInterrupt):
            queue.append(b"first")

    assert list(tmp_path.iterdir()) == []
    queue.append(b"second")
    assert [record.body for record in everything(tmp_path)] == [b"second"]


@pytest.mark.parametrize("when_full", ["drop_new", "drop_oldest"])
@pytest.mark.parametrize("by_file", [False, True])
def test_a_frame_that_never_fits_is_refused_by_itself_and_costs_no_other_frame(tmp_path, when_full, by_file):
    frame, folder, dropped = tmp_path / "frame.jpg", tmp_path / "spool", []
    frame.write_bytes(bytes(3_500))
    limits = SpoolLimits(max_bytes=4_000, segment_bytes=1_000, when_full=when_full)
    queue = DataCollectionQueue(folder, limits, on_dropped=dropped.append)
    queue.append(b"first")

    for _ in range(2):
        with pytest.raises(BadInput, match=r"needs a spool of \d+ bytes, and .*max_bytes is 4000"):
            if by_file:
                queue.append(b"large", file=frame, file_bytes=3_500)
            else:
                queue.append(b"large", bytes(4_000))
        queue.append(b"small")

    assert [record.body for record in everything(folder)] == [b"first", b"small", b"small"]
    assert (len(segments(folder)), dropped) == (1, [])


def test_a_frame_for_which_there_is_no_room_now_leaves_the_segment_to_smaller_ones(tmp_path):
    queue = DataCollectionQueue(tmp_path, SpoolLimits(max_bytes=4_000, segment_bytes=1_000))
    queue.append(b"first")

    (tmp_path / "other.spool").write_bytes(bytes(2_500))
    with pytest.raises(SpoolFull):
        queue.append(b"large", bytes(3_000))
    queue.append(b"small")
    assert len(segments(tmp_path)) == 1
    # Nor does its refusal stand for those that need less.
    for number in range(4):
        (tmp_path / "other.spool").write_bytes(bytes(1_000))
        queue.append(b"%d" % number * 300)

    assert [record.body[:1] for record in everything(tmp_path)] == [b"f", b"s", b"0", b"1", b"2", b"3"]


def test_linked_images_count_without_being_looked_at_until_a_reader_released_them(tmp_path, monkeypatch):
    frame, folder = tmp_path / "frame.jpg", tmp_path / "spool"
    frame.write_bytes(bytes(500))
    queue = DataCollectionQueue(folder, SpoolLimits(max_bytes=100_000, segment_bytes=1_000))
    for _ in range(3):
        queue.append(b"x", file=frame, file_bytes=500)
    scanned, scan = [], os.scandir

    def watched(path):
        scanned.append(path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", watched)
    assert spool_bytes(folder) == 1_000 + 3 * 500
    assert scanned == [folder]
    [segment] = segments(folder)
    first, *_ = segment.records()
    segment.consumed(Position(first.end, 500))
    assert spool_bytes(folder) == 1_000 + 2 * 500


def test_a_segment_ends_with_its_share_of_linked_images_so_that_they_are_not_dropped_all_together(tmp_path):
    frame, folder = tmp_path / "frame.jpg", tmp_path / "spool"
    frame.write_bytes(bytes(500))
    limits = SpoolLimits(max_bytes=16_000, segment_bytes=1_000, when_full="drop_oldest")
    dropped = []
    queue = DataCollectionQueue(folder, limits, on_dropped=dropped.append)

    for _ in range(60):
        queue.append(b"x", file=frame, file_bytes=500)

    assert limits.linked_bytes == 2_000
    assert set(dropped) == {4}
    assert spool_bytes(folder) <= 16_000
    images = sum(path.stat().st_size for path in folder.glob(f"*{IMAGES}/*"))
    assert images == 500 * len(everything(folder)) == 500 * (60 - sum(dropped))


def test_producers_together_keep_to_the_limit_within_a_segment_of_linked_images_each(tmp_path):
    frame, folder = tmp_path / "frame.jpg", tmp_path / "spool"
    frame.write_bytes(bytes(1_000))
    limits = SpoolLimits(max_bytes=160_000, segment_bytes=2_000)
    queues = [DataCollectionQueue(folder, limits) for _ in range(6)]

    for _ in range(100):
        for queue in queues:
            with suppress(SpoolFull):
                queue.append(b"x", file=frame, file_bytes=1_000)

    images = sum(path.stat().st_size for path in folder.glob(f"*{IMAGES}/*"))
    reserved = sum(path.stat().st_size for path in folder.glob("*" + SEGMENT))
    assert 120_000 < images + reserved == spool_bytes(folder) <= 160_000 + 6 * 2_000


def test_a_full_spool_is_looked_at_for_a_hundredth_of_the_time_at_most(tmp_path, monkeypatch):
    clock, looks = [0.0], []

    def slow(_):
        looks.append(clock[0])
        clock[0] += 0.05
        return 10_000

    monkeypatch.setattr("retrain.data_collection.queue.time.monotonic", lambda: clock[0])
    monkeypatch.setattr("retrain.data_collection.queue.spool_bytes", slow)
    queue = DataCollectionQueue(tmp_path, SpoolLimits(max_bytes=4_000, segment_bytes=1_000))
    for _ in range(1000):
        with pytest.raises(SpoolFull):
            queue.append(b"x")
        clock[0] += 0.01

    assert len(looks) == 2  # in 10 s: looking takes 0.05 s, so once in 5 s


@pytest.mark.parametrize("size", [20, 5_000])
def test_damaged_bytes_of_an_image_are_no_good_record(tmp_path, size):
    queue = DataCollectionQueue(tmp_path)
    for body in (b"first", b"second"):
        queue.append(body, body[:1] * size)
    queue.close()
    [segment] = segments(tmp_path)
    whole = segment.path.read_bytes()

    for damaged, left in ((b"f", b"second"), (b"s", b"first")):
        data = bytearray(whole)
        data[data.index(damaged * 15)] ^= 1
        segment.path.write_bytes(data)
        found = list(segment.records())
        assert [record.body for record in found if record.intact] == [left]
        assert len(found) == 2
        assert not segment.is_torn(found[-1].end)


def test_a_damaged_image_in_which_a_record_seems_to_begin_is_one_stretch(tmp_path):
    queue = DataCollectionQueue(tmp_path)
    queue.append(b"first", b"pixels" + MAGIC + b"pixels")
    queue.append(b"second")
    [segment] = segments(tmp_path)
    with segment.path.open("r+b") as file:
        file.seek(START.end + HEADER.size + 5)
        file.write(b"P")

    assert [(record.body, record.intact) for record in segment.records()] == [(b"", False), (b"second", True)]


@pytest.mark.parametrize("size", [4_095, 4_096, 100_000])
def test_images_of_any_size_are_read_back(tmp_path, size):
    queue, image = DataCollectionQueue(tmp_path, SpoolLimits(segment_bytes=50_000)), os.urandom(size)
    for _ in range(3):
        queue.append(b"body", image)

    assert [record.image for record in everything(tmp_path)] == [image] * 3


def test_drop_oldest_leaves_the_files_of_other_programs(tmp_path):
    foreign = tmp_path / "00000000000000000001-1-0123abcd.spool"
    foreign.write_bytes(b"somebody's" * 50)
    limits = SpoolLimits(max_bytes=4_000, segment_bytes=1_000, when_full="drop_oldest")
    queue = DataCollectionQueue(tmp_path, limits)

    for _ in range(100):
        queue.append(b"x" * 200)

    assert foreign.read_bytes() == b"somebody's" * 50


@pytest.mark.parametrize(
    "damage", [b"", b"x", b"12", b"-5 0", b"99999999 0", b"0 0", b"\xff\xfe 1"], ids=repr
)
def test_a_damaged_position_means_that_the_segment_is_read_again(tmp_path, damage, caplog):
    queue = DataCollectionQueue(tmp_path)
    queue.append(b"first")
    [segment] = segments(tmp_path)
    segment.path.with_suffix(".position").write_bytes(damage)

    assert segment.position == START
    assert [record.body for record in segment.records()] == [b"first"]
    assert len(queue) == 1
    [said] = [record.message for record in caplog.records]
    assert "is read from its start again. No record is stored twice." in said


def test_a_child_does_not_keep_the_segment_of_a_killed_parent_unfinished(tmp_path):
    queue = DataCollectionQueue(tmp_path)
    queue.append(b"first")
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, b"1")
        signal.pause()
    try:
        os.read(read, 1)
        queue._after_fork()  # what a kill leaves: closed, not unlocked

        assert segments(tmp_path)[0].is_finished()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(read)
        os.close(write)
