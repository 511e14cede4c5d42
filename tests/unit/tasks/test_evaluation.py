import json
import sys
import time
import zipfile
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
import yaml

from retrain.boxes import Detections
from retrain.config import RetrainConfig
from retrain.cycle import open_cycle
from retrain.errors import Conflict, NotFound
from retrain.serving.release import Lineage
from retrain.storage.leases import LeaseManager
from tasks.costs import PLAN as SPEED
from tasks.cycle import CycleWork
from tasks.evaluation import evaluate_models
from tasks.evaluation_data import (
    COSTS,
    camera_slices,
    judged_items,
    recorded_costs,
    saved_evaluation,
)
from tasks.gate_rules import FROZEN, NEW
from tasks.proofs import prove_cycle
from tasks.resources import Resources
from tests.unit.dataset.conftest import build_item, build_version, encoded_image

CAMERAS = ("north", "south", None)


class Timed:
    """A detector that finds nothing and takes its time; the challenger twice as long."""

    device, imgsz = "cpu", 32

    def __init__(self, folder):
        self.seconds = 0.002 if folder.name == "challenger" else 0.001

    @classmethod
    def load(cls, folder, device="cpu"):
        return cls(folder)

    def predict(self, images, **_):
        return [Detections.empty() for _ in images]

    def prepare(self, images):
        return images

    def forward(self, batch):
        time.sleep(self.seconds * len(batch))
        return batch

    def finish(self, raw, images, confidence, iou, max_detections):
        assert confidence == 0.4
        return self.predict(images)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "retrain.detector", SimpleNamespace(Detector=Timed))
    monkeypatch.setattr("tasks.evaluation.create_table_artifact", MagicMock())
    monkeypatch.setattr("tasks.evaluation.create_image_artifact", MagicMock())
    made = Resources(RetrainConfig.model_validate(settings()), tmp_path)
    found = [
        build_item(at, split="test", source=source, metadata={"camera": CAMERAS[at % 3], "latitude": 48.1})
        for at, source in enumerate([*["human"] * 12, "auto"])
    ]
    pack = tmp_path / "pack.zip"
    with zipfile.ZipFile(pack, "w") as archive:
        for at, item in enumerate(found):
            archive.writestr(item.file_name, encoded_image(at))
    versions = {"v1.0.0": build_version(found[:6]), "v1.1.0": build_version(found)}
    made.__dict__["datasets"] = SimpleNamespace(
        get_version=versions.__getitem__,
        pack_file=lambda version, digest: pack,
        verify=MagicMock(side_effect=NotFound("not stored")),
    )
    yield made
    made.state.close()


def settings(policy=None):
    return {
        "model": {"name": "m", "classes": ["zero", "one", "two"]},
        "evaluation": {"resamples": 200, "policy": policy, "confidence": 0.4},
    }


def model_folder(folder, weights):
    folder.mkdir(exist_ok=True)
    (folder / "weights.safetensors").write_bytes(weights)
    (folder / "model.json").write_text(json.dumps({"classes": ["zero", "one", "two"], "imgsz": 32}))
    return folder


def evaluated(home, limits=None, served=0.5):
    """What the stage records under a policy with these limits; None: without a policy."""
    if limits is not None:
        file = home.home / "policy.yaml"
        file.write_text(yaml.safe_dump({"must_improve": [{"slice": NEW}], "limits": limits, "level": 0.9}))
        home.config = RetrainConfig.model_validate(settings(file))
    champion = model_folder(home.home / "champion", b"a" * 1000)
    model_folder(home.home / "challenger", b"b" * 3000)
    digest = home.releases.publish(champion, Lineage("v1.0.0", "0" * 64, "j", None, "probe"), 0.4)
    plan = {"champion": digest, "known_version": "v1.0.0", "parent_version": "v1.0.0", "version": "v1.1.0"}
    training = {"job_id": "j", "model_folder": "challenger", "weights_sha256": ""}
    with LeaseManager(home.state).acquire("cycle-m", 30) as lease:
        cycle = open_cycle(home.state, "m", "manual", "c", lease)
        for stage, output in {"plan": plan, "version": {"name": "v1.1.0"}, "train": training}.items():
            cycle.stage(stage, {}, lambda output=output: output)
        return evaluate_models.fn(CycleWork(cycle, home), plan, {"name": "v1.1.0"}, training, served)


