import json
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest

from retrain.config import RetrainConfig
from retrain.cycle import open_cycle
from retrain.serving.release import Lineage, read_release
from retrain.storage.leases import LeaseManager
from retrain.training.request import AUGMENTATIONS, TrainingRequest
from retrain.training.result import EpochReport, Regression
from tasks.cycle import CycleWork
from tasks.resources import Resources
from tasks.serving import register_release
from tasks.training import train

LAYOUT = {"train": ["cache/new.jsonl", "cache/replayed.jsonl"], "val": "cache/val.jsonl"}
RAIN = [{"step": "rain", "probability": 0.2}]


EPOCH = EpochReport(
    epoch=1,
    epochs=2,
    losses={"box_loss": 1.5},
    map50=0.5,
    map50_95=0.25,
    precision=0.5,
    recall=0.5,
    lr=0.001,
    seconds=2.0,
    images_per_s=9.0,
    eta_s=2.0,
    slices={
        "camera/gate/3": {"map50": 0.4, "map50_95": 0.2, "images": 7},
        "class/a": {"map50": 0.5, "map50_95": 0.25, "images": 9},
    },
    regressions=(Regression("camera/gate/3", 0.6, 0.4),),
)


class HandedOver(Exception):
    pass


def model_folder(resources, name):
    folder = resources.home / name
    folder.mkdir(exist_ok=True)
    (folder / "weights.safetensors").write_bytes(name.encode())
    (folder / "model.json").write_text(json.dumps({"classes": ["a"], "imgsz": 32}))
    return folder


def publish(resources, name):
    lineage = Lineage("v1.0.0", "0" * 64, "job", None, "test")
    return resources.releases.publish(model_folder(resources, name), lineage)


@pytest.fixture
def hand_over(tmp_path, monkeypatch):
    """Runs the stage until the trainer would begin; what it and MLflow are given."""

    def run(*, champion=False, training=None, **dataset):
        config = {"model": {"name": "m", "classes": ["a"]}, "dataset": dataset, "training": training or {}}
        resources = Resources(RetrainConfig.model_validate(config), tmp_path)
        initial = publish(resources, "champion") if champion else None
        trainer = MagicMock()

        def one_epoch(_, on_epoch, *, preflight):
            assert preflight
            on_epoch(EPOCH)
            raise HandedOver

        trainer.return_value.train.side_effect = one_epoch
        trainer.return_value.settings_of.side_effect = lambda request: TrainingRequest.of(request).identity()
        module = SimpleNamespace(TrainingOrchestrator=trainer)
        monkeypatch.setitem(sys.modules, "retrain.training.orchestrator", module)
        for name in ("create_progress_artifact", "update_progress_artifact"):
            monkeypatch.setattr(f"tasks.tracked_training.{name}", MagicMock())
        resources.__dict__["tracker"] = tracker
        with LeaseManager(resources.state).acquire("cycle-m", 30) as lease:
            cycle = open_cycle(resources.state, "m", "m-samples-1", "c", lease)
            with pytest.raises(HandedOver):
                train.fn(CycleWork(cycle, resources), {"name": "v1.0.0", "digest": "d"}, LAYOUT, initial)
        run.settings = trainer.call_args.kwargs
        run.entries = resources.progress(cycle.id).entries()
        resources.state.close()
        (logged,) = tracker.run_for.return_value.log_params.call_args.args
        return trainer.return_value.train.call_args.args[0], logged

    run.tracker = tracker = MagicMock()
    return run


def test_the_trainer_gets_the_lists_that_were_laid_out(hand_over, tmp_path):
    request = TrainingRequest.of(hand_over()[0])

    assert request.train_data == tuple(tmp_path / place for place in LAYOUT["train"])
    assert request.val_data == tmp_path / LAYOUT["val"]
    assert request.sampling == "uniform"
    assert request.augmentation_pipeline == ()


def test_balanced_classes_are_drawn_by_weight(hand_over):
    request, logged = hand_over(balance_classes=True)

    assert request["sampling"] == logged["sampling"] == "balanced"


