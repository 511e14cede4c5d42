import os
import socket
import subprocess
import sys
import time

import httpx
import pytest

from retrain.storage.state import open_state


@pytest.fixture(scope="session")
def sqlite_uri(tmp_path_factory):
    """One migrated database for the session: creating it takes seconds, and tests use names of their own."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


@pytest.fixture(scope="session", autouse=True)
def server_process(tmp_path_factory):
    """A real `mlflow server` on a free port, started early: it takes 10 to 25 s, while SQLite tests run."""
    folder = tmp_path_factory.mktemp("mlflow-server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1", "--port", str(port),
        "--backend-store-uri", f"sqlite:///{folder / 'server.db'}", "--artifacts-destination", str(folder / "files"),
    ]  # fmt: skip
    environment = os.environ | {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield f"http://127.0.0.1:{port}", process, log
    finally:
        _stop(process)


@pytest.fixture(scope="session")
def server_uri(server_process):
    _wait_until_healthy(*server_process)
    return server_process[0]


# Session scope makes pytest run everything on SQLite first, and then everything on the server.
@pytest.fixture(scope="session", params=["sqlite", "server"])
def tracking_uri(request):
    return request.getfixturevalue(f"{request.param}_uri")


@pytest.fixture
def name(request):
    """An experiment or model name no other test uses."""
    return request.node.name.replace("[", "-").replace("]", "").replace("_", "-")


@pytest.fixture
def state(tmp_path):
    store = open_state(f"sqlite:///{tmp_path / 'state.db'}")
    yield store
    store.close()


def _wait_until_healthy(uri, process, log):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if process.poll() is not None:
            pytest.fail(f"mlflow server ended with {process.returncode}:\n{log.read_text()[-2000:]}")
        try:
            if httpx.get(f"{uri}/health", timeout=2).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.3)
    pytest.fail(f"mlflow server is not healthy after 120 s:\n{log.read_text()[-2000:]}")


def _stop(process):
    """The server's workers are in its process group."""
    os.killpg(process.pid, 15)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        process.wait(10)
