"""Real servers, started once per session on 127.0.0.1, stopped by pid: two S3 implementations and Postgres."""

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from urllib.parse import quote

import boto3
import psycopg
import pytest
from botocore.config import Config

START_WITHIN_S = 60


@dataclass(frozen=True)
class S3Server:
    """A running S3 server; `new_bucket()` gives each test its own bucket."""

    name: str
    endpoint_url: str
    access_key: str
    secret_key: str

    @cached_property
    def client(self):
        return boto3.session.Session().client(
            "s3",
            endpoint_url=self.endpoint_url,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name="us-east-1",
            config=Config(
                s3={"addressing_style": "path"},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )

    def new_bucket(self) -> str:
        bucket = f"bucket-{uuid.uuid4().hex[:12]}"
        self.client.create_bucket(Bucket=bucket)
        return bucket

    def environment(self) -> dict[str, str]:
        """What boto3, DVC and `open_blobs` read to find this server."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }


@pytest.fixture(scope="session")
def s3_server_moto(tmp_path_factory):
    port = free_port()
    folder = tmp_path_factory.mktemp("moto")
    command = [program("moto_server"), "-H", "127.0.0.1", "-p", str(port)]
    with running(command, folder, port):
        yield S3Server("moto", f"http://127.0.0.1:{port}", "moto-key", "moto-secret")


@pytest.fixture(scope="session")
def s3_server_rclone(tmp_path_factory):
    port = free_port()
    folder = tmp_path_factory.mktemp("rclone")
    data = folder / "data"
    data.mkdir()
    key, secret = "rclone-key", "rclone-secret"
    command = [program("rclone"), "serve", "s3", str(data), "--addr", f"127.0.0.1:{port}", "--config", ""]
    # Without both switches, listings lag behind and emptied buckets vanish.
    command += ["--auth-key", f"{key},{secret}", "--dir-cache-time", "1s", "--no-cleanup"]
    with running(command, folder, port, {"XDG_CACHE_HOME": str(folder / "cache")}):
        yield S3Server("rclone", f"http://127.0.0.1:{port}", key, secret)


@pytest.fixture(scope="session")
def postgres_server():
    """`postgresql://` URL of the administrative database of a real, empty server."""
    binaries = postgres_binaries()
    # Outside pytest's own folder, which only its owner may enter.
    folder = Path(tempfile.mkdtemp(prefix="retrain-postgres-"))
    other_user = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.getuid() == 0 else {}
    try:
        if other_user:
            shutil.chown(folder, "postgres", "postgres")
        port, password = free_port(), uuid.uuid4().hex
        secret = folder / "password"
        secret.write_text(password)
        secret.chmod(0o644)
        initialise = [binaries / "initdb", "-D", folder / "data", "-U", "retrain", "--no-sync", "-E", "UTF8"]
        initialise += ["--locale=C", "-A", "scram-sha-256", f"--pwfile={secret}"]
        subprocess.run(initialise, check=True, capture_output=True, cwd=folder, **other_user)
        command = [str(binaries / "postgres"), "-D", str(folder / "data"), "-p", str(port), "-F"]
        command += ["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]
        with running(command, folder, port, stop_signal=signal.SIGINT, **other_user):
            url = f"postgresql://retrain:{quote(password)}@127.0.0.1:{port}/postgres"
            wait_until(lambda: psycopg.connect(url).close(), psycopg.OperationalError)
            yield url
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres_url(postgres_server):
    """URL of a fresh, empty database."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    yield postgres_server.removesuffix("postgres") + name
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def postgres_binaries() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    on_path = shutil.which("postgres")
    if found:
        return found[-1].parent
    if on_path:
        return Path(on_path).resolve().parent
    pytest.skip("no Postgres server found: apt-get install postgresql")


def program(name: str) -> str:
    found = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert found, f"{name} is missing: pip install --group dev"
    return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@contextlib.contextmanager
def running(command, folder, port, environment=None, stop_signal=signal.SIGTERM, **options):
    """The server process while the block runs; its log is shown when it does not start."""
    log = folder / "log.txt"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
            preexec_fn=die_with_parent,  # noqa: PLW1509
            **options,
        )
    try:
        wait_until(lambda: answers(process, port, log), ConnectionError)
        yield process
    finally:
        process.send_signal(stop_signal)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def answers(process, port, log) -> None:
    assert process.poll() is None, f"{process.args[0]} ended:\n{log.read_text()[-2000:]}"
    socket.create_connection(("127.0.0.1", port), timeout=1).close()


def wait_until(attempt, not_yet) -> None:
    deadline = time.monotonic() + START_WITHIN_S
    while True:
        try:
            return attempt()
        except not_yet:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def die_with_parent() -> None:
    # A test run that is itself killed must not leave servers behind (Linux: PR_SET_PDEATHSIG).
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a file system of its own with room for 6 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    if os.getuid() != 0:
        pytest.skip("needs root to mount a tmpfs")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", folder], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"needs root to mount a tmpfs, and this one may not: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)
