import json
import sys
import zipfile
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest

from retrain.boxes import Detections
from retrain.config import RetrainConfig
from retrain.cycle import open_cycle, stage_records
from retrain.dataset.version import LabelledObject
from retrain.errors import Conflict
from retrain.storage.leases import LeaseManager
from tasks.cycle import CycleWork
from tasks.evaluation_data import evaluation_file
from tasks.proofs import prove_cycle
from tasks.resources import Resources
from tasks.thresholds import FEWEST, ON_VAL, fit_serving_thresholds
from tests.unit.dataset.conftest import build_item, build_version, encoded_image

CLASSES = ["zero", "one", "two"]
BOX, OTHER, EMPTY = (2, 2, 12, 12), (14, 2, 22, 12), (2, 13, 8, 16)
TRAINING = {"job_id": "j", "model_folder": "trained"}


class Half:
    """A detector that is right from 0.6 on for class zero, from 0.3 on for class one, and never sees class two."""

    @classmethod
    def load(cls, folder, device="cpu"):
        return cls()

    def predict(self, images, **_):
        found = Detections.of([BOX, EMPTY, OTHER, EMPTY], [0, 0, 1, 1], [0.6, 0.55, 0.3, 0.25])
        return [found for _ in images]


def items(count, source):
    objects = (LabelledObject("a", 0, BOX), LabelledObject("b", 1, OTHER))
    return [build_item(at, split="val", source=source, objects=objects) for at in range(count)]


@pytest.fixture
def fit(tmp_path, monkeypatch):
    """What a cycle records and gives back, of a version with so many images in val."""
    monkeypatch.setitem(sys.modules, "retrain.detector", SimpleNamespace(Detector=Half))
    made = []

    def run(count=FEWEST, rule="f1", source="human"):
        config = {
            "model": {"name": "m", "classes": CLASSES},
            "evaluation": {"thresholds": rule, "confidence": 0.4},
        }
        home = Resources(RetrainConfig.model_validate(config), tmp_path)
        made.append(home)
        found = items(count, source)
        pack = tmp_path / "pack.zip"
        with zipfile.ZipFile(pack, "w") as archive:
            for at, item in enumerate(found):
                archive.writestr(item.file_name, encoded_image(at))
        version = build_version(found)
        home.__dict__["datasets"] = SimpleNamespace(
            get_version=MagicMock(return_value=version), pack_file=lambda version, digest: pack
        )
        with LeaseManager(home.state).acquire("cycle-m", 30) as lease:
            cycle = open_cycle(home.state, "m", "manual", "c", lease)
            return fit_serving_thresholds.fn(CycleWork(cycle, home), {"name": "v1.1.0"}, TRAINING)

    run.made = made
    yield run
    for one in made:
        one.state.close()


def proof(fit):
    return {one.stage: one for one in prove_cycle(fit.made[-1], "cycle-manual")}.get("thresholds")


@pytest.mark.parametrize("rule", ["f1", "lrp"])
def test_each_class_has_what_is_best_on_val_and_one_that_is_not_there_has_that_of_all(fit, rule):
    assert fit(rule=rule) == {"zero": 0.6, "one": 0.3, "two": 0.3}

    assert proof(fit).holds
    assert proof(fit).said == (
        f"fitted again by {rule} to the stored detections in val, equal: 0.3 to 0.6 by class; "
        "2 of 3 classes have one of their own"
    )


def test_the_record_says_which_classes_have_one_of_their_own(fit):
    fit()

    (record,) = stage_records(fit.made[-1].state, "cycle-manual")
    assert record.output["own"] == ["zero", "one"]


def test_without_a_rule_it_is_the_configured_one_and_no_stage(fit):
    assert fit(rule="fixed") == 0.4
    assert proof(fit) is None


def test_classes_of_few_objects_have_that_of_all_together(fit):
    assert fit(count=FEWEST - 1) == 0.3
    assert proof(fit).said == (
        "fitted again by f1 to the stored detections in val, equal: 0.3; 0 of 3 classes have one of their own"
    )


def test_too_few_objects_in_all_leave_the_configured_one(fit):
    assert fit(count=FEWEST // 2 - 1) == 0.4
    assert proof(fit).holds


def test_labels_that_a_model_made_are_nothing_to_fit_on(fit):
    assert fit(source="auto") == 0.4
    assert proof(fit).said == "val has no image that people labelled; every class is served from 0.4"


def test_the_proof_fails_when_what_was_found_is_gone_or_another(fit):
    fit()
    file = evaluation_file(fit.made[-1], "cycle-manual", ON_VAL)
    stored = json.loads(file.read_bytes())
    scores = stored["predictions"]["scores"]
    stored["predictions"]["scores"] = [0.65 if score == 0.6 else score for score in scores]

    file.write_text(json.dumps(stored))
    assert not proof(fit).holds
    assert "the thresholds" in proof(fit).said
    file.unlink()
    assert not proof(fit).holds


def test_another_rule_is_another_stage(fit):
    fit(rule="f1")

    with pytest.raises(Conflict, match="Stage thresholds of cycle cycle-manual was done for other inputs"):
        fit(rule="lrp")
