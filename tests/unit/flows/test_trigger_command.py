import io
import time
from datetime import UTC, datetime

import pytest
from rich.console import Console

from flows.trigger_command import show_replay, show_shortages, show_triggers
from retrain.config import RetrainConfig
from retrain.config_sections import DataCollection
from retrain.config_values import Section
from retrain.data_collection.triggers.crossings import mark_emitted, record_crossing
from retrain.data_collection.triggers.policy import TriggerPolicy
from retrain.errors import BadInput, ConfigError
from tasks.data_collection import trigger_policy
from tasks.resources import Resources
from tests.unit.data_collection.conftest import png_bytes
from tests.unit.data_collection.stored_rows import answer, sample_row, store, store_many

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC).timestamp()


@pytest.fixture
def resources(tmp_path):
    config = {
        "model": {"name": "m", "classes": ["dent", "scratch"]},
        "data_collection": {"retrain_threshold": 4},
    }
    made = Resources(RetrainConfig.model_validate(config), tmp_path)
    yield made
    made.state.close()


def lines(show, *arguments, **more):
    """What the command prints, with single spaces."""
    file = io.StringIO()
    show(*arguments[:1], Console(file=file, width=200), *arguments[1:], **more)
    return [" ".join(line.split()) for line in file.getvalue().splitlines()]


def crossed_and_promoted(resources):
    """Four samples crossed a minute before noon; its cycle selected and finished thirty seconds later."""
    store_many(resources.state, 4, at=NOON - 100)
    crossing = record_crossing(resources.state, "m", 4, NOON - 60)
    mark_emitted(resources.state, crossing.id, NOON - 59)
    answer(resources.state, crossing.id, at=NOON - 30, status="promoted")


def test_the_configured_threshold_becomes_the_policy():
    config = RetrainConfig.model_validate({"data_collection": {"retrain_threshold": 7}})

    assert trigger_policy(config).threshold == 7


def test_every_key_of_a_trigger_section_becomes_the_attribute_of_its_name():
    class Trigger(Section):
        cooldown_s: float = 60.0
        freeze: tuple[str, ...] = ("Fri 18:00 - Mon 06:00",)

    class Collection(DataCollection):
        trigger: Trigger = Trigger()

    config = RetrainConfig().model_copy(update={"data_collection": Collection(retrain_threshold=7)})

    expected = TriggerPolicy(7, cooldown_s=60.0, freeze=("Fri 18:00 - Mon 06:00",))
    assert trigger_policy(config) == expected


def test_counts_are_shown_beside_the_threshold_with_the_reason_for_waiting(resources):
    store_many(resources.state, 3)

    shown = lines(show_triggers, resources, NOON)

    assert shown[:2] == ["m: nothing fires yet", "3 of 4 samples wait"]
    assert shown[2:] == ["threshold waiting counted before count for needed", "samples 3 0 3 4"]


def test_what_the_next_watch_would_record_is_said(resources):
    store_many(resources.state, 5)

    assert lines(show_triggers, resources, NOON)[:2] == [
        "m: the next watch records a crossing",
        "5 of 4 samples wait",
    ]


def test_last_crossings_are_shown_with_when_they_were_announced_and_answered(resources):
    crossed_and_promoted(resources)
    store_many(resources.state, 4, first=4, at=NOON - 20)
    record_crossing(resources.state, "m", 4, NOON - 10)

    shown = lines(show_triggers, resources, NOON)

    assert shown[1] == "the cycle that answers m-samples-2 has not finished"
    assert shown[-3:] == [
        "crossing crossed (UTC) by count announced (UTC) answered (UTC)",
        "m-samples-2 2026-11-23 11:59:50 samples 4 of 4 not yet not yet",
        "m-samples-1 2026-11-23 11:59:00 samples 4 of 4 2026-11-23 11:59:01 promoted 2026-11-23 11:59:30",
    ]


def test_a_replay_shows_what_would_have_fired_beside_what_was_recorded(resources):
    crossed_and_promoted(resources)
    store_many(resources.state, 2, first=4, at=NOON - 20)

    shown = lines(show_replay, resources, ["threshold=2"], None, NOON)

    assert shown[0] == (
        "3 looks at 6 stored samples. A cycle that was never run is taken to select 30 s and to finish 30 s "
        "after its crossing (median of 1)."
    )
    assert shown[1:] == [
        "time (UTC) would have fired was recorded",
        "2026-11-23 11:59:00 4 of 2 samples m-samples-1",
        "2026-11-23 12:00:00 2 of 2 samples -",
        "in all 2 1",
    ]


def test_a_replay_reports_the_recorded_crossing_that_would_not_have_been(resources):
    crossed_and_promoted(resources)

    shown = lines(show_replay, resources, ["threshold=99"], None, NOON)

    assert shown[2] == "2026-11-23 11:59:00 - m-samples-1"
    assert shown[-1] == "in all 0 1"


def test_a_replay_may_begin_later_and_says_when_it_has_nothing_to_learn_from(resources):
    store_many(resources.state, 4, at=NOON - 7200)

    shown = lines(show_replay, resources, [], "2026-11-23T11:50:00+00:00", NOON)

    assert shown[0].startswith("3 looks at 4 stored samples. No cycle is recorded to learn from")
    assert shown[2] == "2026-11-23 11:50:00 4 of 4 samples -"


def test_settings_are_yaml_and_a_single_freeze_needs_no_list(resources):
    store(resources.state, [sample_row(0, NOON - 600, classes=(1,))])
    settings = ["class_thresholds={scratch: 1}", "freeze=Mon 11:00 - Mon 11:58"]

    shown = lines(show_replay, resources, settings, None, NOON)

    assert shown[2] == "2026-11-23 12:00:00 1 of 1 class scratch -"


@pytest.mark.parametrize(
    ("settings", "since", "error", "said"),
    [
        (["treshold=3"], None, ConfigError, "Did you mean 'threshold'"),
        (["threshold=0"], None, ConfigError, "at least 1, got 0"),
        (["threshold"], None, BadInput, "--set takes name=value"),
        (["threshold="], None, BadInput, "--set takes name=value"),
        (["threshold=[3"], None, BadInput, "is not YAML"),
        (["class_thresholds={dents: 3}"], None, ConfigError, "Did you mean 'dent'"),
        (["timezone=Europe/Berln"], None, ConfigError, "Did you mean 'Europe/Berlin'"),
        ([], "yesterday", BadInput, "'yesterday' is not an ISO time"),
        ([], "2027-01-01", BadInput, "earlier start"),
    ],
)
def test_a_replay_that_makes_no_sense_is_refused(resources, settings, since, error, said):
    with pytest.raises(error, match=said):
        lines(show_replay, resources, settings, since, NOON)


def test_a_retention_too_small_for_the_threshold_is_warned_of(tmp_path):
    collection = {"strategy": "all", "retrain_threshold": 100, "retention": {"max_bytes": 2000}}
    resources = Resources(RetrainConfig.model_validate({"data_collection": collection}), tmp_path)
    with resources.collection_service(background=False) as service:
        for number in range(3):
            service.collect(image=png_bytes(number), confidence=0.5)
        service.flush()

    shown = lines(show_triggers, resources, time.time())
    alone = lines(show_shortages, resources, time.time())

    assert alone == [line for line in shown if line.startswith("Retention keeps about ")]
    assert alone[0].endswith("too few for the threshold of 100 samples.")
    resources.state.close()
