"""Versions travel through a real S3 server: push, clone, pull, read."""

import pytest

from retrain.dataset.manager import DatasetManager
from retrain.dataset.repository.dvc_repository import DvcRepository
from retrain.errors import Conflict, NotFound, Unavailable


@pytest.fixture(params=["moto", "rclone"])
def s3_server(request):
    return request.getfixturevalue(f"s3_server_{request.param}")


def test_a_fresh_clone_has_every_version_after_a_pull(s3_server, manager, build, tmp_path, monkeypatch):
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    build.version(manager, "v1.1.0", range(40, 44), parent="v1.0.0")
    bucket = s3_server.new_bucket()
    build.git(tmp_path, "init", "-q", "--bare", "shared.git")

    manager.repository.add_remote("store", f"s3://{bucket}/datasets", s3_server.endpoint_url)
    manager.repository.push(str(tmp_path / "shared.git"))
    build.git(tmp_path / "shared.git", "symbolic-ref", "HEAD", "refs/heads/main")
    clone = DatasetManager(DvcRepository.clone(str(tmp_path / "shared.git"), tmp_path / "clone").folder)

    assert clone.versions() == ["v1.0.0", "v1.1.0"]
    with pytest.raises(NotFound, match="not on this machine"):
        clone.get_version("v1.0.0")
    clone.repository.pull()
    assert [clone.verify(name).digest for name in clone.versions()] == [
        manager.get_version(name).digest for name in manager.versions()
    ]
    stored = s3_server.client.list_objects_v2(Bucket=bucket)["KeyCount"]
    assert stored == 2 + 2 + 2 + 2, (
        "two packs, two segments and the lists of both: what is inherited is not sent again"
    )


def test_packs_of_many_megabytes_travel_whole_too(s3_server, manager, build, tmp_path, monkeypatch):
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    large = build.version(manager, "v1.1.0", range(40, 110), parent="v1.0.0", side=512)
    assert max(manager.pack_file(large, item.pack).stat().st_size for item in large.items) > 52_428_800, (
        "sent in parts"
    )
    manager.repository.add_remote("store", f"s3://{s3_server.new_bucket()}/datasets", s3_server.endpoint_url)
    manager.repository.push()

    clone = DatasetManager(DvcRepository.clone(str(manager.repository.folder), tmp_path / "clone").folder)
    clone.repository.pull(["v1.1.0"])

    assert clone.verify("v1.1.0") == large


def test_a_clone_follows_what_was_pushed_since_and_says_when_both_went_on(manager, build, tmp_path):
    build.git(tmp_path, "init", "-q", "--bare", "--initial-branch=main", "shared.git")
    shared = str(tmp_path / "shared.git")
    manager.repository.add_remote("store", str(tmp_path / "store"))
    manager.repository.push(shared)
    clone = DatasetManager(DvcRepository.clone(shared, tmp_path / "clone").folder)
    build.version(manager, "v1.1.0", range(40, 44), parent="v1.0.0")
    manager.tag("best", "v1.1.0")
    manager.repository.push(shared)

    clone.repository.pull()

    assert clone.versions() == ["v1.0.0", "v1.1.0"]
    assert clone.verify("best").name == "v1.1.0"
    assert clone.repository.status() == {}
    build.version(clone, "v1.2.0", range(50, 54), parent="v1.1.0")
    build.version(manager, "v1.2.0", range(60, 64), parent="v1.1.0")
    manager.repository.push(shared)
    with pytest.raises(Conflict, match=r"1 commits were made in .*clone and 1 where it was cloned from"):
        clone.repository.pull()
    assert len(clone.verify("v1.2.0").items) == 32


def test_a_server_that_is_gone_is_an_error_in_words_and_loses_nothing(manager, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    manager.repository.add_remote("store", "s3://bucket/datasets", "http://127.0.0.1:9")

    with pytest.raises(Unavailable, match=r"`dvc push` failed in .*(refused|connect)"):
        manager.repository.push()

    assert manager.verify("v1.0.0").name == "v1.0.0"