def test_the_pipeline_is_part_of_the_job_and_of_what_is_logged(hand_over):
    request, logged = hand_over(augmentation_pipeline=RAIN)

    assert "'step': 'rain', 'probability': 0.2" in logged["augmentation_pipeline"]
    assert TrainingRequest.of(request).identity() != TrainingRequest.of(hand_over()[0]).identity()


def test_without_augmentation_every_strength_is_0_and_no_pipeline_runs(hand_over):
    request, _ = hand_over(augmentation=False, augmentation_pipeline=RAIN)

    assert TrainingRequest.of(request).augment == dict.fromkeys(AUGMENTATIONS, 0.0)
    assert TrainingRequest.of(request).augmentation_pipeline == ()


def test_a_warm_start_takes_the_champions_weights_and_the_settings_of_fine_tuning(hand_over):
    request = hand_over(champion=True, training={"fine_tune_epochs": 3, "fine_tune_learning_rate": 0.01})[0]

    assert (Path(request["initial_weights"]) / "weights.safetensors").read_bytes() == b"champion"
    assert (request["epochs"], request["learning_rate"]) == (3, 0.01)


def test_a_cold_start_leaves_the_champions_weights_and_trains_as_the_first_model_was(hand_over):
    asked = {"warm_start": False, "epochs": 7, "learning_rate": 0.02}

    assert hand_over(champion=True, training=asked)[0] == hand_over(training=asked)[0]
    assert hand_over(champion=True, training=asked)[0]["initial_weights"] is None
    assert hand_over(champion=True, training=asked)[0]["epochs"] == 7


def test_the_release_of_a_cold_start_names_the_champion_as_its_parent(tmp_path):
    config = {"model": {"name": "m", "classes": ["a"]}, "training": {"warm_start": False}}
    resources = Resources(RetrainConfig.model_validate(config), tmp_path)
    resources.__dict__["registry"] = MagicMock()
    resources.registry.register.return_value = "2"
    trained = {"job_id": "j", "run_id": "r", "model_uri": "u"}
    trained["model_folder"] = model_folder(resources, "trained").name
    champion = publish(resources, "champion")
    with LeaseManager(resources.state).acquire("cycle-m", 30) as lease:
        cycle = open_cycle(resources.state, "m", "m-samples-1", "c", lease)
        version = {"name": "v1.1.0", "digest": "d"}
        made = register_release.fn(CycleWork(cycle, resources), trained, version, champion, 0.25)
    resources.state.close()

    assert read_release(resources.releases.fetch(made["digest"])).lineage.parent == champion


def test_the_job_is_named_by_the_lists_themselves_so_that_another_replay_is_another_job(hand_over):
    assert "data_digest" not in hand_over()[0]


def test_every_epoch_is_logged_with_its_slices_and_told_with_its_regressions(hand_over):
    hand_over()

    metrics = hand_over.tracker.run_for.return_value.log_metrics.call_args
    assert metrics.kwargs == {"step": 1}
    assert {name: value for name, value in metrics.args[0].items() if name.startswith("val/")} == {
        "val/map50": 0.5,
        "val/map50_95": 0.25,
        "val/precision": 0.5,
        "val/recall": 0.5,
        "val/slice/camera/gate_2f_3/map50": 0.4,
        "val/slice/class/a/map50": 0.5,
    }
    (told,) = hand_over.entries
    assert EpochReport.from_json(told.payload) == EPOCH


def test_checkpoints_are_mirrored_to_the_blob_store_if_asked_for(hand_over, tmp_path):
    hand_over()
    assert hand_over.settings["checkpoint_mirror"] is None

    hand_over(training={"mirror_checkpoints": True})
    assert hand_over.settings["checkpoint_mirror"] == str(tmp_path / "blobs")


def test_places_are_not_logged(hand_over, tmp_path):
    _, logged = hand_over()

    assert not {"train_data", "val_data", "initial_weights"} & set(logged)
    assert str(tmp_path) not in str(logged)
