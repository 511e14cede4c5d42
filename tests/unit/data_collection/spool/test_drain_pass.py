import os
import resource
import signal
import threading
from pathlib import Path

import pytest

from retrain.data_collection.locks import lock_file
from retrain.data_collection.queue import DataCollectionQueue, SpoolLimits
from retrain.data_collection.spool.drain_pass import hand_on, only_one
from retrain.data_collection.spool.format import IMAGES, SEGMENT, spool_bytes
from retrain.data_collection.spool.reader import segments, spool_depth
from retrain.data_collection.store.intake import DrainReport
from retrain.errors import Unavailable

LIMITS = SpoolLimits(max_bytes=10**8, segment_bytes=1000)


class Pass:
    """Runs passes and remembers the bodies of every batch."""

    def __init__(self, spool):
        self.spool, self.batches, self.report = spool, [], DrainReport()

    def __call__(self, **options):
        hand_on(self.spool, self.take, self.report, **options)
        return self.batches

    def take(self, records):
        self.batches.append([record.body for record in records])


@pytest.fixture
def drain(tmp_path):
    return Pass(tmp_path)


def many_segments(folder, count):
    queue = DataCollectionQueue(folder, LIMITS)
    for number in range(count):
        queue.append(b"%d" % number)
        queue.close()


def test_a_batch_spans_segments_and_all_that_are_done_are_removed(tmp_path, drain):
    many_segments(tmp_path, 10)

    assert drain(most_records=4) == [[b"0", b"1", b"2", b"3"], [b"4", b"5", b"6", b"7"], [b"8", b"9"]]
    assert list(tmp_path.iterdir()) == []


def test_what_a_batch_took_of_a_segment_is_not_given_again(tmp_path, drain):
    queue = DataCollectionQueue(tmp_path)
    for number in range(5):
        queue.append(b"%d" % number)
    stop = threading.Event()
    stop.set()

    drain(most_records=2, stop=stop)
    queue.append(b"5")

    assert drain(most_records=2) == [[b"0", b"1"], [b"2", b"3"], [b"4", b"5"]]
    assert segments(tmp_path)[0].lock()


def test_what_is_not_taken_stays_and_is_unlocked(tmp_path):
    many_segments(tmp_path, 3)

    def refuse(_):
        raise Unavailable("no answer")

    with pytest.raises(Unavailable, match="no answer"):
        hand_on(tmp_path, refuse, DrainReport())

    assert spool_depth(tmp_path).records == 3
    assert all(segment.lock() for segment in segments(tmp_path))


def open_files():
    """What this process has open: path or other target, a line for each descriptor.

    Only the files below a folder say something about a drain: descriptors of earlier tests are
    closed whenever the garbage collector comes to them.
    """
    return [str(link.resolve()) for link in Path("/proc/self/fd").iterdir()]


def test_more_segments_than_a_process_may_open_files_are_handed_on(tmp_path, drain):
    many_segments(tmp_path, 300)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(open_files()) + 100, hard))
    try:
        drain(most_records=1000)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert sorted(int(body) for batch in drain.batches for body in batch) == list(range(300))
    assert [path for path in open_files() if path.startswith(str(tmp_path))] == []


def test_oldest_segments_can_be_dropped_while_a_batch_waits_for_its_store(tmp_path):
    dropped = []
    limits = SpoolLimits(max_bytes=8_000, segment_bytes=1_000, when_full="drop_oldest")
    queue = DataCollectionQueue(tmp_path, limits, on_dropped=dropped.append)
    for _ in range(18):
        queue.append(b"x" * 300)
    kept = segments(tmp_path)[0].path

    def slow(_):
        for _ in range(100):
            queue.append(b"y" * 300)
        assert kept.exists()
        raise Unavailable("no answer")

    with pytest.raises(Unavailable, match="no answer"):
        hand_on(tmp_path, slow, DrainReport(), most_records=3)

    assert sum(dropped) + spool_depth(tmp_path).records == 118


def test_frames_that_come_meanwhile_are_left_to_the_next_pass(tmp_path):
    queue, taken = DataCollectionQueue(tmp_path), []
    queue.append(b"first")

    def take(records):
        taken.extend(record.body for record in records)
        queue.append(b"another")

    hand_on(tmp_path, take, DrainReport(), most_records=1)

    assert taken == [b"first"]
    assert spool_depth(tmp_path).records == 1


def test_a_damaged_record_in_a_live_segment_hides_none_behind_it(tmp_path, drain):
    queue = DataCollectionQueue(tmp_path)
    for body in (b"first", b"second", b"third"):
        queue.append(body)
    [segment] = segments(tmp_path)
    data = segment.path.read_bytes()
    with segment.path.open("r+b") as file:
        file.seek(data.index(b"second") - 24)
        file.write(b"????")

    assert drain() == [[b"first", b"third"]]
    assert (drain.report.damaged, drain.report.torn) == (1, 0)


def test_released_images_no_longer_count(tmp_path, drain):
    frame, spool = tmp_path / "frame.jpg", tmp_path / "spool"
    frame.write_bytes(bytes(300))
    queue = DataCollectionQueue(spool, LIMITS)
    for _ in range(3):
        queue.append(b"x", file=frame, file_bytes=300)
    drain.spool = spool

    drain(most_records=2)
    assert spool_bytes(spool) == 1000
    assert list(spool.glob(f"*{IMAGES}/*")) == []
    queue.append(b"x", file=frame, file_bytes=300)
    assert spool_bytes(spool) == 1300


