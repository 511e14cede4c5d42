import sys
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest

from retrain.config import RetrainConfig
from retrain.cycle import open_cycle
from retrain.storage.leases import LeaseManager
from retrain.training.request import AUGMENTATIONS, TrainingRequest
from tasks.cycle import CycleWork
from tasks.resources import Resources
from tasks.training import train

LAYOUT = {"train": ["cache/new.jsonl", "cache/replayed.jsonl"], "val": "cache/val.jsonl"}
RAIN = [{"step": "rain", "probability": 0.2}]


class HandedOver(Exception):
    pass


@pytest.fixture
def hand_over(tmp_path, monkeypatch):
    """Runs the stage until the trainer would begin; what it and MLflow are given."""

    def run(**dataset):
        config = {"model": {"name": "m", "classes": ["a"]}, "dataset": dataset}
        resources = Resources(RetrainConfig.model_validate(config), tmp_path)
        trainer, tracker = MagicMock(), MagicMock()
        trainer.return_value.train.side_effect = HandedOver
        module = SimpleNamespace(TrainingOrchestrator=trainer)
        monkeypatch.setitem(sys.modules, "retrain.training.orchestrator", module)
        monkeypatch.setattr("tasks.training.create_progress_artifact", MagicMock())
        resources.__dict__["tracker"] = tracker
        with LeaseManager(resources.state).acquire("cycle-m", 30) as lease:
            cycle = open_cycle(resources.state, "m", "m-samples-1", "c", lease)
            with pytest.raises(HandedOver):
                train.fn(CycleWork(cycle, resources), {"name": "v1.0.0", "digest": "d"}, LAYOUT, None)
        resources.state.close()
        (logged,) = tracker.run_for.return_value.log_params.call_args.args
        return trainer.return_value.train.call_args.args[0], logged

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

    assert logged["augmentation_pipeline"] == RAIN
    assert TrainingRequest.of(request).identity() != TrainingRequest.of(hand_over()[0]).identity()


def test_without_augmentation_every_strength_is_0_and_no_pipeline_runs(hand_over):
    request, _ = hand_over(augmentation=False, augmentation_pipeline=RAIN)

    assert TrainingRequest.of(request).augment == dict.fromkeys(AUGMENTATIONS, 0.0)
    assert TrainingRequest.of(request).augmentation_pipeline == ()


def test_places_are_not_logged(hand_over, tmp_path):
    _, logged = hand_over()

    assert not {"train_data", "val_data", "initial_weights"} & set(logged)
    assert str(tmp_path) not in str(logged)
