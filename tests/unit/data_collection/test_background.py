import errno
import logging
import multiprocessing
import shutil
import subprocess
import sys
import threading
import time

import msgspec
import pytest
from sqlalchemy import func, select

from retrain.data_collection import background
from retrain.data_collection.background import BackgroundDrainer
from retrain.data_collection.collector import DataCollectionService
from retrain.data_collection.spool.reader import spool_depth
from retrain.data_collection.statistics.counter_files import read_published
from retrain.data_collection.statistics.counters import BINS, Counts
from retrain.errors import StorageFull, Unavailable
from retrain.storage.local_blobs import LocalBlobs
from retrain.storage.schema import samples
from retrain.storage.state import open_state
from tests.unit.data_collection.conftest import png_bytes

PATIENCE_S = 30.0
"""Only a test that fails waits this long."""


class Faulty(LocalBlobs):
    """A store that fails as long as it has an error to raise."""

    error: Exception | None = None
    attempts = 0

    def put_file(self, key, path):
        self.attempts += 1
        if self.error:
            raise self.error
        super().put_file(key, path)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(background, "_PUBLISH_S", 0.02)


@pytest.fixture
def faulty(tmp_path):
    return Faulty(tmp_path / "faulty")


@pytest.fixture
def collecting(service, faulty):
    """Makes a service with a thread; it is closed after the test, once what it waits for is there again."""
    made = []

    def make(**change):
        made.append(service(**{"background": True, "flush_s": 0.05, "blobs": faulty, **change}))
        return made[-1]

    yield make
    faulty.error = None
    for one in made:
        one.close()


def published(service):
    return read_published(service.drainer.spool, time.time())


def offered(service):
    counts = published(service).counts
    return 0 if counts is None else counts.offered


def standstills(service):
    """What other processes see of it."""
    return {
        what: one for producer in published(service).producers for what, one in producer.standstills.items()
    }


def wait_until(condition):
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


def stored(state):
    with state.read() as connection:
        return connection.execute(select(func.count()).select_from(samples)).scalar_one()


def waiting(service):
    return spool_depth(service.drainer.spool).records


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_what_is_taken_is_stored_without_anybody_asking(collecting, state, png):
    service = collecting()

    for number in range(3):
        service.collect(image=png(number), confidence=0.5)

    wait_until(lambda: stored(state) == 3)


def test_what_is_taken_later_is_stored_too(collecting, state, png):
    service = collecting()
    service.collect(image=png(0), confidence=0.5)
    wait_until(lambda: stored(state) == 1)

    service.collect(image=png(1), confidence=0.5)

    wait_until(lambda: stored(state) == 2)


def test_nothing_is_stored_before_its_time(collecting, state, png):
    service = collecting(flush_s=3600.0)

    service.collect(image=png(0), confidence=0.5)

    # By then the thread has looked at the clock at least once after the frame was taken.
    wait_until(lambda: offered(service) == 1)
    assert (stored(state), waiting(service)) == (0, 1)


def test_counts_are_published_meanwhile(collecting, png):
    service = collecting(flush_s=3600.0)

    service.collect(image=png(0), confidence=0.5)
    service.collect(image=png(1), confidence=0.9)

    wait_until(lambda: offered(service) == 2)
    assert published(service).counts.by_outcome() == service.stats().by_outcome()


@pytest.mark.parametrize(
    "error", [Unavailable("no answer"), StorageFull("disk is full"), ValueError("a bug")]
)
def test_a_store_that_fails_is_warned_of_once_and_tried_until_it_takes_everything(
    collecting, faulty, state, png, caplog, error
):
    faulty.error = error
    service = collecting()

    service.collect(image=png(0), confidence=0.5)
    wait_until(lambda: faulty.attempts >= 3)

    [said] = warnings(caplog)
    assert "nothing is lost" in said
    assert str(error) in said
    assert waiting(service) == 1
    faulty.error = None
    wait_until(lambda: stored(state) == 1)


def test_other_processes_see_that_nothing_is_stored_since_when_and_why(collecting, faulty, state, png):
    faulty.error = Unavailable("no answer")
    began = time.time()
    service = collecting()
    service.collect(image=png(0), confidence=0.5)

    wait_until(lambda: faulty.attempts >= 3 and standstills(service))

    assert standstills(service).keys() == {"storing"}
    found = standstills(service)["storing"]
    assert began <= found.since <= time.time()
    assert found.why == "no answer"
    faulty.error = None
    wait_until(lambda: stored(state) == 1 and not standstills(service))


