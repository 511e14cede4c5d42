"""Which frames are worth keeping: rules that say with what probability a frame should be, and why.

A strategy only wishes. Whoever keeps frames flips one coin for all strategies together and stores the joint
probability with the frame. `uncertainty` and `boundary` can say nothing about a frame in which the model found
no box: it has no confidence, is not wanted, and the reason says so (see `miss_aware` for those). This module
has the rules on that one number, `combined`, and the table of all.

To add a strategy: a function with keyword settings that returns a `Strategy`, its name in `names.py`
and in `_BUILDERS`, and a test. Settings of one name mean the same everywhere.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from retrain.data_collection.checks import check_fraction, check_interval, check_known
from retrain.data_collection.frame import (
    NO_BOXES,
    Frame,
    Strategy,
    Wish,
)
from retrain.data_collection.strategies.balance import rare_class
from retrain.data_collection.strategies.box_rules import band, per_class
from retrain.data_collection.strategies.miss_aware import (
    flip_disagreement,
    no_detections,
    shadow_disagreement,
)
from retrain.data_collection.strategies.track_gap import TrackGap
from retrain.errors import ConfigError

_NOTHING = Wish(0.0, NO_BOXES)


def uncertainty(*, confidence_threshold: float = 0.7) -> Strategy:
    """Want every frame whose confidence is below the threshold.

    Raises:
        ConfigError: the threshold is outside [0, 1].
    """
    check_fraction("confidence_threshold", confidence_threshold)
    below = Wish(1.0, f"confidence < {confidence_threshold:g}")
    above = Wish(0.0, f"confidence >= {confidence_threshold:g}")

    def wish(frame: Frame) -> Wish:
        confidence = frame.confidence
        if confidence is None:
            return _NOTHING
        return below if confidence < confidence_threshold else above

    return wish


def random(*, sample_rate: float = 0.1) -> Strategy:
    """Want a share of all frames, whatever they show.

    Raises:
        ConfigError: the rate is outside [0, 1].
    """
    check_fraction("sample_rate", sample_rate)
    share = Wish(sample_rate, f"random share of {sample_rate:g}")
    return lambda _: share


def boundary(*, boundary_low: float = 0.4, boundary_high: float = 0.6) -> Strategy:
    """Want every frame whose confidence lies strictly between the bounds.

    Raises:
        ConfigError: not 0 <= low < high <= 1.
    """
    check_interval("boundary", boundary_low, boundary_high)
    inside = Wish(1.0, f"{boundary_low:g} < confidence < {boundary_high:g}")
    outside = Wish(0.0, f"confidence is outside ({boundary_low:g}, {boundary_high:g})")

    def wish(frame: Frame) -> Wish:
        confidence = frame.confidence
        if confidence is None:
            return _NOTHING
        return inside if boundary_low < confidence < boundary_high else outside

    return wish


def all_frames() -> Strategy:
    """Want every frame."""
    everything = Wish(1.0, "all frames")
    return lambda _: everything


def combined(members: Mapping[str, tuple[float, Strategy]]) -> Strategy:
    """Want what any member wants: probability 1 - prod(1 - weight * probability), as of independent coins.

    Args:
        members: name -> (weight in (0, 1], strategy). The reason names those who wanted the frame. All are
            asked about every frame, because some of them remember.

    Raises:
        ConfigError: no member, or a weight outside (0, 1].
    """
    if not members:
        raise ConfigError("weights is empty. Give at least one strategy, for example {'uncertainty': 1.0}.")
    for name, (weight, _) in members.items():
        check_fraction(f"weights[{name!r}]", weight, zero=False)
    asked = [(name, weight, strategy) for name, (weight, strategy) in members.items()]
    nobody = f"wanted by none of {', '.join(members)}"

    def wish(frame: Frame) -> Wish:
        joint, wanted_by = 0.0, []
        for name, weight, strategy in asked:
            if share := weight * strategy(frame).probability:
                # The product above step by step; in this order 0 and 1 come out exactly.
                joint += share * (1.0 - joint)
                wanted_by.append(name)
        return Wish(joint, " + ".join(wanted_by) or nobody)

    return wish


def make_strategy(name: str, **settings: Any) -> Strategy:
    """The strategy called `name`, with those of the settings that concern it.

    Args:
        settings: keyword settings of any of the strategies, so that one set serves `combined` and its members.
            For `combined`: `weights`, name -> weight in (0, 1].

    Raises:
        ConfigError: an unknown strategy or setting, one that is needed and absent, or one out of range.
    """
    check_known("collection strategy", name, _BUILDERS)
    for setting in settings:
        check_known("strategy setting", setting, _known_settings())
    builder = _BUILDERS[name]
    parameters = inspect.signature(builder).parameters.values()
    needed = [one.name for one in parameters if one.default is one.empty and one.kind is one.KEYWORD_ONLY]
    if missing := [setting for setting in needed if setting not in settings]:
        raise ConfigError(f"The collection strategy {name!r} needs {' and '.join(missing)}.")
    if any(one.kind is one.VAR_KEYWORD for one in parameters):
        return builder(**settings)
    return builder(**{one.name: settings[one.name] for one in parameters if one.name in settings})


def _combined(*, weights: Mapping[str, float], **settings: Any) -> Strategy:
    if "combined" in weights:
        raise ConfigError(
            "The strategy 'combined' cannot be one of its own weights; name its members instead."
        )
    return combined({name: (weight, make_strategy(name, **settings)) for name, weight in weights.items()})


_BUILDERS: dict[str, Callable[..., Strategy]] = {
    "uncertainty": uncertainty,
    "random": random,
    "boundary": boundary,
    "all": all_frames,
    "band": band,
    "per_class": per_class,
    "rare_class": rare_class,
    "no_detections": no_detections,
    "flip_disagreement": flip_disagreement,
    "shadow_disagreement": shadow_disagreement,
    "track_gap": TrackGap,
    "combined": _combined,
}


def _known_settings() -> list[str]:
    parameters = (
        one for builder in _BUILDERS.values() for one in inspect.signature(builder).parameters.values()
    )
    return sorted({one.name for one in parameters if one.kind is one.KEYWORD_ONLY})
