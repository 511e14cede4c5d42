"""Shared by all tests: no telemetry, no network, a home folder of their own, and no silent skips in CI."""

import gc
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
if "PYTEST_XDIST_WORKER" in os.environ:
    # There are as many workers as cores.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_finish():
    # A training job asks several times how much memory is free, which collects garbage first. To look at all that is
    # imported by now, and at the tests themselves, took longer than an epoch, and none of it ever becomes garbage.
    gc.collect()
    gc.freeze()


def pytest_unconfigure():
    # Else libraries that look for leaks at the end find all of it.
    gc.unfreeze()


# With several workers (`make test`), a file stays on one, as its tests may share what takes long to make. So do files
# that share a server or a trained model.
TOGETHER = (
    ("tests/integration/mlflow_integration/",),
    ("tests/integration/training/test_distributed.py", "tests/integration/training/test_launched.py"),
    (
        "tests/integration/training/test_export.py",
        "tests/integration/training/test_orchestrator.py",
        "tests/integration/training/test_slice_scores.py",
    ),
    ("tests/flows/",),
    ("tests/faults/test_kill_anywhere.py", "tests/faults/test_proofs.py"),
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    from xdist.scheduler import LoadScopeScheduling

    class TogetherScheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file = nodeid.partition("::")[0]
            return next((group[0] for group in TOGETHER if file.startswith(group)), file)

    # Else the files with the most tests would come first, not those of `testpaths`.
    config.option.loadscopereorder = False
    return TogetherScheduling(config, log)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if report.skipped and os.environ.get("RETRAIN_CI") and not hasattr(report, "wasxfail"):
        reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
        if not any(allowed in reason for allowed in ALLOWED_SKIPS):
            report.outcome = "failed"
            report.longrepr = f"skipped in CI, which must run everything: {reason}"
