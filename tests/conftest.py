"""Shared by all tests: no telemetry, no network, a home folder of their own, and no silent skips in CI."""

import os
import sys
import tempfile
from pathlib import Path

import pytest

from retrain.environment import prepare

ALLOWED_SKIPS = (
    # ../shared exists only on the developers' machines.
    "needs ../shared",
    # A root user may mount, an ordinary one may not.
    "needs root to mount a tmpfs",
    "CUDA",
)

os.environ["RETRAIN_HOME"] = tempfile.mkdtemp(prefix="retrain-tests-")
for name in [name for name in os.environ if name.startswith("RETRAIN_") and "__" in name]:
    del os.environ[name]
prepare(Path(os.environ["RETRAIN_HOME"]))
# Tests start dozens of Python processes. Where Python is told to keep no compiled modules, each of them would compile
# all of Prefect and torch that it imports, which takes longer than what most of them do.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if report.skipped and os.environ.get("RETRAIN_CI") and not hasattr(report, "wasxfail"):
        reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
        if not any(allowed in reason for allowed in ALLOWED_SKIPS):
            report.outcome = "failed"
            report.longrepr = f"skipped in CI, which must run everything: {reason}"
