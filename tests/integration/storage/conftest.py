"""The state on both databases, and a disk small enough to fill."""

import os
import subprocess

import pytest

from retrain.storage.state import open_state


@pytest.fixture(params=["sqlite", "postgres"])
def state_url(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'state.db'}"
    return request.getfixturevalue("postgres_url")


@pytest.fixture
def state(state_url):
    store = open_state(state_url)
    yield store
    store.close()


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a file system of its own with room for 1 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    if os.getuid() != 0:
        pytest.skip("needs root to mount a tmpfs")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"needs root to mount a tmpfs, and this one may not: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)
