"""Checkpoints in a second place: a folder and two real S3 servers, which may also be gone, full or wrong."""

import logging
import shutil

import boto3
import pytest
import torch
from botocore.config import Config

from retrain.errors import StorageFull, Unavailable
from retrain.storage.local_blobs import LocalBlobs
from retrain.storage.s3_blobs import S3Blobs
from retrain.training.checkpoints import CheckpointManager, Position

PREFIX = "jobs/0123abcd"
# Above the size from which S3 uploads go in parts.
BIG = 2_500_000


@pytest.fixture(params=["folder", "moto", "rclone"])
def store(request, tmp_path):
    if request.param == "folder":
        return LocalBlobs(tmp_path / "mirror")
    server = request.getfixturevalue(f"s3_server_{request.param}")
    return S3Blobs(server.new_bucket(), "some/prefix", client=server.client)


class Switched:
    """A store that can be made to stop answering: the same bucket, asked for at a port where nobody listens."""

    def __init__(self, server):
        bucket = server.new_bucket()
        nobody = boto3.session.Session().client(
            "s3",
            endpoint_url="http://127.0.0.1:1",
            aws_access_key_id="x",
            aws_secret_access_key="x",
            region_name="us-east-1",
            config=Config(retries={"mode": "standard", "max_attempts": 1}),
        )
        self.up = S3Blobs(bucket, client=server.client)
        self.down = S3Blobs(bucket, client=nobody)
        self.is_down = False

    def __getattr__(self, name):
        return getattr(self.down if self.is_down else self.up, name)


@pytest.fixture(params=["moto", "rclone"])
def switched(request):
    return Switched(request.getfixturevalue(f"s3_server_{request.param}"))


def state(number, size=100):
    return {"weights": torch.full((size,), float(number))}


def manager_of(folder, store, keep=2):
    return CheckpointManager(folder, keep, store, PREFIX)


def found(manager):
    position, loaded = manager.newest_good()
    return position, loaded["weights"][0].item()


def mirrored(store):
    return [key.removeprefix(f"{PREFIX}/") for key in store.keys(PREFIX)]


def warnings(caplog):
    # Threads that earlier tests left in this process warn too.
    ours = (record for record in caplog.records if record.name.startswith("retrain.training."))
    return [record.getMessage() for record in ours if record.levelno >= logging.WARNING]


def test_another_machine_goes_on_and_the_first_one_follows_when_it_is_back(store, tmp_path):
    first, second = (manager_of(tmp_path / name, store) for name in ("first", "second"))
    for position in (Position(1), Position(2), Position(2, 120)):
        first.save(position, state(position.epoch + position.images, BIG))
    assert mirrored(store) == ["epoch-00001.ckpt", "epoch-00002-images-0000000120.ckpt", "epoch-00002.ckpt"]

    assert found(second) == (Position(2, 120), 122.0)
    second.save(Position(3), state(3))
    second.save(Position(4), state(4))

    assert first.positions()[-1] == Position(2, 120)
    assert found(first) == (Position(4), 4.0)
    assert mirrored(store) == ["epoch-00003.ckpt", "epoch-00004.ckpt"]
    first.save(Position(5), state(5))
    assert first.positions() == [Position(4), Position(5)]
    assert mirrored(store) == ["epoch-00004.ckpt", "epoch-00005.ckpt"]


def test_what_is_newer_here_wins(store, tmp_path):
    manager_of(tmp_path / "here", store).save(Position(1), state(1))
    CheckpointManager(tmp_path / "here").save(Position(2), state(2))
    assert found(manager_of(tmp_path / "here", store)) == (Position(2), 2.0)


def test_a_damaged_file_is_fetched_again(store, tmp_path, caplog):
    manager = manager_of(tmp_path / "here", store)
    manager.save(Position(1), state(1))
    manager.save(Position(2), state(2)).write_bytes(b"")
    assert found(manager) == (Position(2), 2.0)
    assert ["epoch-00002.ckpt is damaged" in text for text in warnings(caplog)] == [True]
    assert manager.load(Position(2))


