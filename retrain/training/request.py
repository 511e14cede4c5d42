"""The training configuration: a plain mapping in, a checked and frozen request out."""

import difflib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from retrain.dataset.augmentation.pipeline import read_pipeline
from retrain.errors import ConfigError
from retrain.training.lr_schedule import SHAPES

OPTIMIZERS = {"adamw": "AdamW", "adam": "Adam", "sgd": "SGD"}
# Strength 0 switches each one off.
AUGMENTATIONS = {
    "mosaic": 1.0,
    "mixup": 0.0,
    "fliplr": 0.5,
    "flipud": 0.0,
    "scale": 0.5,
    "translate": 0.1,
    "degrees": 0.0,
    "shear": 0.0,
    "perspective": 0.0,
    "hsv_h": 0.015,
    "hsv_s": 0.7,
    "hsv_v": 0.4,
}
SAMPLINGS = ("uniform", "balanced")
_WHERE = ("train_data", "val_data", "initial_weights", "threads")
# Not named where they have the value that was the only one before there was a choice, so that jobs keep their names.
_NEWER: Mapping[str, Any] = {"sampling": "uniform", "augmentation_pipeline": ()}

_Parser = Callable[[str, Any], Any]


@dataclass(frozen=True, kw_only=True)
class TrainingRequest:
    """One requested training.

    Attributes:
        train_data: data folders (with `images/` and `labels/`) and selection files (whose images are read from their
            packs), in any mix; several are trained on as one set.
        val_data: one of either; measured after every epoch.
        classes: names, by index.
        model: an Ultralytics detection yaml without its ending.
        data_digest: names the data; computed from the files when absent. Sampling weights are not part of it.
        sampling: `uniform` shows each image once an epoch, `balanced` as often as its weight in the selection says;
            what a mosaic or mixup adds to an image is drawn uniformly either way.
        nominal_batch: gradients are summed until about this many images were seen; None is one batch.
        final_lr_fraction: share of the learning rate left at the end.
        augment: strengths of Ultralytics' own augmentation; 0 switches one off.
        augmentation_pipeline: steps of `retrain.dataset.augmentation`, applied to each training image before `augment`,
            in every epoch; given ones are completed with the defaults of their parameters.
        close_mosaic: last epochs without the mosaic and mixup of `augment`.
        initial_weights: a model folder to fine-tune from; None starts from scratch.
        patience: epochs without a better val map50_95 before stopping; None never stops.
        freeze: indices of layers that do not change.
        threads: CPU threads; None is all cores, fixed when the job starts.
        workers: processes that load images; 0 loads in the training process.
    """

    train_data: tuple[Path, ...]
    val_data: Path
    classes: tuple[str, ...]
    model: str = "yolov8n"
    data_digest: str | None = None
    sampling: str = "uniform"
    epochs: int = 100
    batch_size: int = 16
    nominal_batch: int | None = None
    learning_rate: float = 0.002
    optimizer: str = "adamw"
    momentum: float = 0.937
    scheduler: str = "linear"
    final_lr_fraction: float = 0.01
    weight_decay: float = 0.0005
    warmup_epochs: float = 1.0
    warmup_bias_lr: float = 0.0
    image_size: int = 640
    augment: Mapping[str, float] = field(default_factory=lambda: dict(AUGMENTATIONS))
    augmentation_pipeline: tuple[Mapping[str, Any], ...] = ()
    close_mosaic: int = 2
    seed: int = 0
    initial_weights: Path | None = None
    patience: int | None = None
    freeze: tuple[int, ...] = ()
    threads: int | None = None
    workers: int = 0

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "TrainingRequest":
        """Check a plain mapping.

        Raises:
            ConfigError: a key is unknown (names the nearest valid one) or missing, or a value is out of range.
        """
        for key in config:
            if key not in _PARSERS:
                raise ConfigError(f"Training has no setting {key!r}{_nearest(key, _PARSERS)}.")
        required = [
            item.name for item in fields(cls) if item.default is MISSING and item.default_factory is MISSING
        ]
        if missing := [name for name in required if name not in config]:
            raise ConfigError(f"Training needs {', '.join(missing)}.")
        return cls(**{key: _PARSERS[key](key, value) for key, value in config.items()})

    def identity(self) -> dict[str, Any]:
        """What decides the resulting weights, JSON-ready: every setting but places and thread count."""
        values = asdict(self)
        unsaid = {*_WHERE, *(key for key, only in _NEWER.items() if values[key] == only)}
        return {key: value for key, value in values.items() if key not in unsaid}


def _nearest(key: str, valid: Mapping[str, object]) -> str:
    close = difflib.get_close_matches(str(key), valid, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}" if close else f"; valid are {', '.join(sorted(valid))}"


