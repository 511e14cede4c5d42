import io

import numpy as np
import pytest
from PIL import Image

from retrain.boxes import Detections
from retrain.data_collection.collector import DataCollectionService
from retrain.storage.local_blobs import LocalBlobs
from retrain.storage.state import open_state


def png_bytes(number: int, size: int = 12) -> bytes:
    """A small image that no other number gives."""
    pixels = np.random.default_rng(number).integers(0, 256, (size, size, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def one_box(score: float) -> Detections:
    return Detections.of([[1, 1, 5, 5]], [0], [score])


@pytest.fixture
def png():
    return png_bytes


@pytest.fixture
def seen():
    """A prediction of one box with the given score."""
    return one_box


@pytest.fixture
def state_url(tmp_path):
    return f"sqlite:///{tmp_path / 'state.sqlite'}"


@pytest.fixture
def state(state_url):
    store = open_state(state_url)
    yield store
    store.close()


@pytest.fixture
def blobs(tmp_path):
    return LocalBlobs(tmp_path / "blobs")


@pytest.fixture
def service(tmp_path, blobs, state):
    """Makes a service over the test's blobs and state; keyword arguments replace its settings.

    Nothing drains in the background and no audit arm draws, so that a test sees what it asked for.
    """

    def make(**change):
        options = {
            "blobs": blobs,
            "state": state,
            "model": "m",
            "release": "a" * 64,
            "clock": lambda: 50.0,
            "background": False,
            "audit_rate": 0.0,
        }
        return DataCollectionService(tmp_path, **{**options, **change})

    return make


@pytest.fixture
def reachable(tmp_path):
    """The test's folder, open to other users too: pytest makes its folders for their owner only."""
    for folder in (tmp_path, *tmp_path.parents):
        if not folder.stat().st_mode & 0o001:
            folder.chmod(0o755)
    return tmp_path
