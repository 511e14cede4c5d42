import pytest
from sqlalchemy import select

from retrain.cycle import (
    FIRST_STAGES,
    STAGES,
    abandon_cycle,
    first_trigger,
    list_cycles,
    open_cycle,
    read_cycle,
    required_stages,
    stage_records,
)
from retrain.data_collection.triggers.crossings import cycle_samples, select_samples
from retrain.errors import Conflict, LeaseLost, NotFound
from retrain.storage.leases import LeaseManager
from retrain.storage.schema import stages
from retrain.storage.state import open_state
from tests.unit.data_collection.stored_rows import store_many, waiting_ids


@pytest.fixture
def state(tmp_path):
    store = open_state(f"sqlite:///{tmp_path / 'state.db'}")
    yield store
    store.close()


@pytest.fixture
def lease(state):
    with LeaseManager(state).acquire("cycle-m", 30) as lease:
        yield lease


def opened(state, lease, trigger="m-samples-1", config="c"):
    return open_cycle(state, "m", trigger, config, lease)


def test_a_stage_done_once_is_not_done_again(state, lease):
    calls = []
    cycle = opened(state, lease)

    first = cycle.stage("train", {"v": 1}, lambda: calls.append(1) or {"job": "a"})
    second = opened(state, lease).stage("train", {"v": 1}, lambda: calls.append(2) or {"job": "b"})

    assert first == second == {"job": "a"}
    assert calls == [1]


def test_a_stage_whose_work_failed_is_not_recorded(state, lease):
    cycle = opened(state, lease)

    with pytest.raises(ZeroDivisionError):
        cycle.stage("train", {}, lambda: 1 / 0)

    assert stage_records(state, cycle.id) == []


def test_a_stage_done_for_other_inputs_is_a_conflict(state, lease):
    cycle = opened(state, lease)
    cycle.stage("train", {"version": "v1.0.0"}, dict)

    with pytest.raises(Conflict, match="done for other inputs"):
        cycle.stage("train", {"version": "v1.1.0"}, dict)


def test_a_process_that_lost_its_lease_records_nothing(state):
    manager = LeaseManager(state)
    old = manager.acquire("cycle-m", 30)
    cycle = open_cycle(state, "m", "t", "c", old)
    old.release()

    with manager.acquire("cycle-m", 30), pytest.raises(LeaseLost):
        cycle.stage("train", {}, lambda: {"job": "stale"})

    with state.read() as connection:
        assert connection.execute(select(stages)).all() == []


def test_opening_a_running_cycle_again_counts_an_attempt(state, lease):
    opened(state, lease)

    again = opened(state, lease)

    assert again.record.attempts == 2
    assert len(list_cycles(state)) == 1


def test_a_cycle_begun_under_another_configuration_says_what_to_do(state, lease):
    opened(state, lease, config="c")

    with pytest.raises(Conflict, match="retrain cycle abandon cycle-m-samples-1"):
        opened(state, lease, config="d")


def test_an_abandoned_cycle_is_closed_and_not_reopened(state, lease):
    cycle = opened(state, lease)

    abandon_cycle(state, cycle.id, now=5.0)

    assert opened(state, lease, config="d").record.status == "abandoned"
    assert read_cycle(state, cycle.id).finished_at == 5.0


def test_the_samples_of_a_cycle_abandoned_before_its_dataset_version_wait_for_another_cycle(state, lease):
    store_many(state, 3)
    cycle = opened(state, lease)
    claimed = select_samples(state, "m", cycle.id, limit=100)
    cycle.stage("select", {}, lambda: {"sample_ids": claimed})

    closed = abandon_cycle(state, cycle.id, now=5.0)

    assert closed.outcome["samples_waiting_again"] == 3
    assert waiting_ids(state) == set(claimed)
    again = opened(state, lease, trigger="m-manual-1")
    assert select_samples(state, "m", again.id, limit=100) == claimed


