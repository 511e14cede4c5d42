"""The training configuration: a plain mapping in, a checked and frozen request out."""

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from retrain.dataset.augmentation.pipeline import read_pipeline
from retrain.errors import ConfigError
from retrain.training.architecture import DETECTORS, architecture_of, checked_model, is_file
from retrain.training.early_stopping import METRICS, EarlyStopping
from retrain.training.lr_schedule import SHAPES, LearningRateScheduler

OPTIMIZERS = {"adamw": "AdamW", "adam": "Adam", "sgd": "SGD", "musgd": "MuSGD"}
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
CACHES = ("auto", "ram", "none")
_WHERE = ("train_data", "val_data", "initial_weights", "threads", "workers", "cache")
# Not named where they have the value that was the only one before there was a choice, so that jobs keep their names.
_NEWER: Mapping[str, Any] = {
    "sampling": "uniform",
    "augmentation_pipeline": (),
    "clip_norm": 10.0,
    "sync_batchnorm": False,
    "channels_last": False,
    "compile": False,
    "stop_metric": "map50_95",
    "min_delta": 0.0,
    "onecycle_peak": None,
    "onecycle_start": None,
    "step_epochs": None,
    "step_factor": None,
    "plateau_patience": None,
    "plateau_factor": None,
}

_Parser = Callable[[str, Any], Any]


