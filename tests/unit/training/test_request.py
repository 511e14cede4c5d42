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
    [("epoch", "epochs"), ("train_dir", "train_data"), ("lr", "model"), ("learning-rate", "learning_rate")],
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
        ("scheduler", "step"),
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


def test_former_names_of_the_data_still_work_but_not_beside_the_new_ones() -> None:
    former = TrainingRequest.of({"train_dirs": "a", "val_dir": "v", "classes": ["x"]})

    assert former == TrainingRequest.of({"train_data": ["a"], "val_data": "v", "classes": ["x"]})
    with pytest.raises(ConfigError, match="val_dir is the former name of val_data"):
        TrainingRequest.of({**CONFIG, "val_dir": "v"})


def test_identity_names_the_sampling_only_where_it_is_not_the_one_there_always_was() -> None:
    plain = TrainingRequest.of(CONFIG).identity()

    assert "sampling" not in plain
    assert TrainingRequest.of({**CONFIG, "sampling": "balanced"}).identity() == {
        **plain,
        "sampling": "balanced",
    }
