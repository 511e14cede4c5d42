from unittest.mock import MagicMock

import pytest

from retrain.config import RetrainConfig
from retrain.data_collection.forgetting.eraser import Eraser
from retrain.data_collection.forgetting.forget import Scope, forget
from tasks.resources import Resources
from tasks.retention import delete_expired
from tests.unit.data_collection.conftest import png_bytes
from tests.unit.data_collection.erasing import files_with, stored


@pytest.fixture
def hosts(tmp_path):
    """Two homes that share state and blobs."""
    shared = {"state_url": f"sqlite:///{tmp_path / 'state.db'}", "blobs_url": str(tmp_path / "shared")}
    config = {
        "storage": shared,
        "data_collection": {"strategy": "all", "near_duplicates": {"enabled": False}},
    }
    made = [Resources(RetrainConfig.model_validate(config), tmp_path / name) for name in ("a", "b")]
    yield made
    for one in made:
        one.state.close()


def test_without_a_limit_copies_of_what_another_host_forgot_go_too(hosts, monkeypatch):
    monkeypatch.setattr("tasks.retention.get_run_logger", MagicMock())
    here, there = hosts
    with here.collection_service(background=False) as service:
        service.collect(image=png_bytes(1), confidence=0.5, metadata={"camera_id": "gate"})
        service.flush()
    for sample in stored(here.state).values():
        there.samples.image(sample)
    forget(Eraser(here.state, here.sample_blobs, here.home / "cache"), Scope(cameras=("gate",)), now=4e9)
    assert files_with(there.home, png_bytes(1)) != []

    assert delete_expired.fn(there) == 0

    assert files_with(there.home, png_bytes(1)) == []
