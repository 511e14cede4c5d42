from pathlib import Path
from typing import Any

import pytest

from retrain.errors import ConfigError
from retrain.training.request import AUGMENTATIONS, TrainingRequest

CONFIG: dict[str, Any] = {"train_dirs": ["a", "b"], "val_dir": "v", "classes": ["x", "y"]}


def test_defaults_and_given_values_are_kept() -> None:
    request = TrainingRequest.of({**CONFIG, "epochs": 7, "augment": {"fliplr": 0}, "freeze": 3})
    assert request.train_dirs == (Path.cwd() / "a", Path.cwd() / "b")
    assert (request.epochs, request.optimizer, request.freeze) == (7, "adamw", (0, 1, 2))
    assert request.augment == {**AUGMENTATIONS, "fliplr": 0.0}


@pytest.mark.parametrize(
    ("key", "nearest"),
    [("epoch", "epochs"), ("train_dir", "train_dirs"), ("lr", "model"), ("learning-rate", "learning_rate")],
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
        ("train_dirs", []),
        ("val_dir", 3),
        ("model", "/etc/passwd.yaml"),
        ("model", "yolov8n.pt"),
        ("augment", {"mosiac": 1.0}),
        ("augment", {"mosaic": 1.5}),
        ("augment", [1]),
        ("patience", 0),
        ("freeze", "head"),
        ("seed", -1),
        ("data_digest", ""),
    ],
)
def test_value_that_cannot_be_used_is_refused_by_name(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=key):
        TrainingRequest.of({**CONFIG, key: value})


def test_missing_keys_are_all_named() -> None:
    with pytest.raises(ConfigError, match="train_dirs, val_dir, classes"):
        TrainingRequest.of({})


def test_identity_ignores_where_things_are() -> None:
    one = TrainingRequest.of({**CONFIG, "data_digest": "d"})
    other = TrainingRequest.of(
        {**CONFIG, "data_digest": "d", "train_dirs": ["c"], "val_dir": "w", "threads": 1}
    )
    assert one.identity() == other.identity()
    assert one.identity() != TrainingRequest.of({**CONFIG, "data_digest": "e"}).identity()
