"""The rules of collection, replay and gate that a configuration describes, built without a store, checked at once."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from retrain.config import Resolved, RetrainConfig
from retrain.data_collection.checks import check_known
from retrain.data_collection.redis_backend.connection import RedisConnection
from retrain.data_collection.strategies.balance import ClassCounts
from retrain.data_collection.strategies.rules import make_strategy
from retrain.data_collection.triggers.freeze import FreezeCalendar
from retrain.data_collection.triggers.policy import TriggerPolicy
from retrain.dataset.reading.replay import BACKGROUND
from retrain.errors import ConfigError
from tasks.gate_rules import own_policy

_LABELLED = ("class_thresholds", "targets")
"""Settings of strategies that are given for single classes."""
_SERVES = {"class_thresholds": "per_class", "targets": "rare_class", "weights": "combined"}
"""The strategy that checks the setting, also while another one is chosen."""


def trigger_policy(config: RetrainConfig) -> TriggerPolicy:
    """When enough samples wait, by this configuration."""
    collection = config.data_collection
    # The keys of data_collection.trigger carry the names of the policy's own attributes.
    return TriggerPolicy(threshold=collection.retrain_threshold, **collection.trigger.model_dump())


def strategy_settings(config: RetrainConfig) -> dict[str, Any]:
    """The settings of strategies, classes as indices; those that are empty are left out, as not given.

    Raises:
        ConfigError: a class that the model does not have.
    """
    for name in _LABELLED:
        if unknown := sorted(set(getattr(config.data_collection.settings, name)) - set(config.model.classes)):
            raise ConfigError(
                f"data_collection.settings.{name} names {', '.join(unknown)}; model.classes are "
                f"{', '.join(config.model.classes)}."
            )
    return _settings_of_known_classes(config)


def check_rules(resolved: Resolved) -> None:
    """Build every rule, so that a setting that fits no rule is found before a scheduled watch or a camera meets it.

    Raises:
        ConfigError: a rule cannot be built; a line for each, with the key and where it was set.
    """
    problems: dict[str, str] = {}
    for key, build in _rules(resolved.config):
        try:
            build()
        except ConfigError as error:
            # One mistake often breaks several rules; the first key is the most exact one.
            problems.setdefault(str(error), key)
    if problems:
        raise ConfigError("\n".join(resolved.problem(key, said) for said, key in problems.items()))


def _rules(config: RetrainConfig) -> Iterator[tuple[str, Callable[[], Any]]]:
    collection, settings = config.data_collection, config.data_collection.settings
    labelled = {"trigger.class_thresholds": collection.trigger.class_thresholds}
    labelled |= {f"settings.{name}": getattr(settings, name) for name in _LABELLED}
    for name, values in labelled.items():
        for label in values:
            known = partial(check_known, f"class in {name}", label, config.model.classes)
            yield f"data_collection.{name}.{label}", known
    yield "evaluation.policy", partial(own_policy, config)
    # A running cycle could not change it any more.
    for label in config.training.replay_by_class:
        known = partial(check_known, "class in replay_by_class", label, (*config.model.classes, BACKGROUND))
        yield f"training.replay_by_class.{label}", known
    yield "data_collection.trigger.timezone", partial(FreezeCalendar, (), collection.trigger.timezone)
    for window in collection.trigger.freeze:
        yield "data_collection.trigger.freeze", partial(FreezeCalendar, (window,))
    yield "data_collection.trigger.freeze", partial(trigger_policy, config)

    options = {
        "confidence_threshold": collection.confidence_threshold,
        "sample_rate": collection.sample_rate,
        "counts": ClassCounts(),
        **_settings_of_known_classes(config),
    }
    for member in settings.weights:
        yield f"data_collection.settings.weights.{member}", partial(make_strategy, member, **options)
    for name, strategy in _SERVES.items():
        if name in options:
            yield f"data_collection.settings.{name}", partial(make_strategy, strategy, **options)
    yield "data_collection.strategy", partial(make_strategy, collection.strategy, **options)
    if collection.redis_url is not None:
        yield "data_collection.redis_url", partial(RedisConnection, collection.redis_url)


def _settings_of_known_classes(config: RetrainConfig) -> dict[str, Any]:
    settings, classes = config.data_collection.settings.model_dump(), config.model.classes
    for name in _LABELLED:
        settings[name] = {classes.index(label): x for label, x in settings[name].items() if label in classes}
    return {name: value for name, value in settings.items() if value != {}}
