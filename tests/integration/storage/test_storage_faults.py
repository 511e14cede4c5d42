"""Full and read-only disks, and processes killed in the middle of a write."""

import contextlib
import multiprocessing
import os
import sqlite3
import subprocess
import time
import uuid

import pytest

from retrain.errors import StorageFull, Unavailable
from retrain.storage.journal import Journal
from retrain.storage.local_blobs import LocalBlobs
from retrain.storage.s3_blobs import S3Blobs
from retrain.storage.state import open_state

BIG = 8 * 2**20


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_a_blob_that_does_not_fit_leaves_the_old_one_and_nothing_else(small_disk):
    blobs = LocalBlobs(small_disk / "blobs")
    blobs.put("a", b"old")
    with pytest.raises(StorageFull, match=str(small_disk)):
        blobs.put("a", bytes(BIG))
    assert blobs.get("a") == b"old"
    assert [path.name for path in files(small_disk)] == ["a"]
    blobs.put("b", b"there is room again")


def test_a_file_that_does_not_fit_is_not_stored_and_not_fetched(small_disk, tmp_path):
    (tmp_path / "source").write_bytes(bytes(BIG))
    with pytest.raises(StorageFull):
        LocalBlobs(small_disk / "blobs").put_file("a", tmp_path / "source")
    blobs = LocalBlobs(tmp_path / "blobs")
    blobs.put_file("a", tmp_path / "source")
    with pytest.raises(StorageFull):
        blobs.fetch("a", small_disk / "out" / "a")
    assert files(small_disk) == []


def test_fetching_from_s3_to_a_full_disk_leaves_nothing(small_disk, s3_server_moto):
    blobs = S3Blobs(s3_server_moto.new_bucket(), client=s3_server_moto.client)
    blobs.put("a", bytes(BIG))
    with pytest.raises(StorageFull):
        blobs.fetch("a", small_disk / "a")
    assert files(small_disk) == []


def test_a_full_disk_undoes_the_transaction_and_the_state_goes_on_when_there_is_room(small_disk):
    state = open_state(f"sqlite:///{small_disk / 'state.db'}")
    entries = Journal(state, "s")
    entries.append("first", "x", {}, 0.0)
    filler = small_disk / "filler"
    fill(filler, leave=32 * 1024)
    with pytest.raises(StorageFull, match=r"state\.db.*undone"), state.write() as connection:
        for number in range(100):
            entries.append(f"key-{number}", "x", {"text": "y" * 10_000}, 0.0, connection)
    assert [entry.key for entry in entries.entries()] == ["first"]
    filler.unlink()
    assert entries.append("second", "x", {}, 0.0)
    state.close()
    assert sqlite3.connect(small_disk / "state.db").execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.parametrize("leave", [0, 16 * 1024])
def test_a_state_that_cannot_even_be_opened_for_lack_of_space_says_so(small_disk, leave):
    fill(small_disk / "filler", leave=leave)
    with pytest.raises(StorageFull, match=r"state\.db"):
        open_state(f"sqlite:///{small_disk / 'state.db'}")
    (small_disk / "filler").unlink()
    open_state(f"sqlite:///{small_disk / 'state.db'}").close()


def fill(path, leave):
    usage = os.statvfs(path.parent)
    path.write_bytes(bytes(usage.f_bavail * usage.f_frsize - leave))


def test_a_read_only_disk_is_named(small_disk):
    state = open_state(f"sqlite:///{small_disk / 'state.db'}")
    state.close()
    LocalBlobs(small_disk / "blobs").put("a", b"1")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(Unavailable, match=str(small_disk)):
        open_state(f"sqlite:///{small_disk / 'new' / 'state.db'}")
    with pytest.raises(Unavailable, match=str(small_disk)):
        open_state(f"sqlite:///{small_disk / 'state.db'}")
    with pytest.raises(Unavailable, match=str(small_disk)):
        LocalBlobs(small_disk / "blobs").put("a", b"2")
    assert (small_disk / "blobs" / "a").read_bytes() == b"1"


def test_a_process_killed_in_the_middle_of_a_put_leaves_the_old_blob(tmp_path):
    blobs = LocalBlobs(tmp_path / "blobs")
    blobs.put("a", b"old")
    # The source is a pipe that stalls after one part, so that the kill comes in the middle for certain.
    source = tmp_path / "source"
    os.mkfifo(source)
    process = multiprocessing.get_context("fork").Process(target=blobs.put_file, args=("a", source))
    process.start()
    with source.open("wb") as pipe:
        pipe.write(bytes(9 * 2**20))
        pipe.flush()
        assert sum(path.stat().st_size for path in files(tmp_path / "blobs")) >= 8 * 2**20
        process.kill()
        process.join()
    assert blobs.get("a") == b"old"
    assert list(blobs.keys()) == ["a"]
    blobs.put("a", b"new")
    assert LocalBlobs(tmp_path / "blobs").get("a") == b"new"


def test_a_process_killed_while_writing_keeps_what_it_reported_and_no_half(tmp_path):
    url = f"sqlite:///{tmp_path / 'state.db'}"
    reported = kill_while_running(append_pairs_for_ever, url, times=10)
    state = open_state(url)
    keys = {entry.key for entry in Journal(state, "s").entries()}
    assert {pair + end for pair in reported for end in ("-a", "-b")} <= keys
    assert {key[:-2] for key in keys if key.endswith("-a")} == {
        key[:-2] for key in keys if key.endswith("-b")
    }
    state.close()


def append_pairs_for_ever(url, reports):
    state = open_state(url)
    journal = Journal(state, "s")
    while True:
        pair = uuid.uuid4().hex
        with state.write() as connection:
            journal.append(f"{pair}-a", "x", {"text": "y" * 20_000}, 0.0, connection)
            journal.append(f"{pair}-b", "x", {"text": "y" * 20_000}, 0.0, connection)
        reports.send(pair)


def kill_while_running(target, argument, times):
    """SIGKILL a process that runs `target`, so many times, each a little later; returns what it reported."""
    fork = multiprocessing.get_context("fork")
    reported = []
    for attempt in range(times):
        ours, theirs = fork.Pipe(duplex=False)
        process = fork.Process(target=target, args=(argument, theirs))
        process.start()
        theirs.close()
        reported.append(ours.recv())
        time.sleep(0.002 * attempt)
        process.kill()
        process.join()
        with contextlib.suppress(EOFError):
            while True:
                reported.append(ours.recv())
    return reported
