from unittest.mock import MagicMock

import pytest

from retrain.boxes import Annotations, Detections
from retrain.config import RetrainConfig
from retrain.cycle import open_cycle
from retrain.data_collection.triggers.crossings import select_samples
from retrain.dataset.manager import DatasetManager
from retrain.errors import BadInput
from retrain.storage.digests import content_digest
from retrain.storage.leases import LeaseManager
from tasks.cycle import CycleWork
from tasks.dataset import build_version
from tasks.resources import Resources
from tests.unit.data_collection.conftest import png_bytes

KNOWN = Annotations.of([[1.0, 1.0, 5.0, 5.0]], [0])
MOVED = Annotations.of([[2.0, 2.0, 6.0, 6.0]], [0])
PLAN = {"version": "v1.1.0", "parent_version": "v1.0.0"}


@pytest.fixture
def resources(tmp_path):
    collection = {"strategy": "all", "audit_rate": 0.0, "near_duplicates": {"enabled": False}}
    config = {"model": {"name": "m", "classes": ["dent"]}, "data_collection": collection}
    made = Resources(RetrainConfig.model_validate(config), tmp_path)
    yield made
    made.state.close()


@pytest.fixture(autouse=True)
def log(monkeypatch):
    monkeypatch.setattr("tasks.dataset.create_markdown_artifact", MagicMock())
    logger = MagicMock()
    monkeypatch.setattr("tasks.dataset.get_run_logger", lambda: logger)
    return logger


@pytest.fixture
def build(resources):
    """Runs the stage over a dataset of pictures 0 to 9 and samples of numbered pictures with the given labels."""

    def run(labels):
        datasets = resources.datasets
        draft = datasets.create_version("v1.0.0", classes=["dent"], splits={"train": 0.5, "val": 0.5})
        pictures = [png_bytes(number) for number in range(10)]
        groups = [f"old-{number}" for number in range(10)]
        datasets.add_images(draft, pictures, [KNOWN] * 10, groups=groups)
        datasets.commit("v1.0.0")
        with resources.collection_service(background=False) as service:
            for number in labels:
                seen = Detections.of([[1, 1, 5, 5]], [0], [0.5])
                where = {"camera_id": "c", "recording": f"new-{number}"}
                service.collect(image=png_bytes(number), prediction=seen, metadata=where)
            service.flush()
        with LeaseManager(resources.state).acquire("cycle-m", 30) as lease:
            cycle = open_cycle(resources.state, "m", "m-samples-1", "c", lease)
            select_samples(resources.state, "m", cycle.id, limit=100)
            for number, boxes in labels.items():
                sample = content_digest(png_bytes(number))
                resources.annotations.save(cycle.id, sample, boxes, source="auto", annotator="a", now=1.0)
            return build_version.fn(CycleWork(cycle, resources), PLAN)

    return run


def test_samples_that_are_in_the_dataset_already_stay_as_they_are_and_the_others_are_added(
    resources, build, log
):
    built = build({**dict.fromkeys(range(10), KNOWN), 10: KNOWN, 11: MOVED})

    parent = resources.datasets.get_version("v1.0.0").by_image
    version = resources.datasets.verify("v1.1.0")
    digests = [content_digest(png_bytes(number)) for number in range(12)]
    assert set(version.by_image) == set(digests)
    assert [version.by_image[one] for one in digests[:10]] == [parent[one] for one in digests[:10]]
    assert built["left_out"] == {}
    assert log.warning.call_count == 0


def test_a_sample_that_shows_what_is_in_another_split_is_left_out_by_name(resources, build, log, monkeypatch):
    leak = {
        content_digest(png_bytes(11)): "north-7 (train) and gate-3 (test) show the same, 3 of 128 bits apart"
    }
    leave_out = DatasetManager.leave_out
    monkeypatch.setattr(
        DatasetManager, "leave_out_leaks", lambda self, draft: leave_out(self, draft, leak) and dict(leak)
    )

    built = build({10: KNOWN, 11: KNOWN})

    assert content_digest(png_bytes(11)) not in resources.datasets.verify("v1.1.0").by_image
    assert built["left_out"] == {image: f"would leak: {reason}" for image, reason in leak.items()}
    assert log.warning.call_count == 1


def test_a_picture_of_the_dataset_with_other_labels_is_left_out_and_keeps_those_it_has(resources, build):
    labels = dict.fromkeys(range(10), MOVED)

    built = build({**labels, 10: KNOWN})

    version = resources.datasets.verify("v1.1.0")
    kept = [version.by_image[content_digest(png_bytes(number))].annotations.boxes for number in range(10)]
    assert all((boxes == KNOWN.boxes).all() for boxes in kept)
    assert len(built["left_out"]) == 10
    assert any("there already with other labels" in reason for reason in built["left_out"].values())


def test_a_cycle_of_which_no_sample_can_be_added_fails_and_says_why(resources, build):
    with pytest.raises(BadInput, match=r"None of the cycle's 10 labelled samples can be added to v1\.1\.0"):
        build(dict.fromkeys(range(10), MOVED))

    assert resources.datasets.versions() == ["v1.0.0"]
