import pytest

from flows.first_champion import first_champion_flow
from retrain.boxes import Annotations
from retrain.config import RetrainConfig
from retrain.cycle import list_cycles
from retrain.errors import BadInput, ConfigError
from tasks.resources import Resources
from tests.unit.data_collection.conftest import png_bytes


@pytest.fixture
def make(tmp_path, monkeypatch):
    """A home whose dataset has images of the given recordings, for a model of the given classes."""
    monkeypatch.setenv("RETRAIN_HOME", str(tmp_path))

    def make(recordings, classes):
        config = RetrainConfig.model_validate({"model": {"name": "m", "classes": classes}})
        resources = Resources(config, tmp_path)
        draft = resources.datasets.create_version("v1.0.0", "first", classes=("car", "truck"))
        images = [png_bytes(number) for number in range(len(recordings))]
        boxes = [Annotations.of([[1, 1, 5, 5]], [0])] * len(images)
        resources.datasets.add_images(draft, images, boxes, groups=recordings, sources="human")
        resources.datasets.commit("v1.0.0")
        return resources

    return make


@pytest.mark.parametrize(
    ("recordings", "classes", "error", "said"),
    [
        (["only"], ["car", "truck"], BadInput, r"v1\.0\.0 has no images in .*(val|test)"),
        (
            [f"r{number}" for number in range(40)],
            ["object"],
            ConfigError,
            "has the classes car, truck, and model.classes is object",
        ),
    ],
)
def test_what_cannot_be_trained_on_is_said_before_a_cycle_is_recorded(make, recordings, classes, error, said):
    resources = make(recordings, classes)

    with pytest.raises(error, match=said):
        first_champion_flow.fn("v1.0.0", resources.config)

    assert list_cycles(resources.state) == []
