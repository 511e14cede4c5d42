"""What the stack believes about the processes it started; real servers are in tests/flows."""

import json
import sys
import time
from types import SimpleNamespace

import httpx
import psutil
import pytest
import yaml

from deployments.stack import Stack, _Service
from retrain.config import RetrainConfig
from retrain.errors import PostConditionFailed, Unavailable


def service(name, code, health=None):
    return _Service(name, (sys.executable, "-c", code), None, None, None, health)


@pytest.fixture
def stack(tmp_path):
    made = Stack(tmp_path, RetrainConfig())
    yield made
    made.down(say=lambda _: None)


@pytest.fixture
def workers(monkeypatch):
    """What the server says about the workers of the pool."""
    rows = []
    answer = SimpleNamespace(status_code=200, json=lambda: rows)
    monkeypatch.setattr(httpx, "post", lambda *_, **__: answer)
    return rows


def states(stack):
    return {row.name: row.state for row in stack.status()}


def test_only_the_worker_of_this_start_counts_as_online(stack, workers, tmp_path):
    before = int(time.time())
    stack._start(service("worker", "import time; time.sleep(60)"))
    name = json.loads((tmp_path / "run" / "worker.pid").read_text())["worker"]
    assert before <= int(name.removeprefix("local-")) <= time.time()
    process = stack._process("worker")
    assert process.cmdline()[-2:] == ["--name", name]

    workers[:] = [{"name": "local", "status": "ONLINE"}, {"name": "local-1", "status": "ONLINE"}]
    assert states(stack)["worker"] == "starting"
    workers.append({"name": name, "status": "OFFLINE"})
    assert states(stack)["worker"] == "starting"
    workers[-1] = {"name": name, "status": "ONLINE"}
    assert states(stack)["worker"] == "up"


def test_an_answer_after_our_process_ended_is_somebody_elses(stack, monkeypatch):
    monkeypatch.setattr(httpx, "get", lambda *_, **__: SimpleNamespace(status_code=200))
    dead = service("prefect", "print('cannot bind')", health="http://127.0.0.1:4200/api/health")
    stack._start(dead)
    deadline = time.monotonic() + 10
    while stack._process("prefect") is not None and time.monotonic() < deadline:
        time.sleep(0.01)

    with pytest.raises(Unavailable, match=r"prefect ended while starting(.|\n)*cannot bind"):
        stack._wait(dead)


def test_a_clock_that_is_set_loses_no_running_service(stack, monkeypatch, tmp_path):
    stack._start(service("worker", "import time; time.sleep(60)"))
    process, booted = stack._process("worker"), psutil.boot_time()
    before = process.create_time()

    # psutil adds the time of boot, which the kernel computes anew from a clock that was set.
    monkeypatch.setattr(psutil._pslinux, "boot_time", lambda: booted - 7200)

    assert psutil.Process(process.pid).create_time() < before - 3600
    assert stack._process("worker").pid == process.pid
    stack.down(say=lambda _: None)
    assert not psutil.pid_exists(process.pid)
    assert not (tmp_path / "run" / "worker.pid").exists()


def test_the_pid_file_of_a_service_that_does_not_end_stays(stack, monkeypatch):
    stack._start(service("worker", "import time; time.sleep(60)"))
    pid = stack._process("worker").pid

    with monkeypatch.context() as patch:
        patch.setattr("deployments.stack._end", lambda process: None)
        with pytest.raises(PostConditionFailed, match=rf"worker \(process {pid}\) does not end"):
            stack.down(say=lambda _: None)

    assert stack._process("worker").pid == pid


@pytest.mark.parametrize("torn", ["", '{"pid": 12', "{}", '{"pid": 1}'])
def test_a_torn_pid_file_means_not_running(stack, tmp_path, torn):
    (tmp_path / "run").mkdir()
    for name in ("prefect", "worker"):
        (tmp_path / "run" / f"{name}.pid").write_text(torn, encoding="utf-8")

    assert states(stack) == {"prefect": "down", "worker": "down", "mlflow": "down"}
    assert not stack._worker_online()
    stack.down(say=lambda _: None)
    assert list((tmp_path / "run").glob("*.pid")) == []


def test_other_processes_get_the_absolute_path_of_the_configuration_file(stack, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RETRAIN_CONFIG", "conf/mine.yaml")
    assert stack.environment()["RETRAIN_CONFIG"] == str(tmp_path / "conf" / "mine.yaml")

    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    monkeypatch.setenv("RETRAIN_CONFIG", "~/mine.yaml")
    assert stack.environment()["RETRAIN_CONFIG"] == str(tmp_path / "me" / "mine.yaml")

    monkeypatch.delenv("RETRAIN_CONFIG")
    assert "RETRAIN_CONFIG" not in stack.environment()


def test_two_homes_never_share_a_work_pool(tmp_path):
    # A worker left over from another home once took this home's runs, and promoted into the wrong state.
    first, second = (Stack(tmp_path / name, RetrainConfig()) for name in ("a", "b"))

    deployed = yaml.safe_load(first._deployments().read_text(encoding="utf-8"))["deployments"]

    assert first.work_pool != second.work_pool
    assert {one["work_pool"]["name"] for one in deployed} == {first.work_pool}
