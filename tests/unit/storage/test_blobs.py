"""What only a folder of blobs can get wrong; the contract of all stores is in tests/integration/storage."""

import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from retrain.errors import BadInput, ConfigError, NotFound, PostConditionFailed, StorageFull, Unavailable
from retrain.storage.files import whole_file
from retrain.storage.local_blobs import LocalBlobs
from retrain.storage.open_blobs import open_blobs
from retrain.storage.s3_blobs import S3Blobs

DAY_S = 86_400


@pytest.fixture
def blobs(tmp_path):
    return LocalBlobs(tmp_path / "blobs")


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_blob_is_a_plain_file_of_its_key(blobs):
    blobs.put("a/b.bin", b"1")
    assert files(blobs.root) == ["a/b.bin"]
    assert (blobs.root / "a" / "b.bin").read_bytes() == b"1"


@pytest.mark.parametrize(
    "key", ["../x", "/x", "a/../../x", "", "a//b", ".incoming/x", "a/.x", "a\n", "x" * 201]
)
def test_no_key_leads_out_of_the_folder(blobs, tmp_path, key):
    with pytest.raises(BadInput, match="blob key"):
        blobs.put(key, b"1")
    assert files(tmp_path) == []


def test_one_key_cannot_be_the_folder_of_another(blobs):
    blobs.put("a/b", b"1")
    blobs.put("c", b"1")
    for key in ("a", "c/d"):
        with pytest.raises(BadInput, match="folder of another"):
            blobs.put(key, b"2")
    assert list(blobs.keys()) == ["a/b", "c"]
    assert files(blobs.root) == ["a/b", "c"]


def test_two_stores_on_one_folder_see_the_same(blobs):
    blobs.put("a", b"1")
    assert LocalBlobs(blobs.root).get("a") == b"1"


def test_a_relative_root_stays_where_it_was(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blobs = open_blobs("blobs")
    monkeypatch.chdir("/")
    blobs.put("a", b"1")
    assert files(tmp_path) == ["blobs/a"]


@pytest.mark.parametrize("failing", ["write", "sync"])
def test_a_write_that_fails_keeps_the_old_bytes_and_no_rest(blobs, tmp_path, monkeypatch, failing):
    blobs.put("a", b"old")
    (tmp_path / "source").write_bytes(b"new")

    def fail(*_):
        raise OSError(28, "No space left on device")

    if failing == "sync":
        monkeypatch.setattr("retrain.storage.files.os.fsync", fail)
    else:
        monkeypatch.setattr("retrain.storage.local_blobs.shutil.copyfileobj", fail)
    with pytest.raises(StorageFull, match=str(blobs.root)):
        blobs.put_file("a", tmp_path / "source")
    monkeypatch.undo()
    assert blobs.get("a") == b"old"
    assert files(blobs.root) == ["a"]


def test_an_interrupted_block_leaves_no_file(tmp_path):
    with pytest.raises(KeyboardInterrupt), whole_file(tmp_path / "a", tmp_path / ".a.partial") as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert files(tmp_path) == []


def test_what_killed_writers_left_is_swept_and_what_others_are_putting_is_not(blobs):
    incoming, host = blobs.root / ".incoming", socket.gethostname()
    dead = subprocess.Popen(["true"])
    dead.wait()
    ages = {
        f"{os.getpid()}-{host}-working": 2 * DAY_S,
        f"{os.getppid()}-{host}-working": 0,
        f"{os.getppid()}-{host}-number-reused": 10 * 365 * DAY_S,
        f"{dead.pid}-{host}-killed": 0,
        f"{dead.pid}-another.host-perhaps-working": DAY_S / 2,
        f"{os.getppid()}-another.host-killed": 2 * DAY_S,
    }
    for name, age in ages.items():
        (incoming / name).write_bytes(b"half")
        os.utime(incoming / name, (time.time() - age,) * 2)

    again = LocalBlobs(blobs.root)

    assert {path.name.rpartition("-")[2] for path in incoming.iterdir()} == {"working"}
    assert len(list(incoming.iterdir())) == 3
    assert list(again.keys()) == []


@pytest.mark.parametrize("way", ["put", "put_file"])
def test_a_disk_that_keeps_other_bytes_is_noticed(tmp_path, way):
    class Lossy(LocalBlobs):
        @contextmanager
        def _arriving(self, target):
            with super()._arriving(target) as file:
                yield file
            target.write_bytes(b"0ther")

    blobs = Lossy(tmp_path / "blobs")
    (tmp_path / "source").write_bytes(b"other")

    with pytest.raises(PostConditionFailed, match=r"holds other bytes for 'a/b'"):
        blobs.put("a/b", b"other") if way == "put" else blobs.put_file("a/b", tmp_path / "source")


def test_a_killed_put_is_swept_by_the_next_process(blobs):
    writing = """
import os, signal, sys
from pathlib import Path
from retrain.storage.local_blobs import LocalBlobs
blobs = LocalBlobs(Path(sys.argv[1]))
with blobs._arriving(blobs.root / "a") as file:
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", writing, blobs.root], check=False)
    assert files(blobs.root)

    blobs.remove_unfinished()

    assert files(blobs.root) == []


def test_foreign_files_are_not_listed(blobs):
    (blobs.root / ".DS_Store").touch()
    (blobs.root / "not a key").touch()
    blobs.put("a", b"")
    assert list(blobs.keys()) == ["a"]


def test_the_store_says_which_folder_may_not_be_written(locked_folder):
    with pytest.raises(Unavailable, match=str(locked_folder)):
        LocalBlobs(locked_folder / "blobs")


def test_a_blob_deleted_while_listing_is_only_missing(blobs):
    blobs.put("a/x", b"")
    blobs.put("b", b"")
    listing = blobs.keys()
    assert next(listing) == "a/x"
    blobs.delete("b")
    with pytest.raises(NotFound):
        blobs.get("b")
    assert list(listing) in ([], ["b"])


def test_urls_name_the_store(tmp_path):
    assert isinstance(open_blobs(str(tmp_path / "x")), LocalBlobs)
    assert isinstance(open_blobs("s3://bucket/a/prefix"), S3Blobs)


@pytest.mark.parametrize("url", ["", "s3://", "s3:///key", "gs://bucket/x", "http://host/x"])
def test_a_url_of_no_store_is_a_config_error(url):
    with pytest.raises(ConfigError, match="folder or in s3://"):
        open_blobs(url)


def test_an_s3_prefix_is_checked_like_a_key():
    with pytest.raises(BadInput, match=r"\.\./x"):
        open_blobs("s3://bucket/../x")


def test_storage_can_be_imported_without_boto3_and_psycopg():
    program = (
        "import sys, retrain.storage.blobs, retrain.storage.state, retrain.storage.leases, retrain.storage.journal\n"
        "print(sorted({'boto3', 'botocore', 'psycopg'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_sorted_listing_agrees_with_plain_sorting(blobs):
    names = [
        f"{a}{sep}{b}" for a, b, sep in zip("aabbcc", "xyzxyz", ["/", ".", "-", "/", "+", "0"], strict=True)
    ]
    for name in names:
        blobs.put(name, b"")
    assert list(blobs.keys()) == sorted(names)