def test_a_store_that_fails_again_later_is_warned_of_again(collecting, faulty, state, png, caplog):
    service = collecting()
    for number in range(2):
        faulty.error = Unavailable(f"no answer {number}")
        service.collect(image=png(number), confidence=0.5)
        wait_until(lambda number=number: len(warnings(caplog)) == number + 1)
        faulty.error = None
        wait_until(lambda number=number: stored(state) == number + 1)

    assert ["no answer 0" in said for said in warnings(caplog)] == [True, False]


def test_closing_stores_what_waits(collecting, state, png):
    service = collecting(flush_s=3600.0)
    service.collect(image=png(0), confidence=0.5)

    service.close()

    assert (stored(state), waiting(service)) == (1, 0)


def test_closing_stops_the_thread(collecting):
    before = threading.active_count()
    service = collecting()
    assert threading.active_count() == before + 1

    service.close()

    assert threading.active_count() == before


def test_closing_before_a_store_that_fails_says_what_stays_in_the_spool(
    collecting, faulty, state, png, caplog
):
    faulty.error = Unavailable("no answer")
    service = collecting(flush_s=3600.0)
    service.collect(image=png(0), confidence=0.5)

    service.close()

    [said] = warnings(caplog)
    assert said == f"Frames stay in the spool {service.drainer.spool} until they can be stored: no answer"
    assert (stored(state), waiting(service)) == (0, 1)


def test_closing_twice_is_closing(collecting, state, png):
    service = collecting(flush_s=3600.0)
    service.collect(image=png(0), confidence=0.5)

    service.close()
    service.close()

    assert stored(state) == 1


def test_a_service_that_was_closed_still_takes_frames_for_the_next_one(collecting, state, png):
    service = collecting(flush_s=3600.0)
    service.close()

    assert service.collect(image=png(0), confidence=0.5).taken

    assert waiting(service) == 1
    collecting()
    wait_until(lambda: stored(state) == 1)


def forked(work, *arguments):
    child = multiprocessing.get_context("fork").Process(target=work, args=arguments, daemon=True)
    child.start()
    return child


def collect_and_stay(service, image, done):
    background._PUBLISH_S = 0.02
    service.collect(image=image, confidence=0.5)
    done.wait(PATIENCE_S)


def test_a_forked_child_stores_its_frames_with_a_thread_of_its_own(collecting, state, png, monkeypatch):
    # The parent's thread never looks.
    monkeypatch.setattr(background, "_PUBLISH_S", 3600.0)
    service, done = collecting(), multiprocessing.get_context("fork").Event()

    child = forked(collect_and_stay, service, png(0), done)

    wait_until(lambda: stored(state) == 1)
    done.set()
    child.join(PATIENCE_S)
    assert child.exitcode == 0


def test_a_child_that_closes_the_service_leaves_its_parents_thread_at_work(collecting, state, png):
    service = collecting()
    child = forked(service.close)
    child.join(PATIENCE_S)

    service.collect(image=png(0), confidence=0.5)

    assert child.exitcode == 0
    wait_until(lambda: stored(state) == 1)


class Forking(LocalBlobs):
    """A store in the middle of whose work somebody forks."""

    child = None

    def put_file(self, key, path):
        super().put_file(key, path)
        if self.child is None:
            self.done = multiprocessing.get_context("fork").Event()
            self.child = forked(self.done.wait, PATIENCE_S)


def test_a_child_forked_in_the_middle_of_a_drain_does_not_keep_others_from_draining(
    service, state, png, tmp_path
):
    blobs = Forking(tmp_path / "forking")
    collecting = service(blobs=blobs)
    collecting.collect(image=png(0), confidence=0.5)
    collecting.flush()

    collecting.collect(image=png(1), confidence=0.5)
    collecting.drainer.drain()

    assert blobs.child.is_alive()
    assert stored(state) == 2
    blobs.done.set()
    blobs.child.join(PATIENCE_S)


@pytest.mark.parametrize(
    "odd",
    [
        {"prediction": {"boxes": [[1, 1, 5, 5]], "classes": [0], "scores": [1.5]}},
        {"prediction": {"boxes": [[1, 1, 5, 5]], "classes": [0], "scores": [float("inf")]}},
        {"confidence": 0.9, "metadata": {"camera_id": None}},
        {"confidence": 0.9, "metadata": {"camera_id": ["east", 1]}},
    ],
    ids=str,
)
def test_a_frame_with_odd_values_does_not_stop_the_storing_of_others(collecting, state, png, odd):
    service = collecting()

    service.collect(image=png(0), **odd)
    service.collect(image=png(1), confidence=0.5)

    wait_until(lambda: stored(state) == 1)
    assert service.stats().offered == 2


