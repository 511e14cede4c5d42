"""A shared Redis for tests that leave it alone, and one of its own for each test that kills it."""

import pytest

from retrain.data_collection.redis_backend.connection import RedisConnection
from retrain.data_collection.redis_backend.stream import RedisStream
from retrain.storage.local_blobs import LocalBlobs
from retrain.storage.state import open_state
from tests.integration.data_collection.redis_world import DURABLE, redis_server, unused


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory):
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def own_server(tmp_path):
    """Writes every command to disk before it answers."""
    folder = tmp_path / "redis"
    folder.mkdir()
    with redis_server(folder, *DURABLE) as server:
        yield server


@pytest.fixture
def redis(shared_server):
    connection = RedisConnection(shared_server.url)
    yield connection
    connection.client.close()


@pytest.fixture
def name():
    """Of a stream or quota that no other test uses."""
    return unused()


@pytest.fixture
def stream(redis, name):
    """Makes drainers' and forwarders' ends of one stream, whose drainers count as dead at once."""
    return lambda **change: RedisStream(redis, name, **{"min_idle_s": 0.0, **change})


@pytest.fixture
def state(tmp_path):
    store = open_state(f"sqlite:///{tmp_path / 'state.sqlite'}")
    yield store
    store.close()


@pytest.fixture
def blobs(tmp_path):
    return LocalBlobs(tmp_path / "blobs")
