"""`retrain triggers`: what would start a retraining and why not yet, and what other settings would have done."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows.dataset_view import table_of, utc
from retrain.data_collection.triggers.facts import read_facts
from retrain.data_collection.triggers.history import AnsweredCrossing, last_crossings, read_history
from retrain.data_collection.triggers.policy import TriggerDecision, evaluate, measure
from retrain.data_collection.triggers.replay import History, ReplayedCrossing, cycle_delays, replay
from retrain.data_collection.triggers.shortage import shortages
from retrain.errors import BadInput
from tasks.collection_rules import trigger_policy
from tasks.resources import Resources
from tasks.retention import retention_policy

_SHOWN = 10


def show_triggers(resources: Resources, console: Console, now: float) -> None:
    """Print the counts beside every threshold, what would happen now and why, and the last crossings."""
    state, model, policy = resources.state, resources.model, trigger_policy(resources.config)
    with state.read() as connection:
        facts = read_facts(connection, model, policy, resources.config.model.classes)
    decision = evaluate(facts, policy, now)
    console.print(Text(f"{model}: {_verdict(decision)}"))
    for reason in decision.reasons:
        console.print(Text(f"  {reason}"))
    rows = []
    for level in measure(facts, policy):
        counts = (level.waiting.total, level.waiting.counted, level.counts_for, level.threshold)
        rows.append((level.scope, *map(str, counts)))
    console.print(table_of(("threshold", "waiting", "counted before", "count for", "needed"), rows))
    show_shortages(resources, console, now)
    if crossings := last_crossings(state, model, _SHOWN):
        console.print(_crossings(crossings))


def show_shortages(resources: Resources, console: Console, now: float) -> None:
    """Warn when retention deletes waiting samples before there are enough of them."""
    policy, retention = trigger_policy(resources.config), retention_policy(resources.config)
    for sentence in shortages(resources.state, resources.model, policy, retention, now):
        console.print(Text(sentence, style="yellow"))


def show_replay(
    resources: Resources, console: Console, settings: Sequence[str], since: str | None, now: float
) -> None:
    """Print when the present policy, changed by `settings`, would have fired, beside what was recorded.

    Args:
        settings: "name=value" with an attribute of `TriggerPolicy` and a YAML value.
        since: ISO time, UTC unless it says otherwise; None: from the first stored sample on.

    Raises:
        BadInput: a setting or the time cannot be read.
        ConfigError: an unknown setting, or a value out of range.
    """
    policy = trigger_policy(resources.config).changed(dict(map(_setting, settings)))
    classes = resources.config.model.classes
    policy.check_classes(classes)
    history = read_history(
        resources.state,
        resources.model,
        classes,
        None if since is None else _moment(since),
        now,
        resources.config.orchestration.watch_interval_s,
    )
    replayed = replay(history, policy)
    console.print(Text(_assumption(history)))
    console.print(_side_by_side(replayed, history))


def _verdict(decision: TriggerDecision) -> str:
    if decision.fires:
        return "the next watch records a crossing"
    if decision.would_fire_at is None:
        return "nothing fires yet"
    return f"nothing fires before {utc(decision.would_fire_at)} UTC"


def _crossings(crossings: Sequence[AnsweredCrossing]) -> Table:
    rows = []
    for one in crossings:
        crossing = one.crossing
        count = f"{crossing.count} of {crossing.threshold}"
        announced = "not yet" if crossing.emitted_at is None else utc(crossing.emitted_at)
        rows.append((crossing.id, utc(crossing.crossed_at), crossing.scope, count, announced, _answer(one)))
    return table_of(("crossing", "crossed (UTC)", "by", "count", "announced (UTC)", "answered (UTC)"), rows)


def _answer(one: AnsweredCrossing) -> str:
    if one.started_at is None:
        return "not yet"
    if one.finished_at is None:
        return f"{one.status} since {utc(one.started_at)}"
    return f"{one.status} {utc(one.finished_at)}"


def _assumption(history: History) -> str:
    delays = cycle_delays(history)
    looks = f"{len(history.looks)} looks at {len(history.samples)} stored samples."
    if delays.cycles == 0:
        return f"{looks} No cycle is recorded to learn from: each crossing is taken as answered at once."
    return (
        f"{looks} A cycle that was never run is taken to select {delays.select_s:.0f} s and to finish "
        f"{delays.finish_s:.0f} s after its crossing (median of {delays.cycles})."
    )


def _side_by_side(replayed: Sequence[ReplayedCrossing], history: History) -> Table:
    start = history.looks[0]
    recorded = {one.crossed_at: one.id for one in history.crossings if one.crossed_at >= start}
    would = {one.crossed_at: f"{one.count} of {one.threshold} {one.scope}" for one in replayed}
    rows = [
        (utc(moment), would.get(moment, "-"), recorded.get(moment, "-"))
        for moment in sorted(recorded.keys() | would.keys())
    ]
    total = ("in all", str(len(would)), str(len(recorded)))
    return table_of(("time (UTC)", "would have fired", "was recorded"), [*rows, total])


def _setting(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise BadInput(f"The value of --set {text!r} is not YAML.") from error
    if not equals or parsed is None:
        raise BadInput(f"--set takes name=value, such as threshold=300, got {text!r}.")
    if name == "freeze" and isinstance(parsed, str):
        return name, (parsed,)
    return name, parsed


def _moment(text: str) -> float:
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError as error:
        raise BadInput(f"{text!r} is not an ISO time such as 2026-11-23T12:00:00.") from error
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()
