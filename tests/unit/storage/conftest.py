import os
import shutil
import tempfile
from pathlib import Path

import pytest

from retrain.storage.state import open_state

NOBODY = 65534


@pytest.fixture
def state(tmp_path):
    store = open_state(f"sqlite:///{tmp_path / 'state.db'}")
    yield store
    store.close()


@pytest.fixture
def locked_folder():
    """A folder that this process may read but not write; as root, by being somebody else for the test."""
    folder = Path(tempfile.mkdtemp(prefix="retrain-locked-"))
    folder.chmod(0o555)
    root = os.geteuid() == 0
    if root:
        os.seteuid(NOBODY)
    yield folder
    if root:
        os.seteuid(0)
    folder.chmod(0o755)
    shutil.rmtree(folder)
