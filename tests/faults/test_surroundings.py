"""One loop where it can hardly live: read-only checkout and HOME, no network, rotten images, a disk that fills up."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.small_world import small_config

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[1]
# Everything is read-only but a folder for temporary files, `.retrain` in the checkout, and the kernel's own.
NAMESPACE = """
mount --bind "$1" "$1"
mount -o remount,ro,bind /
mount --bind "$1/checkout/.retrain" "$1/checkout/.retrain"
mount --bind "$1/tmp" "$1/tmp"
mount -o remount,ro,bind "$1"
mount -t tmpfs -o size=12m retrain-test "$1/checkout/.retrain/datasets"
cd /
shift
exec "$@"
"""
# Runs in every Python process, also in those that Git, DVC and Prefect are; extensions written in C are left to the
# network namespace.
RECORDER = """
import os, sys

def record(event, arguments):
    if event in ("socket.connect", "socket.sendto"):
        target = arguments[1][0] if isinstance(arguments[1], tuple) else "localhost"
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        target = arguments[0] or "localhost"
    else:
        return
    target = target.decode() if isinstance(target, bytes) else str(target)
    if target not in ("localhost", "::1", "0.0.0.0", "::") and not target.startswith("127."):
        with open(os.environ["ATTEMPTS"], "a") as file:
            file.write(f"{target} {event} by {sys.argv}\\n")

sys.addaudithook(record)
"""


@pytest.fixture(scope="module")
def lonely():
    """What `lonely_world.py` found, with `attempts` (addresses outside this machine) and `left` (files)."""
    # Not below pytest's own folder: a mount in it must not be in the way of its tidying.
    with tempfile.TemporaryDirectory(prefix="retrain-lonely-") as name:
        folder = Path(name)
        lay_out(folder)
        _require_mounts(folder)
        done = subprocess.run(
            [
                *_unshared(folder),
                sys.executable,
                HERE / "lonely_world.py",
                folder / "checkout",
                folder / "tmp/found",
            ],
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(folder / "nobody"),
                "TMPDIR": str(folder / "tmp"),
                "PYTHONPATH": f"{folder / 'recorder'}{os.pathsep}{folder / 'checkout'}",
                "ATTEMPTS": str(folder / "tmp/attempts"),
                "OMP_NUM_THREADS": "2",
            },
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        found = json.loads((folder / "tmp/found").read_text(encoding="utf-8"))
        found["attempts"] = (folder / "tmp/attempts").read_text(encoding="utf-8").splitlines()
        found["left"] = sorted(path.name for path in (folder / "tmp").iterdir())
        found["folder"] = str(folder)
        found["output"] = done.stdout + done.stderr
        yield found


def lay_out(folder):
    checkout = folder / "checkout"
    for package in ("retrain", "tasks", "flows", "deployments", "configs"):
        shutil.copytree(CHECKOUT / package, checkout / package)
    for file in ("pyproject.toml", "prefect.yaml", "params.yaml", "data.dvc"):
        shutil.copy(CHECKOUT / file, checkout / file)
    (checkout / ".retrain" / "datasets").mkdir(parents=True)
    (checkout / ".retrain" / "config.yaml").write_text(json.dumps(small_config(training={"fine_tune_epochs": 1})), encoding="utf-8")
    for empty in ("tmp", "nobody", "recorder"):
        (folder / empty).mkdir()
    (folder / "recorder" / "sitecustomize.py").write_text(RECORDER, encoding="utf-8")


def _unshared(folder):
    return ["unshare", "--mount", "--net", "sh", "-euc", NAMESPACE, "sh", str(folder)]


def _require_mounts(folder):
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("needs root to mount a tmpfs")
    tried = subprocess.run([*_unshared(folder), "true"], capture_output=True, text=True)
    if tried.returncode != 0:
        pytest.skip(f"needs root to mount a tmpfs: {tried.stderr.strip()}")


def test_x(lonely):
    print(json.dumps({k: v for k, v in lonely.items() if k != "output"}, indent=1))
    print(lonely["output"][-3000:])
    raise AssertionError
