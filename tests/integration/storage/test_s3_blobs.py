"""What only an S3 store can get wrong: credentials, endpoints, buckets, broken servers."""

import http.server
import threading

import pytest

from retrain.errors import NotFound, PostConditionFailed, Unavailable
from retrain.storage.open_blobs import open_blobs
from retrain.storage.s3_blobs import S3Blobs


@pytest.fixture(params=["moto", "rclone"])
def server(request, monkeypatch):
    found = request.getfixturevalue(f"s3_server_{request.param}")
    for name, value in found.environment().items():
        monkeypatch.setenv(name, value)
    return found


def test_a_url_and_the_environment_are_enough(server):
    bucket = server.new_bucket()
    open_blobs(f"s3://{bucket}/some/prefix").put("a/b", b"1")
    assert open_blobs(f"s3://{bucket}/some/prefix/").get("a/b") == b"1"
    assert list(open_blobs(f"s3://{bucket}").keys()) == ["some/prefix/a/b"]


def test_a_missing_bucket_is_not_taken_for_a_missing_key(server):
    blobs = S3Blobs("no-such-bucket", endpoint_url=server.endpoint_url)
    with pytest.raises(Unavailable, match=r"'no-such-bucket' at http://127.*create the bucket"):
        blobs.exists("a")


def test_two_prefixes_of_a_bucket_do_not_see_each_other(server):
    bucket = server.new_bucket()
    one, two = S3Blobs(bucket, "one", client=server.client), S3Blobs(bucket, "two", client=server.client)
    one.put("a", b"1")
    assert list(two.keys()) == []
    with pytest.raises(NotFound):
        two.get("a")


def test_multipart_uploads_of_exactly_one_and_two_parts_verify(server, tmp_path):
    blobs = S3Blobs(server.new_bucket(), client=server.client)
    for size in (8 * 2**20, 16 * 2**20):
        (tmp_path / "source").write_bytes(b"7" * size)
        blobs.put_file("large", tmp_path / "source")
        blobs.fetch("large", tmp_path / "out")
        assert (tmp_path / "out").stat().st_size == size


def test_an_upload_that_was_killed_is_aborted_after_a_day_and_no_other_prefix_is_touched(
    s3_server_moto, monkeypatch
):
    bucket, client = s3_server_moto.new_bucket(), s3_server_moto.client
    blobs = S3Blobs(bucket, "ours", client=client)
    for key in ("ours/a", "others/a"):
        upload = client.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
        client.upload_part(Bucket=bucket, Key=key, UploadId=upload, PartNumber=1, Body=b"half")

    def waiting():
        return [upload["Key"] for upload in client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])]

    # This server says of every upload that it began in 2010.
    with monkeypatch.context() as patient:
        patient.setattr("retrain.storage.s3_blobs.DAY_S", 100 * 365 * 86_400)
        blobs.remove_unfinished()
    assert sorted(waiting()) == ["others/a", "ours/a"]

    blobs.remove_unfinished()
    assert waiting() == ["others/a"]


def test_there_is_nothing_to_abort_where_nothing_was_killed(server):
    S3Blobs(server.new_bucket(), client=server.client).remove_unfinished()


def test_a_wrong_secret_is_unavailable_and_is_not_printed(s3_server_rclone, monkeypatch):
    bucket = s3_server_rclone.new_bucket()
    for name, value in s3_server_rclone.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
    with pytest.raises(Unavailable, match=bucket) as caught:
        S3Blobs(bucket).put("a", b"1")
    assert "not-the-secret" not in str(caught.value)


def test_no_credentials_is_unavailable_naming_bucket_and_endpoint(monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    with pytest.raises(Unavailable, match=r"'samples' at http://127\.0\.0\.1:9.*credentials"):
        S3Blobs("samples", endpoint_url="http://user:secret@127.0.0.1:9").get("a")


def test_an_endpoint_that_is_down_is_unavailable_without_its_login(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    with pytest.raises(Unavailable, match=r"'samples' at http://127\.0\.0\.1:9 ") as caught:
        S3Blobs("samples", endpoint_url="http://user:hunter2@127.0.0.1:9").exists("a")
    assert "hunter2" not in str(caught.value)


def test_a_store_that_keeps_other_bytes_fails_the_put(broken_store):
    with pytest.raises(PostConditionFailed, match="'a'"):
        broken_store.put("a", b"what we meant")


@pytest.fixture
def broken_store(monkeypatch):
    """A store that accepts every put and returns something else."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Forgetful)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield S3Blobs("bucket", endpoint_url=f"http://127.0.0.1:{server.server_port}")
    server.shutdown()
    thread.join()
    server.server_close()


class Forgetful(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_PUT(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(b"")

    def do_HEAD(self):
        self.answer(b"what it kept!", send=False)

    def do_GET(self):
        self.answer(b"what it kept!")

    def answer(self, body, send=True):
        self.send_response(200)
        self.send_header("ETag", '"0123456789abcdef0123456789abcdef"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if send:
            self.wfile.write(body)

    def log_message(self, *_):
        pass
