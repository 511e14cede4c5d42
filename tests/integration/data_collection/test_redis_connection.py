import socket
import threading
import time
from contextlib import contextmanager

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


@contextmanager
def slow_uplink(port, bytes_per_s):
    """A port before a server's that takes in no more than so much."""

    def answer(client, server):
        while data := server.recv(2**16):
            client.sendall(data)

    def forward(client):
        server = socket.create_connection(("127.0.0.1", port))
        threading.Thread(target=answer, args=(client, server), daemon=True).start()
        with client, server:
            while data := client.recv(2**14):
                time.sleep(len(data) / bytes_per_s)
                server.sendall(data)

    def accept():
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**14)
            threading.Thread(target=forward, args=(client,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]


def test_what_is_large_has_the_time_that_a_slow_uplink_needs(own_server):
    image = b"x" * 2_000_000
    with slow_uplink(own_server.port, 1_000_000) as port:
        connection = RedisConnection(f"redis://127.0.0.1:{port}/0", timeout_s=0.5)
        with connection.answering() as client:
            client.set("image", image)

    assert RedisConnection(own_server.url).client.strlen("image") == len(image)