def _integer(low: int, high: int | None = None) -> _Parser:
    def parse(key: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < low or (high and value > high):
            limit = f"from {low} to {high}" if high else f"of at least {low}"
            raise ConfigError(f"{key} must be a whole number {limit}, got {value!r}.")
        return value

    return parse


def _number(low: float, high: float = math.inf, *, above: bool = False) -> _Parser:
    def parse(key: str, value: Any) -> float:
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not number or value < low or value > high or (above and value == low):
            sign = ">" if above else ">="
            limit = f"{sign} {low}" + (f" and <= {high}" if high < math.inf else "")
            raise ConfigError(f"{key} must be a number {limit}, got {value!r}.")
        return float(value)

    return parse


def _choice(valid: Sequence[str]) -> _Parser:
    def parse(key: str, value: Any) -> str:
        if value not in valid:
            raise ConfigError(f"{key} must be one of {', '.join(valid)}, got {value!r}.")
        return str(value)

    return parse


def _optional(parser: _Parser) -> _Parser:
    return lambda key, value: None if value is None else parser(key, value)


def _text(key: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{key} must be a text, got {value!r}.")
    return value


def _model(key: str, value: Any) -> str:
    if not re.fullmatch(r"[a-z0-9-]+", _text(key, value)):
        raise ConfigError(f"{key} must be a model name such as 'yolov8n', not a file, got {value!r}.")
    return str(value)


def _path(what: str) -> _Parser:
    def parse(key: str, value: Any) -> Path:
        if not isinstance(value, str | Path) or not str(value):
            raise ConfigError(f"{key} must be {what}, got {value!r}.")
        return Path(value).absolute()

    return parse


_data = _path("a data folder or a selection file")


def _several_data(key: str, value: Any) -> tuple[Path, ...]:
    listed = [value] if isinstance(value, str | Path) else value
    if not isinstance(listed, list | tuple) or not listed:
        raise ConfigError(f"{key} must be data folders or selection files, one or a list, got {value!r}.")
    return tuple(_data(key, item) for item in listed)


def _names(key: str, value: Any) -> tuple[str, ...]:
    named = (
        isinstance(value, list | tuple) and value and all(isinstance(name, str) and name for name in value)
    )
    if not named or len(set(value)) != len(value):
        raise ConfigError(f"{key} must be a list of different names, got {value!r}.")
    return tuple(value)


def _layers(key: str, value: Any) -> tuple[int, ...]:
    if isinstance(value, int) and not isinstance(value, bool):
        return tuple(range(_integer(0)(key, value)))
    if not isinstance(value, list | tuple):
        raise ConfigError(
            f"{key} must be a number of first layers or a list of layer indices, got {value!r}."
        )
    return tuple(sorted({_integer(0)(key, layer) for layer in value}))


def _augment(key: str, value: Any) -> dict[str, float]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{key} must be a mapping of strengths, got {value!r}.")
    for name in value:
        if name not in AUGMENTATIONS:
            raise ConfigError(f"{key} has no setting {name!r}{_nearest(name, AUGMENTATIONS)}.")
    limits = dict.fromkeys(("degrees", "shear"), 180.0)
    given = {
        name: _number(0, limits.get(name, 1.0))(f"{key}.{name}", strength) for name, strength in value.items()
    }
    return {**AUGMENTATIONS, **given}


def _pipeline(key: str, value: Any) -> tuple[dict[str, Any], ...]:
    try:
        steps = read_pipeline(value)
    except ConfigError as error:
        raise ConfigError(f"{key}: {error}") from error
    # Whole, so that a job is named by what a step does and not by how much of that was written down.
    return tuple({"step": step.name, **step.model_dump(mode="json")} for step in steps)


def _image_size(key: str, value: Any) -> int:
    size: int = _integer(32)(key, value)
    if size % 32:
        raise ConfigError(f"{key} must be a multiple of 32, got {size}.")
    return size


_PARSERS: dict[str, _Parser] = {
    "train_data": _several_data,
    "val_data": _data,
    "classes": _names,
    "model": _model,
    "data_digest": _optional(_text),
    "sampling": _choice(SAMPLINGS),
    "epochs": _integer(1),
    "batch_size": _integer(1),
    "nominal_batch": _optional(_integer(1)),
    "learning_rate": _number(0, 1, above=True),
    "optimizer": _choice(tuple(OPTIMIZERS)),
    "momentum": _number(0, 1),
    "scheduler": _choice(SHAPES),
    "final_lr_fraction": _number(0, 1),
    "weight_decay": _number(0, 1),
    "warmup_epochs": _number(0),
    "warmup_bias_lr": _number(0, 1),
    "image_size": _image_size,
    "augment": _augment,
    "augmentation_pipeline": _pipeline,
    "close_mosaic": _integer(0),
    "seed": _integer(0, 2**31 - 1),
    "initial_weights": _optional(_path("a folder")),
    "patience": _optional(_integer(1)),
    "freeze": _layers,
    "threads": _optional(_integer(1)),
    "workers": _integer(0),
}
