"""A real Redis server that tests can kill and freeze, and both ways from a spool to the store."""

import contextlib
import ctypes
import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from redis.exceptions import BusyLoadingError
from redis.exceptions import ConnectionError as NoConnection
from sqlalchemy import select

from retrain.data_collection.collector import DataCollectionService
from retrain.data_collection.redis_backend.connection import RedisConnection
from retrain.data_collection.redis_backend.drainer import StreamDrainer
from retrain.data_collection.redis_backend.forwarder import StreamForwarder
from retrain.data_collection.redis_backend.stream import RedisStream
from retrain.data_collection.sample import DataSample
from retrain.data_collection.store.drainer import Drainer
from retrain.data_collection.store.intake import Intake
from retrain.data_collection.store.samples import SampleStore
from retrain.storage.schema import draws, samples

START_WITHIN_S = 30
DURABLE = ("--appendonly", "yes", "--appendfsync", "always")


class RedisServer:
    """One `redis-server` on a port of 127.0.0.1, with its data in `folder`."""

    def __init__(self, folder, *options):
        self.folder, self.port = folder, free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._options = options
        self._process = None

    def start(self):
        command = [program(), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        command += ["--save", "", *self._options]
        with (self.folder / "log.txt").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                preexec_fn=die_with_parent,  # noqa: PLW1509
            )
        self._wait_until_it_answers()

    def set(self, setting, value):
        RedisConnection(self.url).client.config_set(setting, value)

    def kill(self):
        self._process.kill()
        self._process.wait()

    def freeze(self):
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self):
        self._process.send_signal(signal.SIGCONT)

    def stop(self):
        self.thaw()
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()

    def _wait_until_it_answers(self):
        deadline = time.monotonic() + START_WITHIN_S
        client = RedisConnection(self.url).client
        while True:
            try:
                client.ping()
                break
            except (NoConnection, BusyLoadingError):
                assert self._process.poll() is None, (self.folder / "log.txt").read_text()[-2000:]
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
        client.close()


@contextlib.contextmanager
def redis_server(folder, *options):
    server = RedisServer(folder, *options)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def program():
    found = shutil.which("redis-server")
    if found is None:
        pytest.skip("no redis-server found: apt-get install redis-server")
    return found


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def die_with_parent():
    # A test run that is itself killed must not leave servers behind (Linux: PR_SET_PDEATHSIG).
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def png(number, size=12):
    """A small image that no other number gives."""
    pixels = np.random.default_rng(number).integers(0, 256, (size, size, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def collector(folder, state, blobs, **change):
    """A service that takes every frame and drains nothing."""
    options = {"model": "m", "state": state, "blobs": blobs, "audit_rate": 0.0, "background": False}
    return DataCollectionService(folder, "all", **{**options, **change})


def stored(state):
    """Samples in the index."""
    with state.read() as connection:
        return [DataSample.from_row(row) for row in connection.execute(select(samples)).all()]


def drawn(state):
    """Draws in the index, in the order in which they were made."""
    with state.read() as connection:
        return connection.execute(select(draws).order_by(draws.c.id)).all()


class SpoolRoute:
    """From the spool to the store on one machine."""

    def __init__(self, folder, state, blobs, **options):
        self.store = SampleStore(state, blobs, folder / "cache", "one machine")
        self._drainer = Drainer(folder / "spool", Intake(self.store, **options))

    def bring(self):
        """Everything spooled is stored when this returns; what became of it."""
        return self._drainer.drain(wait=True)


class StreamRoute:
    """From the spool through Redis to the store."""

    def __init__(self, folder, state, blobs, redis, name, **options):
        self.stream = RedisStream(redis, name, min_idle_s=0.0)
        self.store = SampleStore(state, blobs, folder / "cache", "central")
        self.forwarder = StreamForwarder(folder / "spool", self.stream)
        self.drainer = StreamDrainer(self.stream, Intake(self.store, **options), folder / "central")

    def bring(self):
        sent = self.forwarder.drain(wait=True)
        report = self.drainer.drain()
        report.torn, report.damaged = sent.torn, sent.damaged
        return report


def patiently(attempt, failures, within_s=30.0):
    """What `attempt` returns once it does not raise one of the failures."""
    deadline = time.monotonic() + within_s
    while True:
        try:
            return attempt()
        except failures:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def unused():
    return os.urandom(6).hex()