def test_a_segment_that_stays_locked_is_said_and_the_others_are_handed_on(tmp_path, drain, monkeypatch):
    monkeypatch.setattr("retrain.data_collection.spool.drain_pass._LOCKED_S", 0.05)
    many_segments(tmp_path, 3)
    locked = segments(tmp_path)[1]
    assert locked.lock()

    with pytest.raises(Unavailable, match=r"1 segments of the spool .* wait there: .*is locked by another"):
        drain()

    assert drain.batches == [[b"0", b"2"]]
    locked.unlock()
    assert drain() == [[b"0", b"2"], [b"1"]]


def test_a_segment_that_is_just_being_dropped_is_waited_for(tmp_path, drain):
    many_segments(tmp_path, 2)
    dropping = segments(tmp_path)[0]
    assert dropping.lock()

    def drop():
        dropping.remove()
        dropping.unlock()

    threading.Timer(0.1, drop).start()

    assert drain() == [[b"1"]]


def as_other_user(work):
    """Whether `work` did well as another user, who may not write what is root's."""
    child = os.fork()
    if child == 0:
        os.setgid(65534)
        os.setuid(65534)
        try:
            work()
        finally:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_one_drain_by_root_does_not_stop_production_which_is_another_user(reachable, drain, umask):
    spool = drain.spool = reachable / "spool"
    spool.mkdir()
    os.chown(spool, 65534, 65534)
    ready, go_on, result = os.pipe(), os.pipe(), reachable / "result"
    result.write_bytes(b"")
    result.chmod(0o666)
    child = os.fork()
    if child == 0:
        os.setgid(65534)
        os.setuid(65534)
        queue, own = DataCollectionQueue(spool, LIMITS), Pass(spool)
        queue.append(b"before")
        os.write(ready[1], b"1")
        os.read(go_on[0], 1)
        try:
            queue.append(b"after")
            with only_one(spool, wait=True):
                own()
            queue.close()
            own()
            result.write_bytes(b"|".join(body for batch in own.batches for body in batch))
        finally:
            os._exit(0)
    os.read(ready[0], 1)
    before = os.umask(umask)
    try:
        with only_one(spool, wait=True):
            drain()
    finally:
        os.umask(before)
    os.write(go_on[1], b"1")
    os.waitpid(child, 0)

    assert drain.batches == [[b"before"]]
    # With a position that it may not read it begins anew, which stores nothing twice.
    assert result.read_bytes() == (b"after" if umask == 0o022 else b"before|after")
    assert list(spool.glob("*" + SEGMENT)) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_segment_that_may_not_be_read_is_said_and_the_others_are_handed_on(reachable, drain):
    spool = reachable / "spool"
    many_segments(spool, 2)
    os.chown(spool, 65534, 65534)
    segments(spool)[0].path.chmod(0o600)

    def work():
        own = Pass(spool)
        with pytest.raises(Unavailable, match=r"1 segments of the spool .* Permission denied"):
            own()
        assert own.batches == [[b"1"]]
        os._exit(0)

    assert as_other_user(work) == 0


def test_files_of_other_programs_are_left_alone_and_said_once(tmp_path, drain, caplog):
    foreign = tmp_path / "00000000000000000001-1-0123abcd.spool"
    foreign.write_bytes(b"somebody's" * 50)
    (tmp_path / "notes.spool").write_bytes(b"mine")

    drain()
    drain()

    assert foreign.exists()
    assert (tmp_path / "notes.spool").exists()
    [said] = [record.message for record in caplog.records]
    assert said == f"{foreign} is left alone: this version of Retrain did not write it."


@pytest.mark.parametrize("content", [b"", bytes(1000)], ids=["empty", "zeros"])
def test_a_segment_of_which_a_power_cut_left_nothing_is_removed(tmp_path, drain, content):
    (tmp_path / "00000000000000000001-1-0123abcd.spool").write_bytes(content)

    drain()

    assert list(tmp_path.iterdir()) == []


def test_what_kills_left_beside_segments_that_are_gone_is_removed(tmp_path, drain):
    queue = DataCollectionQueue(tmp_path, LIMITS)
    queue.append(b"first")
    drain()
    kept = {path.name for path in tmp_path.iterdir()}
    gone = "00000000000000000001-1-0123abcd"
    for name in (
        f"{gone}.position",
        f"{gone}.reading",
        f".{gone}.position.00ff.partial",
        ".x.counts.0a.partial",
    ):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / f"{gone}.images").mkdir()
    (tmp_path / f"{gone}.images" / "16").write_bytes(b"pixels")
    os.utime(tmp_path / f".{gone}.position.00ff.partial", (1, 1))

    drain()

    # The last may be of a producer that is just publishing.
    assert {path.name for path in tmp_path.iterdir()} == kept | {".x.counts.0a.partial"}


def test_one_at_a_time_is_in_the_folder_and_a_killed_one_is_not_waited_for_while_its_child_lives(tmp_path):
    read, write = os.pipe()
    parent = os.fork()
    if parent == 0:
        with only_one(tmp_path, wait=True):
            if os.fork() == 0:
                os.write(write, b"%d" % os.getpid())
                signal.pause()
            signal.pause()
    child = int(os.read(read, 20))
    try:
        with only_one(tmp_path, wait=False) as alone:
            assert not alone
        os.kill(parent, signal.SIGKILL)
        os.waitpid(parent, 0)
        with only_one(tmp_path, wait=False) as alone:
            assert alone
            assert lock_file(tmp_path / ".draining", wait=False) is None
    finally:
        os.kill(child, signal.SIGKILL)
        os.close(read)
        os.close(write)
