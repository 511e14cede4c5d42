import time

import pytest

from retrain.data_collection.redis_backend.connection import RedisConnection
from retrain.errors import StorageFull, Unavailable
from tests.integration.data_collection.redis_world import free_port, patiently

PATIENCE_S = 1.0
"""Ten tries with pauses, as redis-py may make them, take longer."""


def ask(connection):
    with connection.answering() as client:
        return client.ping()


def test_a_server_that_is_not_there_is_not_waited_for():
    connection = RedisConnection(f"redis://user:secret@127.0.0.1:{free_port()}/0")
    began = time.monotonic()

    with pytest.raises(Unavailable, match="cannot be reached") as refused:
        ask(connection)

    assert time.monotonic() - began < PATIENCE_S
    assert "secret" not in str(refused.value)


def test_a_frozen_server_is_waited_for_no_longer_than_said(own_server):
    connection = RedisConnection(own_server.url, timeout_s=0.2)
    ask(connection)
    own_server.freeze()
    began = time.monotonic()

    for _ in range(2):
        with pytest.raises(Unavailable, match=r"did not answer within 0.2 s"):
            ask(connection)

    assert time.monotonic() - began < PATIENCE_S
    own_server.thaw()
    assert patiently(lambda: ask(connection), Unavailable)


def test_the_same_connection_goes_on_when_the_server_is_back(own_server):
    connection = RedisConnection(own_server.url)
    ask(connection)
    own_server.kill()
    with pytest.raises(Unavailable):
        ask(connection)

    own_server.start()

    assert ask(connection)


def test_a_wrong_password_is_said_and_not_shown(own_server):
    own_server.set("requirepass", "right")
    connection = RedisConnection(own_server.url.replace("//", "//:secret@"))

    with pytest.raises(Unavailable, match="refused the login") as refused:
        ask(connection)

    assert "secret" not in str(refused.value)


def test_a_server_without_memory_is_full_and_what_is_refused_is_said(own_server):
    connection = RedisConnection(own_server.url)
    own_server.set("maxmemory", "1")

    with pytest.raises(StorageFull, match="has reached its maxmemory"), connection.answering() as client:
        client.set("key", "value")
    with pytest.raises(Unavailable, match="version 7 or newer"), connection.answering() as client:
        client.execute_command("XNEWER")


def test_settings_that_can_lose_what_waits_are_named(own_server):
    connection = RedisConnection(own_server.url)
    safe = connection.dangers()
    own_server.set("appendonly", "no")
    own_server.set("maxmemory", "100mb")
    own_server.set("maxmemory-policy", "allkeys-lru")

    memory_only, evicting = connection.dangers()

    assert safe == []
    assert "set appendonly yes" in memory_only
    assert "maxmemory-policy allkeys-lru" in evicting