def test_the_samples_of_a_cycle_abandoned_after_its_dataset_version_stay_used(state, lease):
    store_many(state, 3)
    cycle = opened(state, lease)
    claimed = select_samples(state, "m", cycle.id, limit=100)
    cycle.stage("version", {}, dict)

    closed = abandon_cycle(state, cycle.id, now=5.0)

    assert closed.outcome["samples_waiting_again"] == 0
    assert [sample.id for sample in cycle_samples(state, cycle.id)] == claimed


def test_abandoning_a_finished_cycle_changes_nothing(state, lease):
    store_many(state, 3)
    cycle = opened(state, lease)
    claimed = select_samples(state, "m", cycle.id, limit=100)
    cycle.finish("kept_champion", {"why": "worse"})

    closed = abandon_cycle(state, cycle.id, now=5.0)

    assert (closed.status, closed.outcome) == ("kept_champion", {"why": "worse"})
    assert [sample.id for sample in cycle_samples(state, cycle.id)] == claimed


@pytest.mark.parametrize(
    ("trigger", "status", "required"),
    [
        ("m-samples-1", "promoted", tuple(stage for stage in STAGES if stage != "report")),
        ("m-samples-1", "kept_champion", STAGES[:8]),
        ("m-samples-1", "nothing_to_do", ("plan", "select")),
        ("m-samples-1", "running", ()),
        ("m-first", "promoted", FIRST_STAGES),
        ("m-first-2", "promoted", FIRST_STAGES),
    ],
)
def test_how_a_cycle_ended_says_what_it_must_have_recorded(state, lease, trigger, status, required):
    cycle = opened(state, lease, trigger)
    if status != "running":
        cycle.finish(status, {})

    assert required_stages(read_cycle(state, cycle.id)) == required


def test_after_a_first_cycle_was_abandoned_another_can_be_started_and_continued(state, lease):
    triggers = [first_trigger(state, "m")]
    for _ in range(2):
        cycle = opened(state, lease, triggers[-1])
        assert first_trigger(state, "m") == triggers[-1]
        abandon_cycle(state, cycle.id, now=5.0)
        triggers.append(first_trigger(state, "m"))

    opened(state, lease, triggers[-1]).finish("promoted", {"release": "x"})

    assert triggers == ["m-first", "m-first-2", "m-first-3"]
    assert first_trigger(state, "m") == "m-first-3"


def test_an_abandoned_cycle_must_have_recorded_nothing(state, lease):
    cycle = opened(state, lease)

    assert required_stages(abandon_cycle(state, cycle.id, now=5.0)) == ()


def test_a_finished_cycle_keeps_its_outcome(state, lease):
    cycle = opened(state, lease)

    record = cycle.finish("promoted", {"release": "x"})

    assert (record.status, record.outcome) == ("promoted", {"release": "x"})


def test_an_unknown_cycle_is_named(state):
    with pytest.raises(NotFound, match="No cycle 'nope'"):
        read_cycle(state, "nope")


def test_an_abandoned_cycle_records_nothing_more(state, lease):
    cycle = opened(state, lease)
    abandon_cycle(state, cycle.id, now=5.0)

    with pytest.raises(LeaseLost, match="is abandoned"):
        cycle.stage("train", {}, dict)
    with pytest.raises(LeaseLost):
        cycle.finish("promoted", {})

    assert read_cycle(state, cycle.id).status == "abandoned"


def test_an_attempt_refused_for_its_configuration_counts(state, lease):
    opened(state, lease, config="c")

    with pytest.raises(Conflict):
        opened(state, lease, config="d")

    assert list_cycles(state)[0].attempts == 2


def test_work_that_lost_its_cycle_is_told_before_its_stage_ends(state, lease):
    cycle = opened(state, lease)
    cycle.require_ours()
    abandon_cycle(state, cycle.id, now=5.0)

    with pytest.raises(LeaseLost, match="is abandoned"):
        cycle.require_ours()