def test_a_damaged_copy_in_the_mirror_gives_the_one_before_it(store, tmp_path, caplog):
    manager_of(tmp_path / "here", store).save(Position(1), state(1))
    store.put(f"{PREFIX}/epoch-00002.ckpt", b"torn")
    other = manager_of(tmp_path / "other", store)
    assert found(other) == (Position(1), 1.0)
    assert ["epoch-00002.ckpt is damaged" in text for text in warnings(caplog)] == [True]
    assert other.positions() == [Position(1)]
    other.save(Position(2), state(2))
    assert found(manager_of(tmp_path / "third", store)) == (Position(2), 2.0)


def test_clearing_leaves_only_what_is_not_this_jobs(store, tmp_path):
    others = [f"{PREFIX}-2/epoch-00009.ckpt", f"{PREFIX}/notes.txt", "epoch-00009.ckpt"]
    for key in others:
        store.put(key, b"another's")
    manager = manager_of(tmp_path / "here", store)
    assert manager.newest_good() is None
    manager.save(Position(1), state(1))
    manager.clear()
    assert manager.newest_good() is None
    assert manager_of(tmp_path / "other", store).newest_good() is None
    assert sorted(store.keys()) == sorted(others)


def test_training_goes_on_while_the_mirror_is_down_and_is_protected_again_afterwards(
    switched, tmp_path, caplog
):
    manager = manager_of(tmp_path / "here", switched)
    manager.save(Position(1), state(1))
    switched.is_down = True
    for epoch in (2, 3, 4):
        manager.save(Position(epoch), state(epoch))
    assert manager.positions() == [Position(3), Position(4)]
    assert len(warnings(caplog)) == 1
    assert "not mirrored from epoch-00002.ckpt on" in warnings(caplog)[0]
    assert mirrored(switched.up) == ["epoch-00001.ckpt"]

    switched.is_down = False
    caplog.set_level(logging.INFO)
    manager.save(Position(5), state(5))
    assert mirrored(switched.up) == ["epoch-00001.ckpt", "epoch-00005.ckpt"]
    assert "mirrored again" in caplog.text
    switched.is_down = True
    manager.save(Position(6), state(6))
    assert len(warnings(caplog)) == 2


def test_a_mirror_that_is_down_never_means_starting_from_scratch(switched, tmp_path, caplog):
    manager_of(tmp_path / "first", switched).save(Position(1), state(1))
    switched.is_down = True
    other = manager_of(tmp_path / "other", switched)
    with pytest.raises(Unavailable, match=r"from scratch"):
        other.newest_good()
    caplog.clear()
    assert found(manager_of(tmp_path / "first", switched)) == (Position(1), 1.0)
    assert len(warnings(caplog)) == 1
    switched.is_down = False
    assert found(other) == (Position(1), 1.0)


def test_a_mirror_that_goes_down_while_fetching_is_not_an_empty_one(switched, tmp_path, monkeypatch):
    manager_of(tmp_path / "first", switched).save(Position(1), state(1))
    monkeypatch.setattr(switched, "fetch", switched.down.fetch, raising=False)
    with pytest.raises(Unavailable, match=r"from scratch"):
        manager_of(tmp_path / "other", switched).newest_good()


def test_a_finished_training_is_finished_though_the_mirror_is_down(switched, tmp_path, caplog):
    manager = manager_of(tmp_path / "here", switched)
    manager.save(Position(1), state(1))
    switched.is_down = True
    manager.clear()
    assert manager.positions() == []
    assert [PREFIX in text for text in warnings(caplog)] == [True]
    assert mirrored(switched.up) == ["epoch-00001.ckpt"]


def test_a_full_mirror_is_a_warning(small_disk, tmp_path, caplog):
    manager = manager_of(tmp_path / "here", LocalBlobs(small_disk))
    manager.save(Position(1), state(1))
    manager.save(Position(2), state(2, BIG))
    assert ["No space left" in text for text in warnings(caplog)] == [True]
    shutil.rmtree(tmp_path / "here")
    assert found(manager) == (Position(1), 1.0)


def test_a_disk_too_full_to_fetch_says_so_and_keeps_what_it_has(small_disk, tmp_path):
    store = LocalBlobs(tmp_path / "mirror")
    manager_of(small_disk / "here", store).save(Position(1), state(1))
    manager_of(tmp_path / "first", store).save(Position(2), state(2, BIG))
    here = manager_of(small_disk / "here", store)
    with pytest.raises(StorageFull, match=str(small_disk)):
        here.newest_good()
    assert [path.name for path in (small_disk / "here").iterdir()] == ["epoch-00001.ckpt"]
