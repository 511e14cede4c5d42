"""SIGKILL of deletions at every file they touch and every commit: called again they end, and nothing else is lost."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TWICE = 30
"""Runs that are killed at two random points before they may end."""


@pytest.fixture(scope="module", params=["forget", "retain"])
def found(request):
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("forget_driver.py"), request.param, str(TWICE), "1"],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_it_was_killed_at_every_point_and_at_pairs_of_them(found):
    assert found["points"] > 50
    assert found["runs"] >= found["points"] + TWICE - 1


def test_run_again_it_ends_with_nothing_forgotten_left_anywhere_and_nothing_else_lost(found):
    assert found["wrong"] == {}
