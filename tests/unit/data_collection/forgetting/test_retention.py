import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import insert, select, update

from retrain.data_collection.collector import DataCollectionService
from retrain.data_collection.forgetting.eraser import Eraser
from retrain.data_collection.forgetting.retention import RetentionPolicy, retain
from retrain.data_collection.forgetting.tombstones import deleted_on_purpose
from retrain.data_collection.store.samples import SampleStore
from retrain.errors import ConfigError, Unavailable
from retrain.storage.digests import content_digest
from retrain.storage.local_blobs import LocalBlobs
from retrain.storage.schema import annotations, likenesses, samples
from retrain.storage.state import open_state
from tests.unit.data_collection.conftest import png_bytes
from tests.unit.data_collection.erasing import drawn, files_with, is_exact, pack_bytes, stored
from tests.unit.data_collection.stored_rows import finish_cycle, start_cycle

DAY = 86_400.0
NOW = 100 * DAY


@pytest.fixture
def eraser(state, blobs, tmp_path):
    return Eraser(state, blobs, tmp_path / "cache")


@pytest.fixture
def collect(service):
    """Collects frames captured so many days before `NOW`, as {number: days}, into one pack; returns ids by number."""
    collecting = service(clock=lambda: NOW)

    def go(days):
        for number, age in days.items():
            metadata = {"captured_at": NOW - age * DAY}
            collecting.collect(image=png_bytes(number), confidence=0.5, metadata=metadata)
        collecting.flush()
        return {number: content_digest(png_bytes(number)) for number in days}

    return go


def claim(state, trigger, *ids):
    start_cycle(state, trigger)
    with state.write() as connection:
        connection.execute(update(samples).where(samples.c.id.in_(ids)).values(cycle_id=f"cycle-{trigger}"))


def test_what_is_older_than_the_limit_goes_oldest_first_and_the_rest_stays(collect, eraser, state, tmp_path):
    ids = collect({1: 40, 2: 29, 3: 31, 4: 1})

    report = retain(eraser, RetentionPolicy(max_age_s=30 * DAY), NOW)

    assert report.samples == (ids[1], ids[3])
    assert stored(state).keys() == {ids[2], ids[4]}
    assert files_with(tmp_path / "blobs", png_bytes(1)) == files_with(tmp_path / "blobs", png_bytes(3)) == []


def test_what_another_model_has_of_the_same_image_stays_with_its_labels(
    collect, service, eraser, state, blobs, tmp_path
):
    [name] = collect({1: 40}).values()
    other = service(clock=lambda: NOW, model="other")
    other.collect(image=png_bytes(1), confidence=0.5, metadata={"captured_at": NOW - DAY})
    other.flush()
    start_cycle(state, "o", model="other")
    label = {"sample_id": name, "source": "human", "annotator": "a", "objects": {}, "made_at": 1.0}
    with state.write() as connection:
        connection.execute(insert(annotations), [{**label, "cycle_id": f"cycle-{one}"} for one in "mo"])

    report = retain(eraser, RetentionPolicy(max_age_s=30 * DAY), NOW)

    [sample] = stored(state).values()
    assert (report.samples, sample.model) == ((name,), "other")
    assert SampleStore(state, blobs, tmp_path / "cache", "a").image(sample) == png_bytes(1)
    with state.read() as connection:
        assert list(connection.execute(select(annotations.c.cycle_id)).scalars()) == ["cycle-o"]
        assert list(connection.execute(select(likenesses.c.model)).scalars()) == ["other"]
    assert {draw.model: draw.outcome for draw in drawn(state)} == {"m": "expired", "other": "stored"}
    assert is_exact(state, blobs)


def test_a_camera_whose_clock_runs_ahead_does_not_keep_its_samples_for_ever(collect, eraser, state):
    collect({1: -1000})

    retain(eraser, RetentionPolicy(max_age_s=30 * DAY), NOW + 31 * DAY)

    assert stored(state) == {}


def test_what_does_not_fit_goes_oldest_first(collect, eraser, state, blobs):
    ids = collect({1: 1, 2: 4}) | collect({3: 3, 4: 2})
    limit = pack_bytes(blobs) * 5 // 8

    report = retain(eraser, RetentionPolicy(max_bytes=limit), NOW)

    assert report.samples == (ids[2], ids[3])
    assert stored(state).keys() == {ids[1], ids[4]}
    assert pack_bytes(blobs) <= limit


def test_the_report_says_what_the_store_held_and_holds(collect, eraser, blobs):
    collect({1: 9, 2: 8})
    collect({3: 1})
    before = pack_bytes(blobs)

    report = retain(eraser, RetentionPolicy(max_age_s=5 * DAY), NOW)

    assert (report.bytes_before, report.bytes_after) == (before, pack_bytes(blobs))
    assert report.bytes_freed == before - pack_bytes(blobs) > 0
    assert (report.packs, report.over) == (1, 0)


