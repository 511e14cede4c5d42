"""Forgetting where frames go through Redis: what waits there, and what its append-only file keeps."""

import io
import time

import pytest
from rich.console import Console

from flows.forget_command import apply_retention, forget
from retrain.config import RetrainConfig
from retrain.data_collection.forgetting.retention import RetentionPolicy
from tasks.resources import Resources
from tests.integration.data_collection.redis_world import png, stored
from tests.unit.data_collection.erasing import files_with


@pytest.fixture
def resources(tmp_path, own_server):
    section = {"strategy": "all", "redis_url": own_server.url, "near_duplicates": {"enabled": False}}
    made = Resources(RetrainConfig.model_validate({"data_collection": section}), tmp_path / "home")
    made.home.mkdir()
    yield made
    made.state.close()


def collect(resources, number):
    with resources.collection_service(background=False) as service:
        service.collect(image=png(number), confidence=0.5, metadata={"camera_id": "gate"})
        service.flush()


def test_a_picture_that_waits_in_redis_is_said_to_stay_until_the_drain_and_in_its_file_until_that_is_rewritten(
    resources, own_server
):
    collect(resources, 1)
    file = io.StringIO()

    forget(resources, Console(file=file), time.time(), cameras=["gate"])

    assert "holds 1 frames that wait and 0 dead letters" in file.getvalue()
    assert "run BGREWRITEAOF there" in file.getvalue()
    drainer = resources.stream_drainer()
    assert drainer.drain().outcomes == {"forgotten": 1}
    assert files_with(own_server.folder, png(1)) != []
    with drainer._stream.redis.answering() as client:
        client.bgrewriteaof()
        while client.info("persistence")["aof_rewrite_in_progress"]:
            time.sleep(0.05)
    assert files_with(own_server.folder, png(1)) == files_with(resources.home, png(1)) == []


def test_a_picture_that_retention_deleted_is_stored_when_it_comes_through_redis_again(resources):
    collect(resources, 1)
    drainer = resources.stream_drainer()
    drainer.drain()

    apply_retention(resources, Console(file=io.StringIO()), RetentionPolicy(max_bytes=0), time.time())
    assert stored(resources.state) == []
    collect(resources, 1)

    assert drainer.drain().outcomes == {"stored": 1}