def test_counts_that_cannot_be_published_do_not_stop_the_storing(service, state, png):
    attempts = []

    def publish():
        attempts.append(1)
        raise OSError(errno.ENOSPC, "No space left on device")

    collecting = service(flush_s=0.05)
    collecting.collect(image=png(0), confidence=0.5)
    thread = BackgroundDrainer(collecting.drainer, publish)

    wait_until(lambda: stored(state) == 1 or len(attempts) == 20)

    found = stored(state)
    thread.close()
    assert found == 1


class Silent(LocalBlobs):
    """A store that takes what it is sent and does not answer."""

    def __init__(self, root):
        super().__init__(root)
        self.asked, self.answer = threading.Event(), threading.Event()

    def put_file(self, key, path):
        self.asked.set()
        assert self.answer.wait(PATIENCE_S)
        super().put_file(key, path)


@pytest.mark.parametrize("flush_s", [0.05, 3600.0])
def test_closing_before_a_store_that_never_answers_ends_in_time_and_is_said(
    collecting, state, png, tmp_path, monkeypatch, caplog, flush_s
):
    monkeypatch.setattr(background, "_CLOSE_S", 0.3)
    blobs = Silent(tmp_path / "silent")
    service = collecting(blobs=blobs, flush_s=flush_s)
    service.collect(image=png(0), confidence=0.5)
    if flush_s < 1:
        assert blobs.asked.wait(PATIENCE_S)

    began = time.monotonic()
    service.close()
    took_s = time.monotonic() - began

    [said] = warnings(caplog)
    assert took_s < 5
    assert said == f"Frames stay in the spool {service.drainer.spool}: they were not stored within 0.3 s."
    blobs.answer.set()
    wait_until(lambda: stored(state) == 1)


def test_closing_never_raises(collecting, faulty, png, caplog):
    faulty.error = ValueError("a bug")
    service = collecting(flush_s=3600.0)
    service.collect(image=png(0), confidence=0.5)

    service.close()

    assert "Frames stay in the spool" in warnings(caplog)[0]


def test_closing_after_somebody_removed_the_folder_is_said(collecting, png, tmp_path, caplog):
    service = collecting(flush_s=3600.0)
    service.collect(image=png(0), confidence=0.5)
    shutil.rmtree(service.drainer.spool)
    service.drainer.spool.touch()

    service.close()

    assert any("are not published" in said for said in warnings(caplog))


def test_counts_of_processes_long_gone_become_one_file_while_others_go_on(collecting, png):
    service = collecting()
    gone = Counts(0.0, 1.0, {"east": {"taken": 3}}, [0] * (BINS + 1))
    for number in range(5):
        path = service.drainer.spool / f"{2**22 + number}-gone.counts"
        path.write_bytes(msgspec.json.encode(gone))

    wait_until(lambda: not list(service.drainer.spool.glob("*-gone.counts")))

    assert published(service).counts.by_outcome()["taken"] == 15


AT_EXIT = """
import atexit, sys
from pathlib import Path
from retrain.data_collection.collector import DataCollectionService

service = DataCollectionService(sys.argv[1], "all", flush_s=3600.0)
atexit.register(service.close)
assert service.collect(image=Path(sys.argv[2]).read_bytes(), confidence=0.5).taken
"""


def test_closing_at_the_exit_of_the_interpreter_stores_what_waits(tmp_path, png):
    (tmp_path / "frame.png").write_bytes(png(0))

    command = [sys.executable, "-c", AT_EXIT, tmp_path / "collected", tmp_path / "frame.png"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)

    state = open_state(f"sqlite:///{tmp_path / 'collected' / 'index.sqlite'}")
    found = stored(state)
    state.close()
    assert (done.returncode, done.stderr, found) == (0, "", 1)


SCRIPT = """
import sys
from pathlib import Path
from retrain.data_collection.collector import DataCollectionService

service = DataCollectionService(sys.argv[1], "all", flush_s=3600.0)
for path in sorted(Path(sys.argv[2]).iterdir()):
    assert service.collect(image=path.read_bytes(), confidence=0.5).taken
"""


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """A program that collected three frames and ended without closing; its storage, and what it said."""
    folder = tmp_path_factory.mktemp("ended")
    (folder / "frames").mkdir()
    for number in range(3):
        (folder / "frames" / f"{number}.png").write_bytes(png_bytes(number))
    command = [sys.executable, "-c", SCRIPT, folder / "collected", folder / "frames"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    return folder / "collected", done.stderr


def test_a_program_that_ends_without_closing_loses_nothing(ended):
    folder, _ = ended

    with DataCollectionService(folder, background=False) as service:
        service.flush()

    state = open_state(f"sqlite:///{folder / 'index.sqlite'}")
    found = stored(state)
    state.close()
    assert found == 3


def test_a_program_that_ends_without_closing_ends_quietly(ended):
    _, said = ended

    assert said == ""