@dataclass(frozen=True, kw_only=True)
class TrainingRequest:
    """One requested training.

    Attributes:
        train_data: data folders (with `images/` and `labels/`) and selection files (whose images are read from their
            packs), in any mix; several are trained on as one set.
        val_data: one of either; measured after every epoch.
        classes: names, by index.
        model: an Ultralytics architecture such as `yolov8n`, or the path of a model yaml.
        data_digest: names the data; computed from the files when absent. Sampling weights are not part of it.
        sampling: `uniform` shows each image once an epoch, `balanced` as often as its weight in the selection says;
            what a mosaic or mixup adds to an image is drawn uniformly either way.
        nominal_batch: gradients are summed until about this many images were seen; None is one batch.
        momentum: beta1 of adam and adamw.
        scheduler: a `LearningRateScheduler` shape; its own settings, from `onecycle_peak` to `plateau_factor`, are
            described there, have their values when it reads them and are None when it does not.
        final_lr_fraction: share of the learning rate left at the end.
        warmup_epochs: 0 where the scheduler warms up by itself (onecycle).
        clip_norm: gradients of a greater norm are scaled down to it; None leaves them.
        sync_batchnorm: normalise by the images of all GPUs together; needs more than one.
        channels_last: keep the channels of a pixel side by side in memory, which convolutions are often faster with;
            sums are made in another order, so the weights are not the same to the bit.
        compile: let torch compile the network, see `compiling`; the weights are not the same to the bit either.
        augment: strengths of Ultralytics' own augmentation; 0 switches one off.
        augmentation_pipeline: steps of `retrain.dataset.augmentation`, applied to each training image before `augment`,
            in every epoch; given ones are completed with the defaults of their parameters.
        close_mosaic: last epochs without the mosaic and mixup of `augment`.
        initial_weights: what to fine-tune from: a model folder, an Ultralytics `.pt` file, or official weights by the
            name of an architecture (only when there is nothing of that name here); None starts from scratch.
        patience: epochs without a better `stop_metric` before stopping; None never stops.
        stop_metric: on the validation images, or `loss`, the sum of the training losses; also chooses the best epoch
            and is what the plateau scheduler follows.
        min_delta: only an epoch that is better by more than this counts for `patience`.
        freeze: indices of layers that do not change.
        threads: CPU threads; None is all cores, fixed when the job starts.
        workers: processes that load images; 0 loads in the training process.
        cache: `ram` keeps all images decoded in memory, `none` reads them whenever they are drawn, `auto` keeps them
            where they take at most half of what is free. The weights are the same.
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
    onecycle_peak: float | None = None
    onecycle_start: float | None = None
    step_epochs: int | None = None
    step_factor: float | None = None
    plateau_patience: int | None = None
    plateau_factor: float | None = None
    final_lr_fraction: float = 0.01
    weight_decay: float = 0.0005
    warmup_epochs: float = 1.0
    warmup_bias_lr: float = 0.0
    clip_norm: float | None = 10.0
    sync_batchnorm: bool = False
    channels_last: bool = False
    compile: bool = False
    image_size: int = 640
    augment: Mapping[str, float] = field(default_factory=lambda: dict(AUGMENTATIONS))
    augmentation_pipeline: tuple[Mapping[str, Any], ...] = ()
    close_mosaic: int = 2
    seed: int = 0
    initial_weights: Path | str | None = None
    patience: int | None = None
    stop_metric: str = "map50_95"
    min_delta: float = 0.0
    freeze: tuple[int, ...] = ()
    threads: int | None = None
    workers: int = 0
    cache: str = "auto"

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "TrainingRequest":
        """Check a plain mapping.

        Raises:
            ConfigError: a key is unknown (names the nearest valid one) or missing, a value is out of range, or nothing
                would read it beside the others.
        """
        for key in config:
            if key not in _PARSERS:
                raise ConfigError(f"Training has no setting {key!r}{_nearest(key, _PARSERS)}.")
        required = [
            item.name for item in fields(cls) if item.default is MISSING and item.default_factory is MISSING
        ]
        if missing := [name for name in required if name not in config]:
            raise ConfigError(f"Training needs {', '.join(missing)}.")
        request = cls(**{key: _PARSERS[key](key, value) for key, value in config.items()})
        if request.scheduler == "onecycle" and "warmup_epochs" not in config:
            request = replace(request, warmup_epochs=0.0)
        # Whole, so that a job is named by what it does and not by how much of that was written down.
        return replace(request, **request.schedule(batches=1, accumulate=1).resolved)._consistent()

    @property
    def stopping(self) -> EarlyStopping:
        return EarlyStopping(self.patience, self.stop_metric, self.min_delta)

    def schedule(self, batches: int, accumulate: int) -> LearningRateScheduler:
        """What decides the learning rate, for epochs of `batches`."""
        return LearningRateScheduler(
            shape=self.scheduler,
            learning_rate=self.learning_rate,
            final_fraction=self.final_lr_fraction,
            epochs=self.epochs,
            batches=batches,
            warmup_epochs=self.warmup_epochs,
            warmup_bias_lr=self.warmup_bias_lr,
            momentum=self.momentum,
            accumulate=accumulate,
            onecycle_peak=self.onecycle_peak,
            onecycle_start=self.onecycle_start,
            step_epochs=self.step_epochs,
            step_factor=self.step_factor,
            plateau_patience=self.plateau_patience,
            plateau_factor=self.plateau_factor,
            bigger_is_better=self.stopping.bigger_is_better,
        )

    def _consistent(self) -> "TrainingRequest":
        if self.compile and self.sync_batchnorm:
            raise ConfigError(
                "compile and sync_batchnorm were never tried together; set one of them to false."
            )
        stop, fall = self.patience, self.plateau_patience
        if stop is not None and fall is not None and stop <= fall + 1:
            raise ConfigError(
                f"patience is {stop}, which ends training before the learning rate falls after plateau_patience "
                f"{fall}; patience must be at least {fall + 2}, or plateau_patience smaller."
            )
        return self

    def identity(self) -> dict[str, Any]:
        """What decides the resulting weights, JSON-ready: every setting but places and how many work on it."""
        values = asdict(self)
        if is_file(self.model):
            # Content, not place.
            values["model"] = architecture_of(self.model)
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


def _batch_size(key: str, value: Any) -> int:
    if isinstance(value, str):
        # `auto` became a number before: here is what is trained, not what was asked for.
        raise ConfigError(f"{key} must be a whole number of at least 1, or auto, got {value!r}.")
    return int(_integer(1)(key, value))


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


def _optimizer(key: str, value: Any) -> str:
    if value == "auto":
        raise ConfigError(
            f"{key} must be named, got 'auto': it chooses by the number of steps, so that a growing data set would "
            f"silently change the optimizer; choose one of {', '.join(OPTIMIZERS)}."
        )
    return str(_choice(tuple(OPTIMIZERS))(key, value))


def _given(_: str, value: Any) -> Any:
    """For what `LearningRateScheduler` checks."""
    return value


def _optional(parser: _Parser) -> _Parser:
    return lambda key, value: None if value is None else parser(key, value)


def _text(key: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{key} must be a text, got {value!r}.")
    return value


def _path(what: str) -> _Parser:
    def parse(key: str, value: Any) -> Path:
        if not isinstance(value, str | Path) or not str(value):
            raise ConfigError(f"{key} must be {what}, got {value!r}.")
        return Path(value).absolute()

    return parse


_data = _path("a data folder or a selection file")


def _initial_weights(key: str, value: Any) -> Path | str:
    path = _path("a model folder, a .pt file or the name of official weights such as 'yolov8n'")(key, value)
    name = str(value).removesuffix(".pt")
    return name if name in DETECTORS and not path.exists() else path


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


def _switch(key: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"{key} must be true or false, got {value!r}.")
    return value


def _image_size(key: str, value: Any) -> int:
    size: int = _integer(32)(key, value)
    if size % 32:
        raise ConfigError(f"{key} must be a multiple of 32, got {size}.")
    return size


_PARSERS: dict[str, _Parser] = {
    "train_data": _several_data,
    "val_data": _data,
    "classes": _names,
    "model": checked_model,
    "data_digest": _optional(_text),
    "sampling": _choice(SAMPLINGS),
    "epochs": _integer(1),
    "batch_size": _batch_size,
    "nominal_batch": _optional(_integer(1)),
    "learning_rate": _number(0, 1, above=True),
    "optimizer": _optimizer,
    "momentum": _number(0, 1),
    "scheduler": _choice(SHAPES),
    "onecycle_peak": _given,
    "onecycle_start": _given,
    "step_epochs": _given,
    "step_factor": _given,
    "plateau_patience": _given,
    "plateau_factor": _given,
    "final_lr_fraction": _number(0, 1),
    "weight_decay": _number(0, 1),
    "warmup_epochs": _number(0),
    "warmup_bias_lr": _number(0, 1),
    "clip_norm": _optional(_number(0, above=True)),
    "sync_batchnorm": _switch,
    "channels_last": _switch,
    "compile": _switch,
    "image_size": _image_size,
    "augment": _augment,
    "augmentation_pipeline": _pipeline,
    "close_mosaic": _integer(0),
    "seed": _integer(0, 2**31 - 1),
    "initial_weights": _optional(_initial_weights),
    "patience": _optional(_integer(1)),
    "stop_metric": _choice(tuple(METRICS)),
    "min_delta": _number(0),
    "freeze": _layers,
    "threads": _optional(_integer(1)),
    "workers": _integer(0),
    "cache": _choice(CACHES),
}
