"""A pipeline as it is written in the configuration, checked as a whole; and what may be written there."""

import difflib
import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from retrain.dataset.augmentation.geometric import Affine, Crop, Flip, Perspective, QuarterTurn
from retrain.dataset.augmentation.mixing import CopyPaste, Mixup, Mosaic
from retrain.dataset.augmentation.photometric import (
    Blur,
    BrightnessContrast,
    Equalise,
    Gamma,
    Greyscale,
    Hsv,
    Sharpen,
    WhiteBalance,
)
from retrain.dataset.augmentation.step import Step, Within
from retrain.dataset.augmentation.weather import Fog, Jpeg, LowLight, MotionBlur, Rain, SensorNoise, Snow
from retrain.errors import ConfigError

_ALL: tuple[type[Step], ...] = (
    *(Flip, QuarterTurn, Affine, Perspective, Crop),
    *(Hsv, BrightnessContrast, Gamma, WhiteBalance, Greyscale, Equalise, Blur, Sharpen),
    *(Fog, Rain, Snow, LowLight, SensorNoise, MotionBlur, Jpeg),
    *(Mosaic, Mixup, CopyPaste),
)
STEPS: Mapping[str, type[Step]] = {step.name: step for step in _ALL}


def read_pipeline(pipeline: Sequence[Mapping[str, Any]]) -> tuple[Step, ...]:
    """The steps that the mappings describe, in their order.

    Args:
        pipeline: one mapping a step: its name under `step`, and parameters as `describe` lists them.

    Raises:
        ConfigError: names every unknown step, unknown parameter and impossible value, each with its place.
    """
    if isinstance(pipeline, str | Mapping) or not isinstance(pipeline, Sequence):
        raise ConfigError(f"An augmentation pipeline is a list of steps, got {pipeline!r}.")
    steps: list[Step] = []
    problems: list[str] = []
    for number, given in enumerate(pipeline, start=1):
        try:
            steps.append(_read_step(given))
        except ValidationError as e:
            place = f"step {number} ({given['step']})"
            # A span of which both ends are wrong is one problem.
            sentences = dict.fromkeys(_sentence(error, given) for error in e.errors())
            problems += [f"{place}: {sentence}" for sentence in sentences]
        except ConfigError as e:
            problems.append(f"step {number}: {e}")
    if problems:
        raise ConfigError("The augmentation pipeline cannot be used:\n  " + "\n  ".join(problems))
    return tuple(steps)


def describe() -> list[dict[str, Any]]:
    """Every step with its parameters, ready for JSON.

    Returns:
        Mappings `{step, summary, mixes, parameters}`; a parameter is `{name, kind, default, low, high, meaning}`, with
        the bounds of a number or of both ends of a span (None where it is no number). `mixes` tells whether the step
        needs other images.
    """
    return [
        {
            "step": name,
            "summary": (inspect.getdoc(step) or "").split("\n", 1)[0],
            "mixes": step.needs_partners,
            "parameters": [_described(field, step.model_fields[field]) for field in step.model_fields],
        }
        for name, step in STEPS.items()
    ]


def _read_step(given: Any) -> Step:
    if not isinstance(given, Mapping):
        raise ConfigError(f"a step is a mapping such as {{step: flip, probability: 0.5}}, got {given!r}.")
    if "step" not in given:
        raise ConfigError(f"the key 'step' is missing, got {dict(given)!r}. Steps: {', '.join(STEPS)}.")
    name = given["step"]
    if not isinstance(name, str) or name not in STEPS:
        raise ConfigError(f"there is no step {name!r}.{_nearest(str(name), STEPS)}")
    return STEPS[name].model_validate({key: value for key, value in given.items() if key != "step"})


def _sentence(error: ErrorDetails, given: Mapping[str, Any]) -> str:
    fields, name = STEPS[given["step"]].model_fields, str(error["loc"][0])
    if error["type"] == "extra_forbidden":
        return f"there is no parameter {name!r}.{_nearest(name, fields)}"
    # Pydantic's own words are about Python's types; ours come from `Within` and its like.
    own = error["msg"].removeprefix("Value error, ") if error["type"] == "value_error" else ""
    return f"{name} {own or 'must be ' + _kind(fields[name].annotation)}, got {given[name]!r}."


def _nearest(name: str, known: Iterable[str]) -> str:
    names = list(known)
    if near := difflib.get_close_matches(name, names, n=1, cutoff=0.5):
        return f" Did you mean {near[0]!r}?"
    return f" Known: {', '.join(names)}."


def _described(name: str, field: FieldInfo) -> dict[str, Any]:
    bounds = next((item for item in field.metadata if isinstance(item, Within)), None)
    default = field.default
    return {
        "name": name,
        "kind": _kind(field.annotation),
        "default": list(default) if isinstance(default, tuple) else default,
        "low": bounds.low if bounds else None,
        "high": bounds.high if bounds else None,
        "meaning": (field.description or "").strip(),
    }


def _kind(annotation: Any) -> str:
    if get_origin(annotation) is not tuple:
        return "a whole number" if annotation is int else "a number"
    first, *rest = get_args(annotation)
    if rest == [Ellipsis]:
        return f"a list of one or more of {', '.join(map(repr, get_args(first)))}"
    return "[low, high] in whole numbers" if int in (first, *get_args(first)) else "[low, high]"
