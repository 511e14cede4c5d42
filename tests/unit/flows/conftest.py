import pytest

from flows.collect_model import LoadedModel
from retrain.config import RetrainConfig
from tasks.resources import Resources
from tests.unit.data_collection.conftest import png_bytes
from tests.unit.flows.collecting import CLASSES, DIGEST, FakeModel


@pytest.fixture
def loads(monkeypatch):
    """Replaces the network by a fake model; returns how it was asked for."""
    asked = []

    def install(model, *, release=DIGEST, classes=CLASSES):
        def load(_resources, name, device="cpu"):
            asked.append((name, device))
            return LoadedModel(classes, release, release, model.predict)

        monkeypatch.setattr("flows.collect_command.load_model", load)
        return asked

    install(FakeModel())
    return install


@pytest.fixture
def resources(tmp_path):
    config = {
        "model": {"name": "m", "classes": list(CLASSES)},
        "data_collection": {"audit_rate": 0.0, "near_duplicates": {"enabled": False}},
    }
    made = Resources(RetrainConfig.model_validate(config), tmp_path / "home")
    made.home.mkdir()
    yield made
    made.state.close()


@pytest.fixture
def frames(tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in range(6):
        (folder / f"{number}.png").write_bytes(png_bytes(number))
    return folder