def proof(home):
    return {one.stage: one for one in prove_cycle(home, "cycle-manual")}["evaluate"]


@pytest.mark.parametrize("limits", [None, {}])
def test_nothing_is_measured_that_no_policy_limits(home, monkeypatch, limits):
    monkeypatch.setattr("tasks.evaluation.measure_costs", MagicMock(side_effect=AssertionError))

    assert set(evaluated(home, limits)) == {FROZEN, NEW}
    assert proof(home).holds


def test_latency_is_measured_in_turns_and_recorded_with_its_interval_and_what_it_came_from(home):
    found = evaluated(home, {"latency_ratio": 1.2, "size_mb": 1})[COSTS]

    ratio = found["measured"]["latency_ratio"]
    assert 1.3 < ratio["value"] < 2.5
    assert ratio["low"] < ratio["value"] < ratio["high"]
    assert found["measured"]["size_ratio"]["value"] == 3
    assert found["measured"]["size_mb"]["value"] == 0.003
    assert [len(each) for each in found["latency_ms"]] == [SPEED.rounds] * 2
    assert (found["level"], found["interval"][:9]) == (0.9, "Student t")
    assert found["conditions"]["device"] == "cpu"
    assert found["conditions"]["machine"]["cores"] >= 1
    assert proof(home).holds


def test_size_alone_needs_no_clock(home, monkeypatch):
    monkeypatch.setattr("tasks.costs.measure_speed", MagicMock(side_effect=AssertionError))

    found = evaluated(home, {"size_ratio": 1.5})

    assert found[COSTS]["latency_ms"] is None
    assert set(recorded_costs(found).measured(0.95)) == {"size_ratio", "size_mb"}
    (home.home / "challenger" / "weights.safetensors").write_bytes(b"b" * 2999)
    assert not proof(home).holds
    assert "the bytes of the weights" in proof(home).said


def test_limits_that_were_not_measured_for_are_no_part_of_a_stage_that_is_done(home):
    evaluated(home)

    with pytest.raises(Conflict, match="Stage evaluate of cycle cycle-manual was done for other inputs"):
        evaluated(home, {"size_mb": 1})


def test_each_model_is_judged_at_the_confidence_it_is_served_with(home):
    by_class = {"zero": 0.5, "one": 0.6, "two": 0.7}

    evaluated(home, served=by_class)

    assert saved_evaluation(home, "cycle-manual", "champion").confidence == 0.4
    assert saved_evaluation(home, "cycle-manual", "challenger").confidence == by_class
    with pytest.raises(Conflict, match="Stage evaluate of cycle cycle-manual was done for other inputs"):
        evaluated(home, served={**by_class, "two": 0.8})


def test_what_was_evaluated_is_known_by_camera_by_who_labelled_it_and_by_brightness_alone(home):
    evaluated(home)

    truth = saved_evaluation(home, "cycle-manual", "champion").truth
    cameras = dict(zip(truth.images, (each.get("camera") for each in truth.attributes), strict=True))
    slices = camera_slices(home, "v1.1.0")
    assert len(truth.images) == 12
    assert {key for each in truth.attributes for key in each} == {"brightness", "camera", "source"}
    assert {name: len(ids) for name, ids in slices.items()} == {"camera: north": 4, "camera: south": 4}
    assert {cameras[image] for image in slices["camera: north"]} == {"north"}
    assert [item.load().shape for item in judged_items(home, "v1.1.0")] == [(16, 24, 3)] * 12
