"""Collection over a real S3 server that fails in every way a server can, and over a disk that fills up."""

import io
import threading
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import func, select

from retrain.data_collection.collector import DataCollectionService
from retrain.data_collection.queue import SpoolLimits
from retrain.data_collection.spool.reader import spool_depth
from retrain.data_collection.store.samples import SampleStore
from retrain.errors import RetrainError
from retrain.storage.digests import content_digest
from retrain.storage.s3_blobs import S3Blobs
from retrain.storage.schema import packs, samples
from retrain.storage.state import open_state


def picture(number):
    pixels = np.random.default_rng(number).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


class Unreliable:
    """A proxy before an S3 server that breaks the next uploads: answers 500, hangs up half-way, or says nothing."""

    def __init__(self, endpoint_url):
        target, self.faults, self.uploads = urlsplit(endpoint_url), [], 0
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def forward(self):
                length = int(self.headers.get("Content-Length") or 0)
                if self.command == "PUT":
                    proxy.uploads += 1
                    if proxy.faults:
                        self.fail(proxy.faults.pop(0), length)
                        return
                body = self.rfile.read(length)
                upstream = HTTPConnection(target.hostname, target.port, timeout=20)
                upstream.request(self.command, self.path, body, dict(self.headers))
                answer = upstream.getresponse()
                data = answer.read()
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in {"transfer-encoding", "content-length", "connection"}:
                        self.send_header(name, value)
                self.send_header("Content-Length", answer.getheader("Content-Length") or str(len(data)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)

            def fail(self, fault, length):
                self.close_connection = True
                self.rfile.read(length // 2 if fault == "hang up" else length)
                if fault == "500":
                    self.send_response(500)
                    self.send_header("Content-Length", "0")
                    self.end_headers()

            do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = forward  # noqa: N815

            def log_message(self, *_):
                """Quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def unreliable(s3_server_rclone, monkeypatch):
    proxy = Unreliable(s3_server_rclone.endpoint_url)
    for name, value in s3_server_rclone.environment().items():
        monkeypatch.setenv(name, value)
    # The signature covers the host, which the proxy passes on as it came.
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    yield proxy, s3_server_rclone.new_bucket()
    proxy.close()


def stored(state):
    with state.read() as connection:
        return connection.execute(select(samples)).all()


@pytest.mark.parametrize("fault", ["500", "hang up", "no answer"])
def test_uploads_that_fail_lose_nothing_and_are_made_once_when_the_store_is_back(unreliable, tmp_path, fault):
    proxy, bucket = unreliable
    state = open_state(f"sqlite:///{tmp_path / 'state.db'}")
    service = DataCollectionService(
        tmp_path, "all", state=state, blobs=S3Blobs(bucket), background=False, near_duplicates=None
    )
    for number in range(20):
        assert service.collect(image=picture(number), confidence=0.5).taken
    proxy.faults = [fault] * 30  # more than boto3 tries

    with pytest.raises(RetrainError):
        service.flush()

    assert stored(state) == []
    assert spool_depth(service.drainer.spool).records == 20
    proxy.faults = []
    service.flush()
    rows = stored(state)
    store = SampleStore(state, S3Blobs(bucket), tmp_path / "cache", "reader")
    assert {row.id for row in rows} == {content_digest(picture(number)) for number in range(20)}
    assert all(content_digest(store.image(row)) == row.id for row in rows)
    with state.read() as connection:
        assert connection.execute(select(packs.c.state, func.count()).group_by(packs.c.state)).all() == [
            ("stored", 1)
        ]
    assert len(list(S3Blobs(bucket).keys("packs/"))) == 1
    assert spool_depth(service.drainer.spool).records == 0


def test_one_failed_try_is_tried_again_by_itself(unreliable, tmp_path):
    proxy, bucket = unreliable
    state = open_state(f"sqlite:///{tmp_path / 'state.db'}")
    service = DataCollectionService(tmp_path, "all", state=state, blobs=S3Blobs(bucket), background=False)
    service.collect(image=picture(0), confidence=0.5)
    proxy.faults = ["500"]

    service.flush()

    assert len(stored(state)) == 1
    assert proxy.uploads == 2


def test_a_full_disk_drops_new_frames_with_a_reason_and_keeps_every_acknowledged_one(small_disk, tmp_path):
    state = open_state(f"sqlite:///{tmp_path / 'state.db'}")
    # Smaller than its limit says: the disk ends first.
    limits = SpoolLimits(max_bytes=2**30, segment_bytes=64 * 1024)
    service = DataCollectionService(
        small_disk, "all", state=state, background=False, limits=limits, near_duplicates=None
    )
    decisions = [service.collect(image=picture(number), confidence=0.5) for number in range(4000)]

    taken = {number for number, one in enumerate(decisions) if one.taken}
    assert 0 < len(taken) < 4000
    assert {one.reason for one in decisions if not one.taken} <= {
        next(one.reason for one in decisions if not one.taken)
    }
    assert "No space left" in next(one.reason for one in decisions if not one.taken)
    assert service.stats().by_outcome()["dropped: full"] == 4000 - len(taken)
    roomy = DataCollectionService(small_disk, "all", state=state, background=False, near_duplicates=None)
    assert roomy.drainer.spool == service.drainer.spool
    with pytest.raises(RetrainError):
        roomy.flush()  # there is no room for a pack beside the spool
    assert spool_depth(service.drainer.spool).records == len(taken)


def test_what_a_full_disk_held_back_is_stored_once_there_is_room(small_disk, tmp_path):
    state = open_state(f"sqlite:///{tmp_path / 'state.db'}")
    limits = SpoolLimits(max_bytes=2**30, segment_bytes=64 * 1024)
    service = DataCollectionService(
        small_disk, "all", state=state, background=False, limits=limits, near_duplicates=None
    )
    service.collect(image=picture(0), confidence=0.5)
    ballast = small_disk / "ballast"
    with pytest.raises(OSError, match="No space"), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    with pytest.raises(RetrainError):
        service.flush()

    ballast.unlink()
    service.flush()

    assert [row.id for row in stored(state)] == [content_digest(picture(0))]
