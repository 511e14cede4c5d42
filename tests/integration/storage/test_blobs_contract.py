"""What every blob store promises, on a folder and on two real S3 servers."""

import contextlib
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from retrain.errors import BadInput, NotFound, PostConditionFailed
from retrain.storage.local_blobs import LocalBlobs
from retrain.storage.s3_blobs import S3Blobs

KEYS_PER_PAGE = 10
MULTIPART = 20 * 2**20 + 17


@pytest.fixture(params=["folder", "moto", "rclone"])
def blobs(request, tmp_path):
    if request.param == "folder":
        yield LocalBlobs(tmp_path / "blobs")
        return
    server = request.getfixturevalue(f"s3_server_{request.param}")
    listing = ("provide-client-params.s3.ListObjectsV2", small_pages)
    server.client.meta.events.register(*listing)
    yield S3Blobs(server.new_bucket(), "some/prefix", client=server.client)
    server.client.meta.events.unregister(*listing)


def small_pages(params, **_):
    # Servers send 1000 keys a page; the second page is what matters.
    return {**params, "MaxKeys": KEYS_PER_PAGE}


@pytest.mark.parametrize("data", [b"", b"x", bytes(range(256)) * 300])
def test_get_returns_exactly_what_was_put(blobs, data):
    blobs.put("a/b.bin", data)
    assert blobs.get("a/b.bin") == data


def test_put_replaces(blobs):
    blobs.put("a", b"a longer first value")
    blobs.put("a", b"second")
    assert blobs.get("a") == b"second"


def test_missing_key_is_not_found_and_named(blobs):
    assert not blobs.exists("no/such.bin")
    with pytest.raises(NotFound, match=r"no/such\.bin"):
        blobs.get("no/such.bin")


def test_fetch_of_a_missing_key_leaves_no_target(blobs, tmp_path):
    with pytest.raises(NotFound):
        blobs.fetch("no/such.bin", tmp_path / "out" / "x")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_folder_of_keys_is_not_a_key(blobs):
    blobs.put("folder/x", b"1")
    assert not blobs.exists("folder")
    with pytest.raises(NotFound):
        blobs.get("folder")


def test_delete_twice_is_the_same_as_once(blobs):
    blobs.put("a/x", b"1")
    blobs.delete("a/x")
    blobs.delete("a/x")
    blobs.delete("never/was")
    assert not blobs.exists("a/x")
    assert list(blobs.keys()) == []


def test_keys_are_those_with_the_prefix_sorted(blobs):
    for key in ["a/c", "a.b", "a0/x", "ab/1", "ab/2", "b"]:
        blobs.put(key, b"")
    assert list(blobs.keys()) == ["a.b", "a/c", "a0/x", "ab/1", "ab/2", "b"]
    assert list(blobs.keys("a")) == ["a.b", "a/c", "a0/x", "ab/1", "ab/2"]
    assert list(blobs.keys("ab/")) == ["ab/1", "ab/2"]
    assert list(blobs.keys("ab/2")) == ["ab/2"]
    assert list(blobs.keys("nothing/")) == []


def test_more_keys_than_one_page_are_all_listed(blobs):
    names = [f"many/{number:03}" for number in range(2 * KEYS_PER_PAGE + 1)]
    for name in names:
        blobs.put(name, b"")
    assert list(blobs.keys("many/")) == names


def test_a_large_file_goes_in_and_out_whole(blobs, tmp_path):
    source, target = tmp_path / "in.bin", tmp_path / "new folder" / "out.bin"
    source.write_bytes(os.urandom(MULTIPART))
    blobs.put_file("large", source)
    blobs.fetch("large", target)
    assert digest(target) == digest(source)
    assert [path.name for path in target.parent.iterdir()] == ["out.bin"]


def test_an_empty_file_goes_in_and_out(blobs, tmp_path):
    (tmp_path / "empty").touch()
    blobs.put_file("empty", tmp_path / "empty")
    blobs.fetch("empty", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b""


def test_fetch_replaces_the_target(blobs, tmp_path):
    (tmp_path / "out").write_bytes(b"an older and longer one")
    blobs.put("a", b"new")
    blobs.fetch("a", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b"new"


def test_a_file_that_does_not_exist_cannot_be_stored(blobs, tmp_path):
    with pytest.raises(BadInput, match=r"absent\.bin"):
        blobs.put_file("a", tmp_path / "absent.bin")
    assert not blobs.exists("a")


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/",
        "/etc/passwd",
        "../x",
        "a/../../x",
        "a//b",
        "a/",
        "./a",
        "a/.hidden",
        "a b",
        "a\\b",
        "a\n",
        "ä",
        "x" * 501,
    ],
)
def test_a_malformed_key_is_refused_by_every_method(blobs, tmp_path, key):
    (tmp_path / "source").write_bytes(b"1")
    for call in [
        lambda: blobs.put(key, b"1"),
        lambda: blobs.get(key),
        lambda: blobs.exists(key),
        lambda: blobs.delete(key),
        lambda: blobs.put_file(key, tmp_path / "source"),
        lambda: blobs.fetch(key, tmp_path / "out"),
    ]:
        with pytest.raises(BadInput, match="blob key"):
            call()


def test_simultaneous_puts_of_one_key_leave_one_of_them_whole(blobs):
    values = [bytes([number]) * 100_000 for number in range(4)]

    def put(value):
        # A store that reads back may find that another put came between; it must say so, not hide it.
        with contextlib.suppress(PostConditionFailed):
            blobs.put("same", value)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(put, values))
    assert blobs.get("same") in values


def digest(path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