@settings(max_examples=12, deadline=None)
@given(
    packs=st.lists(st.lists(st.integers(4, 40), min_size=1, max_size=4), min_size=1, max_size=4),
    share=st.floats(0, 1.2),
)
def test_however_large_pictures_are_the_newest_are_kept_and_fit(tmp_path_factory, packs, share):
    folder = tmp_path_factory.mktemp("world")
    state, blobs = open_state(f"sqlite:///{folder / 'state.sqlite'}"), LocalBlobs(folder / "blobs")
    service = DataCollectionService(
        folder, "all", state=state, blobs=blobs, background=False, near_duplicates=None, clock=lambda: NOW
    )
    images = []
    for sizes in packs:
        for size in sizes:
            images.append(png_bytes(len(images), size))
            service.collect(
                image=images[-1], confidence=0.5, metadata={"captured_at": NOW - DAY + len(images)}
            )
        service.flush()
    limit = int(pack_bytes(blobs) * share)

    report = retain(Eraser(state, blobs, folder / "cache"), RetentionPolicy(max_bytes=limit), NOW)

    by_age = [content_digest(image) for image in images]
    assert list(report.samples) == by_age[: len(report.samples)]
    assert stored(state).keys() == set(by_age[len(report.samples) :])
    assert pack_bytes(blobs) <= limit
    assert bool(report.samples) == (share < 1)
    store = SampleStore(state, blobs, folder / "cache", "test")
    assert {content_digest(store.image(sample)) for sample in stored(state).values()} == stored(state).keys()
    assert is_exact(state, blobs)
    service.close()
    state.close()


def test_what_waits_in_the_spool_is_measured_too_and_what_was_read_from_it_is_cleared(
    service, eraser, state, tmp_path
):
    collecting = service(clock=lambda: NOW)
    for number, age in ((1, 50), (2, 1)):
        collecting.collect(image=png_bytes(number), confidence=0.5, metadata={"captured_at": NOW - age * DAY})

    report = retain(eraser, RetentionPolicy(max_age_s=30 * DAY), NOW, drainer=collecting.drainer)

    assert report.samples == (content_digest(png_bytes(1)),)
    assert list(stored(state)) == [content_digest(png_bytes(2))]
    assert files_with(tmp_path, png_bytes(1)) == []


def test_what_a_running_cycle_selected_is_never_deleted_and_is_said_to_be_over(collect, eraser, state):
    ids = collect({1: 50, 2: 40})
    claim(state, "7", ids[1])

    report = retain(eraser, RetentionPolicy(max_age_s=30 * DAY, max_bytes=0), NOW)

    assert list(stored(state)) == [ids[1]]
    assert report.samples == (ids[2],)
    assert report.over == report.bytes_after > 0


def test_what_a_finished_cycle_selected_may_go_and_is_known_to_have_gone_on_purpose(collect, eraser, state):
    ids = collect({1: 50, 2: 40, 3: 1})
    claim(state, "7", ids[1], ids[3])
    finish_cycle(state, "7")

    retain(eraser, RetentionPolicy(max_age_s=30 * DAY), NOW)

    assert deleted_on_purpose(state, sorted(ids.values())) == {ids[1]}


def test_draws_of_deleted_samples_stay_as_counts(collect, eraser, state):
    collect({1: 50})

    retain(eraser, RetentionPolicy(max_age_s=30 * DAY), NOW)

    assert [(one.outcome, one.sample_id, one.camera) for one in drawn(state)] == [
        ("expired", None, "unknown")
    ]


def test_a_deleted_picture_that_comes_again_is_stored_again(collect, eraser, state):
    ids = collect({1: 50})
    retain(eraser, RetentionPolicy(max_age_s=30 * DAY), NOW)

    collect({1: 0})

    assert list(stored(state)) == [ids[1]]


def test_without_limits_nothing_is_deleted(collect, eraser, state):
    collect({1: 10_000})

    report = retain(eraser, RetentionPolicy(), NOW)

    assert (report.samples, report.bytes_freed) == ((), 0)
    assert len(stored(state)) == 1


def test_what_a_store_that_was_down_left_undone_the_next_call_does(collect, state, blobs, tmp_path):
    class Down(LocalBlobs):
        def delete(self, key):
            raise Unavailable("no answer")

    collect({1: 50, 2: 1})
    policy = RetentionPolicy(max_age_s=30 * DAY)
    with pytest.raises(Unavailable):
        retain(Eraser(state, Down(blobs.root), tmp_path / "cache"), policy, NOW)

    report = retain(Eraser(state, blobs, tmp_path / "cache"), policy, NOW)

    assert report.samples == ()
    assert files_with(tmp_path / "blobs", png_bytes(1)) == []
    assert is_exact(state, blobs)


@pytest.mark.parametrize("limit", [{"max_age_s": -1.0}, {"max_bytes": -1}, {"max_age_s": float("nan")}])
def test_a_limit_below_zero_is_refused(limit):
    with pytest.raises(ConfigError, match="must be 0 or more"):
        RetentionPolicy(**limit)
