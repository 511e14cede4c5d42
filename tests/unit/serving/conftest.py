import json

import numpy as np
import pytest

from retrain.boxes import Detections
from retrain.serving.release import Lineage, ReleaseStore
from retrain.serving.route import RouteStore
from retrain.storage.local_blobs import LocalBlobs
from retrain.storage.state import open_state

LINEAGE = Lineage("v1.0.0", "d" * 64, "job-1", None, "demo")


class WeightsReader:
    """A predictor whose only answer is one box, with the score its weights file holds."""

    def __init__(self, folder):
        self.score = float((folder / "weights.safetensors").read_text())

    def predict(self, images, confidence):
        return [Detections.of([[0, 0, 8, 8]], [0], [self.score]) for _ in images]


@pytest.fixture
def state(tmp_path):
    store = open_state(f"sqlite:///{tmp_path / 'state.sqlite'}")
    yield store
    store.close()


@pytest.fixture
def routes(state):
    return RouteStore(state)


@pytest.fixture
def blobs(tmp_path):
    return LocalBlobs(tmp_path / "blobs")


@pytest.fixture
def releases(blobs, tmp_path):
    return ReleaseStore(blobs, tmp_path / "cache")


@pytest.fixture
def model_folder(tmp_path):
    """Makes a model folder whose predictor answers with the given score."""

    def make(score=0.9, name="model"):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        (folder / "weights.safetensors").write_text(str(score))
        description = {"architecture": {"nc": 2}, "classes": ["car", "bus"], "imgsz": 32}
        (folder / "model.json").write_text(json.dumps(description))
        return folder

    return make


@pytest.fixture
def publish(releases, model_folder):
    """Publishes a release whose predictor answers with the given score."""
    return lambda score: releases.publish(model_folder(score), LINEAGE)


@pytest.fixture
def load():
    return WeightsReader


@pytest.fixture
def lineage():
    return LINEAGE


@pytest.fixture
def frame():
    return np.zeros((32, 32, 3), np.uint8)
