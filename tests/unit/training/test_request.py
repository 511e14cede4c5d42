from pathlib import Path
from typing import Any

import pytest

from retrain.errors import ConfigError
from retrain.training.request import AUGMENTATIONS, TrainingRequest

CONFIG: dict[str, Any] = {"train_data": ["a", "b"], "val_data": "v", "classes": ["x", "y"]}


def test_defaults_and_given_values_are_kept() -> None:
    request = TrainingRequest.of({**CONFIG, "epochs": 7, "augment": {"fliplr": 0}, "freeze": 3})
    assert request.train_data == (Path.cwd() / "a", Path.cwd() / "b")
    assert (request.epochs, request.optimizer, request.freeze) == (7, "adamw", (0, 1, 2))
    assert request.augment == {**AUGMENTATIONS, "fliplr": 0.0}


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("epoch", "epochs"),
        ("train_dirs", "train_data"),
        ("val_dir", "val_data"),
        ("lr", "model"),
        ("learning-rate", "learning_rate"),
    ],
)
def test_unknown_key_is_refused_with_the_nearest_valid_one(key: str, nearest: str) -> None:
    with pytest.raises(ConfigError, match=nearest):
        TrainingRequest.of({**CONFIG, key: 1})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("epochs", 0),
        ("epochs", True),
        ("epochs", 2.0),
        ("batch_size", -1),
        ("learning_rate", 0),
        ("learning_rate", float("nan")),
        ("learning_rate", 2),
        ("learning_rate", "0.1"),
        ("optimizer", "auto"),
        ("scheduler", "poly"),
        ("optimizer", "AdamW"),
        ("step_epochs", 3),
        ("plateau_factor", 0.5),
        ("onecycle_peak", 0.3),
        ("clip_norm", 0),
        ("sync_batchnorm", 1),
        ("compile", "inductor"),
        ("stop_metric", "f1"),
        ("min_delta", -0.1),
        ("min_delta", 0.1),
        ("image_size", 100),
        ("classes", []),
        ("classes", ["x", "x"]),
        ("classes", "xy"),
        ("train_data", []),
        ("val_data", 3),
        ("model", "/etc/passwd.yaml"),
        ("model", "yolov8n.pt"),
        ("augment", {"mosiac": 1.0}),
        ("augment", {"mosaic": 1.5}),
        ("augment", [1]),
        ("patience", 0),
        ("freeze", "head"),
        ("seed", -1),
        ("data_digest", ""),
        ("sampling", "weighted"),
        ("augmentation_pipeline", "flip"),
        ("augmentation_pipeline", [{"step": "flop"}]),
        ("augmentation_pipeline", [{"step": "flip", "probability": 2}]),
    ],
)
def test_value_that_cannot_be_used_is_refused_by_name(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=key):
        TrainingRequest.of({**CONFIG, key: value})


def test_missing_keys_are_all_named() -> None:
    with pytest.raises(ConfigError, match="train_data, val_data, classes"):
        TrainingRequest.of({})


def test_identity_ignores_where_things_are() -> None:
    one = TrainingRequest.of({**CONFIG, "data_digest": "d"})
    other = TrainingRequest.of(
        {**CONFIG, "data_digest": "d", "train_data": ["c"], "val_data": "w", "threads": 1}
    )
    assert one.identity() == other.identity()
    assert one.identity() != TrainingRequest.of({**CONFIG, "data_digest": "e"}).identity()


@pytest.mark.parametrize(
    "newer",
    [
        {"sampling": "balanced"},
        {"augmentation_pipeline": [{"step": "greyscale"}]},
        {"clip_norm": None},
        {"stop_metric": "loss"},
        {"compile": True},
    ],
)
def test_identity_names_a_newer_setting_only_where_it_is_not_the_one_there_always_was(
    newer: dict[str, Any],
) -> None:
    plain, changed = TrainingRequest.of(CONFIG), TrainingRequest.of({**CONFIG, **newer})

    assert not set(newer) & set(plain.identity())
    assert changed.identity() == {**plain.identity(), **{key: getattr(changed, key) for key in newer}}


def test_pipelines_that_do_the_same_are_the_same_job() -> None:
    short, whole = ({"step": "flip"}, {"step": "flip", "directions": ["horizontal"], "probability": 1})

    one, other = (TrainingRequest.of({**CONFIG, "augmentation_pipeline": [step]}) for step in (short, whole))

    assert one.identity() == other.identity()
    assert one.augmentation_pipeline[0]["directions"] == ["horizontal"]


def test_defaults_of_scheduler_and_stopping_written_down_are_the_same_job() -> None:
    said = {"clip_norm": 10, "stop_metric": "map50_95", "min_delta": 0, "step_epochs": None}
    assert TrainingRequest.of({**CONFIG, **said}).identity() == TrainingRequest.of(CONFIG).identity()


def test_what_was_never_tried_together_is_refused() -> None:
    with pytest.raises(ConfigError, match="compile and sync_batchnorm"):
        TrainingRequest.of({**CONFIG, "compile": True, "sync_batchnorm": True})


def test_auto_is_refused_with_the_reason() -> None:
    with pytest.raises(ConfigError, match="growing data set would silently change the optimizer"):
        TrainingRequest.of({**CONFIG, "optimizer": "auto"})


def test_settings_of_the_chosen_scheduler_are_completed_so_that_the_job_is_named_by_what_it_does() -> None:
    short = TrainingRequest.of({**CONFIG, "scheduler": "step", "epochs": 9})
    whole = TrainingRequest.of(
        {**CONFIG, "scheduler": "step", "epochs": 9, "step_epochs": 3, "step_factor": 0.1}
    )
    assert (short.step_epochs, short.step_factor, short.plateau_factor) == (3, 0.1, None)
    assert short.identity() == whole.identity()
    assert short.schedule(batches=5, accumulate=2).at(20).factor == 0.1


def test_onecycle_needs_no_warmup_and_refuses_one() -> None:
    assert TrainingRequest.of({**CONFIG, "scheduler": "onecycle"}).warmup_epochs == 0
    with pytest.raises(ConfigError, match="warms up by itself"):
        TrainingRequest.of({**CONFIG, "scheduler": "onecycle", "warmup_epochs": 1})


def test_patience_that_ends_training_before_a_plateau_can_count_is_refused() -> None:
    plateau = {**CONFIG, "scheduler": "plateau", "plateau_patience": 3}
    assert TrainingRequest.of({**plateau, "patience": 5}).patience == 5
    with pytest.raises(ConfigError, match="patience must be at least 5"):
        TrainingRequest.of({**plateau, "patience": 4})


def test_plateau_follows_the_metric_that_stops() -> None:
    request = TrainingRequest.of(
        {**CONFIG, "scheduler": "plateau", "patience": 9, "stop_metric": "loss", "min_delta": 0.1}
    )
    assert (request.stopping.metric, request.stopping.min_delta, request.stopping.patience) == (
        "loss",
        0.1,
        9,
    )
    assert not request.schedule(batches=1, accumulate=1).bigger_is_better
