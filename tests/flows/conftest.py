"""One real local stack (Prefect server on SQLite, process worker) for every test of this folder."""

import os
import tempfile
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from deployments.stack import Stack, free_port
from retrain.config import RetrainConfig
from tasks.resources import Resources
from tests.small_world import make_world, small_config


@pytest.fixture(scope="session")
def stack_home():
    # Not under pytest's tmp_path: sockets and databases of a server outlive a single test's folder.
    with tempfile.TemporaryDirectory(prefix="retrain-stack-") as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def stack(stack_home):
    ports = {
        "prefect_port": free_port(),
        "mlflow_port": free_port(),
        "worker_poll_s": 1,
        "watch_interval_s": 86400,
    }
    config = RetrainConfig.model_validate(small_config(orchestration=ports))
    (stack_home / "config.yaml").write_text(config.model_dump_json(), encoding="utf-8")
    stack = Stack(stack_home, config)
    before = dict(os.environ)
    try:
        stack.up(("prefect", "worker"), say=lambda _: None)
        os.environ.update(stack.environment())
        # Prefect read its settings when it was imported.
        with temporary_settings(updates={PREFECT_API_URL: stack.api_url}):
            yield stack
    finally:
        os.environ.clear()
        os.environ.update(before)
        stack.down(say=lambda _: None)


@pytest.fixture(scope="session")
def world(stack, stack_home):
    """The small world, in the home that the stack's worker works in."""
    config = RetrainConfig.model_validate_json((stack_home / "config.yaml").read_text(encoding="utf-8"))
    resources = Resources(config, stack_home)
    make_world(resources)
    return resources
