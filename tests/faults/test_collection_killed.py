"""SIGKILL of producers and drainers of one spool: what was acknowledged is there once."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

KILLS = 50


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    done = subprocess.run(
        [
            sys.executable,
            Path(__file__).with_name("collection_driver.py"),
            tmp_path_factory.mktemp("killed"),
            str(KILLS),
            "1",
        ],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_fifty_producers_and_fifty_drainers_were_killed_at_work(found):
    assert found["killed"] == found["ended"] == 2 * KILLS + 3
    assert found["acknowledged"] > 10 * KILLS


def test_every_acknowledged_sample_is_there_once(found):
    assert found["lost"] == 0
    assert found["acknowledged_twice"] == 0
    assert found["draws"] == {"stored": found["stored"]}
    # At most the one frame per kill that was handed over and not yet acknowledged.
    assert found["stored"] <= found["acknowledged"] + KILLS + 2


def test_every_stored_image_is_whole(found):
    assert found["readable"] == found["stored"]


def test_nothing_is_left_behind(found):
    assert found["left_in_spool"] == found["files_left_in_spool"] == 0
    assert found["orphan_packs"] == []
    assert found["unfinished_packs"] == 0
    assert found["damaged"] == 0
