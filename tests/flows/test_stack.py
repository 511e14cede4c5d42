import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.states import Scheduled
from prefect.utilities.importtools import import_object

from deployments.apply import apply_automations, read_automations
from deployments.stack import Stack, free_port
from retrain.config import RetrainConfig
from retrain.errors import Unavailable

DEPLOYMENTS = yaml.safe_load(Path("prefect.yaml").read_text(encoding="utf-8"))["deployments"]

pytestmark = pytest.mark.server


def runs_of(stack, flow):
    reply = httpx.post(
        f"{stack.api_url}/flow_runs/filter",
        json={"flows": {"name": {"any_": [flow]}}, "limit": 200},
        timeout=10,
    )
    reply.raise_for_status()
    return reply.json()


def logs_of(stack, run_id):
    reply = httpx.post(
        f"{stack.api_url}/logs/filter", json={"logs": {"flow_run_id": {"any_": [run_id]}}}, timeout=10
    )
    reply.raise_for_status()
    return reply.json()


def wait_for(condition, timeout_s=60):
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.5)
    pytest.fail(f"nothing within {timeout_s} s")


def test_every_service_that_was_started_answers(stack):
    states = {row.name: row.state for row in stack.status()}

    assert states == {"prefect": "up", "worker": "up", "mlflow": "down"}


def test_starting_a_running_stack_again_starts_nothing(stack):
    pids = [row.pid for row in stack.status()]

    stack.up(("prefect", "worker"), say=lambda _: None)

    assert [row.pid for row in stack.status()] == pids


def test_the_server_listens_on_loopback_only(stack):
    import psutil

    server = psutil.Process(next(row.pid for row in stack.status() if row.name == "prefect"))
    family = [server, *server.children(recursive=True)]

    listening = [c.laddr.ip for p in family for c in p.net_connections() if c.status == psutil.CONN_LISTEN]

    assert set(listening) == {"127.0.0.1"}


def test_applying_automations_twice_changes_nothing(stack):
    applied = asyncio.run(apply_automations(read_automations()))

    assert [(one.name, one.change) for one in applied] == [("retrain-on-threshold-crossed", "unchanged")]


def test_every_deployment_hands_its_run_the_parameters_it_was_given(stack):
    # A parameter that a run silently loses would leave it on defaults.
    async def start():
        async with get_client() as client:
            deployment = await client.read_deployment_by_name("watch/retrain")
            run = await client.create_flow_run_from_deployment(
                deployment.id, parameters={"config": {"data_collection": {"retrain_threshold": 123456}}}
            )
            return str(run.id)

    run_id = asyncio.run(start())
    run = wait_for(
        lambda: next((r for r in runs_of(stack, "watch") if r["id"] == run_id and r["end_time"]), None)
    )
    assert run["state_type"] == "COMPLETED", run["state"]
    assert run["parameters"]["config"]["data_collection"]["retrain_threshold"] == 123456
    # What the run itself says it received, said once: logs arrive a moment after the run ends.
    said = wait_for(
        lambda: [line for line in logs_of(stack, run_id) if "of 123456 samples wait" in line["message"]]
    )
    assert len(said) == 1


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda d: d["entrypoint"])
def test_every_deployments_parameters_are_what_its_run_gets(stack, deployment):
    async def schedule():
        async with get_client() as client:
            stored = await client.read_deployment_by_name(
                f"{import_object(deployment['entrypoint']).name}/retrain"
            )
            later = Scheduled(scheduled_time=datetime.now(UTC) + timedelta(days=1))
            run = await client.create_flow_run_from_deployment(stored.id, state=later)
            await client.delete_flow_run(run.id)
            return run.parameters

    assert asyncio.run(schedule()) == deployment["parameters"]


@pytest.mark.parametrize("flow", ["watch", "reconcile"])
def test_the_schedule_really_makes_runs(stack, flow):
    # With SQLAlchemy 2.1 Prefect 3.8.8 fails each scheduler pass, in its log only.
    wait_for(lambda: [run for run in runs_of(stack, flow) if run["auto_scheduled"]], timeout_s=90)


def test_a_taken_port_is_one_clear_sentence(tmp_path):
    with socket.socket() as occupant:
        occupant.bind(("127.0.0.1", 0))
        occupant.listen()
        port = occupant.getsockname()[1]
        config = RetrainConfig.model_validate(
            {"orchestration": {"prefect_port": port, "mlflow_port": free_port()}}
        )

        with pytest.raises(Unavailable, match=f"Port {port} is taken.*orchestration.prefect_port"):
            Stack(tmp_path, config).up(("prefect",), say=lambda _: None)


def test_a_pid_file_of_a_reused_pid_is_not_believed(tmp_path):
    config = RetrainConfig()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "prefect.pid").write_text(
        json.dumps({"pid": os.getpid(), "started": "1"}), encoding="utf-8"
    )

    states = {row.name: row.state for row in Stack(tmp_path, config).status()}

    assert states["prefect"] == "down"


def test_the_status_command_exits_with_one_when_something_is_down(tmp_path):
    environment = {**os.environ, "RETRAIN_HOME": str(tmp_path)}
    environment.pop("RETRAIN_CONFIG", None)

    done = subprocess.run(
        [sys.executable, "-c", "from flows.cli import main; main()", "status"],
        env=environment,
        capture_output=True,
        text=True,
    )

    assert done.returncode == 1
    assert "down" in done.stdout
