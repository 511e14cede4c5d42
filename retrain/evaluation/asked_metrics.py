"""Metrics by the names that people ask for."""

from collections.abc import Iterable, Mapping
from typing import Any

from retrain.errors import ConfigError
from retrain.evaluation.arguments import checked_list
from retrain.evaluation.coco import NUMBERS
from retrain.evaluation.metrics import MetricSummary

DEFAULT_METRICS = ("map", "map50", "precision", "recall", "f1")
SPEED = "speed"
_OWN = ("precision", "recall", "f1", "best_f1", "best_confidence")
_ALIASES = {"map": "map50_95"}
METRICS = (*_ALIASES, *NUMBERS, *_OWN, SPEED)
COMPARED = ("map50", "map50_95")
"""Those that differences of models have an interval for."""


def checked_metrics(asked: Iterable[str]) -> tuple[str, ...]:
    """Without repetition, in the order asked.

    Raises:
        ConfigError: an unknown name, or none; the valid ones are listed. Or no list.
    """
    names = tuple(dict.fromkeys(checked_list(asked, "metrics")))
    unknown = [name for name in names if name not in METRICS]
    if unknown or not names:
        what = f"Unknown metrics {', '.join(map(repr, unknown))}" if unknown else "No metric was asked for"
        raise ConfigError(f"{what}. Metrics are {', '.join(METRICS)}.")
    return names


def values_of(summary: MetricSummary, names: Iterable[str]) -> dict[str, float]:
    """Each by the name it was asked for; NaN where nothing defines it. Speed is no number of a summary."""
    known: Mapping[str, Any] = {**summary.coco, **{name: getattr(summary, name) for name in _OWN}}
    return {name: float(known[_ALIASES.get(name, name)]) for name in names if name != SPEED}


def compared_by(names: Iterable[str]) -> tuple[str, ...]:
    """The asked metrics that models are compared by; both where none of them was asked for."""
    asked = tuple(dict.fromkeys(_ALIASES.get(name, name) for name in names))
    return tuple(name for name in asked if name in COMPARED) or COMPARED
