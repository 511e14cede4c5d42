from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import insert, select, update

from retrain.data_collection.collector import DataCollectionService
from retrain.data_collection.forgetting.eraser import Eraser
from retrain.data_collection.forgetting.forget import Scope, affected, find_samples, forget
from retrain.data_collection.forgetting.tombstones import CLOCK_SKEW_S, deleted_on_purpose
from retrain.data_collection.spool.reader import segments, spool_depth
from retrain.data_collection.store.drainer import Drainer
from retrain.data_collection.store.intake import Intake
from retrain.data_collection.store.samples import SampleStore
from retrain.errors import BadInput, Conflict, NotFound, Unavailable
from retrain.storage.digests import content_digest
from retrain.storage.local_blobs import LocalBlobs
from retrain.storage.schema import annotations, likenesses, samples, stages, tombstones
from retrain.storage.state import open_state
from tests.unit.data_collection.conftest import png_bytes
from tests.unit.data_collection.erasing import drawn, files_with, is_exact, pack_bytes, stored
from tests.unit.data_collection.stored_rows import finish_cycle, start_cycle

NOW = 100.0


@pytest.fixture
def eraser(state, blobs, tmp_path):
    return Eraser(state, blobs, tmp_path / "cache")


@pytest.fixture
def store(state, blobs, tmp_path):
    return SampleStore(state, blobs, tmp_path / "cache", "test")


@pytest.fixture
def collect(service):
    """Collects one frame per number, each call into a pack of its own, and returns their sample ids."""
    collecting = service()

    def go(*numbers, camera="gate", **metadata):
        for number in numbers:
            details = {"camera_id": camera, **metadata}
            collecting.collect(image=png_bytes(number), confidence=0.5, metadata=details)
        collecting.flush()
        return [content_digest(png_bytes(number)) for number in numbers]

    go.service = collecting
    return go


@settings(max_examples=12, deadline=None)
@given(
    batches=st.lists(st.lists(st.integers(0, 12), min_size=1, max_size=6), min_size=1, max_size=4),
    forgotten=st.sets(st.integers(0, 12)),
)
def test_whatever_is_forgotten_everything_else_reads_back_and_no_byte_of_it_is_left(
    tmp_path_factory, batches, forgotten
):
    folder = tmp_path_factory.mktemp("world")
    state, blobs = open_state(f"sqlite:///{folder / 'state.sqlite'}"), LocalBlobs(folder / "blobs")
    service = DataCollectionService(folder, "all", state=state, blobs=blobs, background=False)
    for batch in batches:
        for number in batch:
            service.collect(image=png_bytes(number), confidence=0.5)
        service.flush()
    store, before = SampleStore(state, blobs, folder / "cache", "test"), stored(state)
    for sample in before.values():
        store.image(sample)  # leaves a copy in the cache
    ids = {number: content_digest(png_bytes(number)) for number in range(13)}

    if forgotten:
        scope = Scope(tuple(ids[number] for number in forgotten))
        forget(Eraser(state, blobs, folder / "cache"), scope, now=NOW, drainer=service.drainer)

    kept = {number for batch in batches for number in batch} - forgotten
    assert stored(state).keys() == {ids[number] for number in kept}
    assert all(store.image(before[ids[number]]) == png_bytes(number) for number in kept)
    for number in forgotten:
        assert files_with(folder, png_bytes(number)) == []
        if ids[number] in before:
            with pytest.raises(NotFound, match="was forgotten"):
                store.image(before[ids[number]])
    assert is_exact(state, blobs)
    service.close()
    state.close()


def test_an_emptied_pack_is_deleted_and_an_untouched_one_is_not_written_again(collect, eraser, state, blobs):
    first = collect(1, 2)
    collect(3, 4)
    kept = stored(state)[content_digest(png_bytes(3))].pack
    made = (blobs.root / "packs" / f"{kept}.zip").stat()

    report = forget(eraser, Scope(tuple(first)), now=NOW)

    assert list(blobs.keys("packs/")) == [f"packs/{kept}.zip"]
    assert (blobs.root / "packs" / f"{kept}.zip").stat() == made
    assert report.erased.packs == 1


def test_the_report_says_what_went_as_the_disk_has_it(collect, eraser, blobs):
    ids = collect(1, 2, 3)
    before = pack_bytes(blobs)

    report = forget(eraser, Scope((*ids[:2], "0" * 64)), now=NOW)

    assert report.samples == tuple(sorted(ids[:2]))
    assert report.erased.bytes == before - pack_bytes(blobs) > 0


def test_a_forgotten_picture_that_comes_again_is_not_stored_and_its_draw_says_so(collect, eraser, state):
    [gone] = collect(1)
    forget(eraser, Scope((gone,)), now=NOW)

    collect(1, 2)

    assert stored(state).keys() == {content_digest(png_bytes(2))}
    assert Counter((draw.outcome, draw.sample_id) for draw in drawn(state)) == {
        ("forgotten", None): 2,
        ("stored", content_digest(png_bytes(2))): 1,
    }


def test_a_digest_that_never_came_is_refused_when_it_comes(collect, eraser, state):
    report = forget(eraser, Scope((content_digest(png_bytes(1)),)), now=NOW)

    collect(1)

    assert report.samples == ()
    assert stored(state) == {}


def test_draws_of_a_forgotten_sample_stay_as_counts_without_what_leads_to_it(collect, eraser, state):
    [gone] = collect(1)
    collect(1)

    forget(eraser, Scope((gone,)), now=NOW)

    assert [(one.camera, one.outcome, one.sample_id, one.detail) for one in drawn(state)] == [
        ("gate", "forgotten", None, "")
    ] * 2


def test_labels_and_likenesses_of_a_forgotten_sample_go(collect, eraser, state):
    gone, kept = collect(1, 2)
    rows = [
        {
            "sample_id": name,
            "cycle_id": "c",
            "source": "human",
            "annotator": "a",
            "objects": {},
            "made_at": 1.0,
        }
        for name in (gone, kept)
    ]
    with state.write() as connection:
        connection.execute(insert(annotations), rows)

    forget(eraser, Scope((gone,)), now=NOW)

    with state.read() as connection:
        for table in (annotations, likenesses):
            assert list(connection.execute(select(table.c.sample_id)).scalars()) == [kept]


def test_a_forgotten_picture_goes_from_every_model(collect, service, eraser, state, tmp_path):
    [name] = collect(1)
    other = service(model="other")
    other.collect(image=png_bytes(1), confidence=0.5)
    other.flush()

    report = forget(eraser, Scope((name,)), now=NOW)

    assert (report.samples, stored(state)) == ((name,), {})
    assert files_with(tmp_path / "blobs", png_bytes(1)) == []


def test_a_forgotten_camera_loses_its_samples_and_its_name_and_other_cameras_nothing(collect, eraser, state):
    collect(1, 2, camera="gate")
    kept = collect(3, camera="yard")

    report = forget(eraser, Scope(cameras=("gate",)), now=NOW, reason="asked by letter")

    assert len(report.samples) == 2
    assert list(stored(state)) == kept
    assert Counter((one.camera, one.outcome) for one in drawn(state)) == {
        ("forgotten", "forgotten"): 2,
        ("yard", "stored"): 1,
    }
    with state.read() as connection:
        rows = connection.execute(select(tombstones)).all()
    assert {(row.kind, row.reason) for row in rows} == {
        ("sample", "asked by letter"),
        ("camera", "asked by letter"),
    }


@pytest.mark.parametrize(("ahead_s", "outcome"), [(CLOCK_SKEW_S, "forgotten"), (CLOCK_SKEW_S + 1, "stored")])
def test_what_a_camera_handed_over_is_forgotten_although_the_clock_of_its_host_is_ahead(
    service, eraser, state, ahead_s, outcome
):
    host = service(clock=lambda: NOW + ahead_s)
    host.collect(image=png_bytes(1), confidence=0.5, metadata={"camera_id": "gate"})

    report = forget(eraser, Scope(cameras=("gate",)), now=NOW)
    host.flush()

    assert [draw.outcome for draw in drawn(state)] == [outcome]
    assert report.refused_until == NOW + CLOCK_SKEW_S


def test_a_camera_whose_name_was_too_long_for_the_index_is_forgotten_by_its_whole_name(
    collect, eraser, state
):
    name = "rtsp-gate/" + "x" * 250
    collect(1, camera=name[:200])

    forget(eraser, Scope(cameras=(name,)), now=NOW)

    assert stored(state) == {}
    assert {draw.camera for draw in drawn(state)} == {"forgotten"}


def test_while_others_have_the_database_open_nothing_of_a_deleted_row_is_left_beside_it(
    collect, eraser, state, state_url, tmp_path
):
    [gone] = collect(1, note="a-secret-note")
    with state.read() as connection:
        picture = connection.execute(select(likenesses.c.picture)).scalar_one()
    other = open_state(state_url)
    with other.read() as connection:
        connection.execute(select(samples.c.id)).all()
    assert files_with(tmp_path, b"a-secret-note") != []

    report = forget(eraser, Scope((gone,)), now=NOW, drainer=collect.service.drainer)

    assert report.erased.left == ""
    assert files_with(tmp_path, picture[-500:]) == files_with(tmp_path, b"a-secret-note") == []
    other.close()


def test_a_reader_that_keeps_the_log_from_being_emptied_is_said(
    collect, eraser, state_url, tmp_path, monkeypatch
):
    monkeypatch.setattr("retrain.data_collection.forgetting.database_log._WAIT_S", 0.1)
    [gone] = collect(1, note="a-secret-note")
    other = open_state(state_url)
    with other.read() as connection:
        connection.execute(select(samples.c.id)).all()

        report = forget(eraser, Scope((gone,)), now=NOW, drainer=collect.service.drainer)

        assert "state.sqlite-wal may still hold the deleted rows" in report.erased.left
        assert files_with(tmp_path, b"a-secret-note") == [tmp_path / "state.sqlite-wal"]
    again = forget(eraser, Scope((gone,)), now=NOW)
    assert again.erased.left == ""
    assert files_with(tmp_path, b"a-secret-note") == []
    other.close()


def test_a_picture_that_two_cameras_sent_is_forgotten_with_either(collect, eraser, state):
    collect(1, camera="yard")
    collect(1, 2, camera="gate")

    forget(eraser, Scope(cameras=("gate",)), now=NOW)

    assert stored(state) == {}


def test_a_forgotten_model_loses_its_samples(service, eraser, state):
    for model, number in (("old", 1), ("new", 2)):
        collecting = service(model=model)
        collecting.collect(image=png_bytes(number), confidence=0.5)
        collecting.flush()

    forget(eraser, Scope(models=("old",)), now=NOW)

    assert [sample.model for sample in stored(state).values()] == ["new"]


def test_records_of_a_forgotten_camera_in_the_spool_are_refused_and_their_bytes_cleared(
    collect, eraser, state, tmp_path
):
    frame = tmp_path / "frame.png"
    frame.write_bytes(png_bytes(2))
    service = collect.service
    service.collect(image=png_bytes(1), confidence=0.5, metadata={"camera_id": "gate"})
    service.collect(image_path=frame, confidence=0.5, metadata={"camera_id": "gate"})
    service.collect(image=png_bytes(3), confidence=0.5, metadata={"camera_id": "yard"})
    frame.unlink()

    report = forget(eraser, Scope(cameras=("gate",)), now=NOW, drainer=service.drainer)

    assert report.refused == 2
    assert list(stored(state)) == [content_digest(png_bytes(3))]
    assert files_with(tmp_path, png_bytes(1)) == files_with(tmp_path, png_bytes(2)) == []
    assert spool_depth(service.drainer.spool).records == 0


def test_a_segment_cleared_of_what_was_read_takes_and_gives_further_records(collect, eraser, state, tmp_path):
    [gone] = collect(1)
    assert files_with(tmp_path / "spool", png_bytes(1)) != []

    forget(eraser, Scope((gone,)), now=NOW, drainer=collect.service.drainer)

    assert len(segments(tmp_path / "spool")) == 1
    assert files_with(tmp_path / "spool", png_bytes(1)) == []
    assert collect(2) == list(stored(state))


def test_a_linked_image_that_a_killed_drainer_left_behind_is_cleared_too(collect, eraser, tmp_path):
    [gone] = collect(1)
    [segment] = segments(tmp_path / "spool")
    left = tmp_path / "spool" / f"{segment.stem}.images" / "0"
    left.parent.mkdir()
    left.write_bytes(png_bytes(1))

    forget(eraser, Scope((gone,)), now=NOW, drainer=collect.service.drainer)

    assert not left.exists()


def test_what_a_camera_hands_over_after_it_was_forgotten_is_collected_again(service, eraser, state):
    clock = [50.0]
    collecting = service(clock=lambda: clock[0])
    gate = {"camera_id": "gate"}
    collecting.collect(image=png_bytes(1), confidence=0.5, metadata=gate)
    forget(eraser, Scope(cameras=("gate",)), now=NOW)  # its spool is on another machine

    clock[0] = NOW + CLOCK_SKEW_S + 1
    collecting.collect(image=png_bytes(2), confidence=0.5, metadata=gate)
    collecting.flush()

    assert list(stored(state)) == [content_digest(png_bytes(2))]
    assert Counter((one.camera, one.outcome) for one in drawn(state)) == {
        ("forgotten", "forgotten"): 1,
        ("gate", "stored"): 1,
    }


def claim(state, trigger, *ids):
    start_cycle(state, trigger)
    with state.write() as connection:
        connection.execute(update(samples).where(samples.c.id.in_(ids)).values(cycle_id=f"cycle-{trigger}"))


def test_samples_of_a_running_cycle_are_refused_by_its_name_and_nothing_is_forgotten(collect, eraser, state):
    used, idle = collect(1, 2)
    claim(state, "7", used)

    with pytest.raises(Conflict, match=r"1 of the 2 samples .* running cycle cycle-7.*cycle abandon cycle-7"):
        forget(eraser, Scope((used, idle)), now=NOW)

    assert stored(state).keys() == {used, idle}
    finish_cycle(state, "7", status="abandoned")
    forget(eraser, Scope((used, idle)), now=NOW)
    assert stored(state) == {}


def test_a_running_cycle_reads_its_samples_while_others_of_their_pack_are_forgotten(
    collect, eraser, store, state
):
    used, idle = collect(1, 2)
    claim(state, "7", used)
    read_before = stored(state)[used]

    forget(eraser, Scope((idle,)), now=NOW)

    assert stored(state)[used].pack != read_before.pack
    assert store.image(read_before) == png_bytes(1)


def test_a_copy_on_another_machine_is_not_read_any_more_and_goes_with_its_next_drain(
    collect, eraser, state, blobs, tmp_path
):
    [gone] = collect(1)
    elsewhere = SampleStore(state, blobs, tmp_path / "elsewhere", "other")
    sample = stored(state)[gone]
    elsewhere.image(sample)

    forget(eraser, Scope((gone,)), now=NOW)

    assert files_with(tmp_path / "elsewhere", png_bytes(1)) != []
    with pytest.raises(NotFound):
        elsewhere.image(sample)
    Drainer(tmp_path / "other-spool", Intake(elsewhere)).drain()
    assert files_with(tmp_path / "elsewhere", png_bytes(1)) == []


def test_a_pack_deleted_while_it_is_fetched_leaves_no_copy(collect, eraser, state, blobs, tmp_path):
    class ForgottenMeanwhile(LocalBlobs):
        def fetch(self, key, target):
            data = self.get(key)
            forget(eraser, Scope((gone,)), now=NOW)
            target.parent.mkdir()
            target.write_bytes(data)

    [gone] = collect(1)
    reading = SampleStore(state, ForgottenMeanwhile(blobs.root), tmp_path / "cache", "reader")

    with pytest.raises(NotFound, match="was forgotten"):
        reading.image(stored(state)[gone])

    assert files_with(tmp_path / "cache", png_bytes(1)) == []


def test_what_a_row_said_is_not_in_the_database_file_any_more(collect, eraser, state, tmp_path):
    [gone] = collect(1, visitor="Mr. Unmistakable " + "x" * 5000)
    collect(2)
    assert files_with(tmp_path, b"Unmistakable") != []

    forget(eraser, Scope((gone,)), now=NOW, drainer=collect.service.drainer)
    collect.service.close()
    state.close()

    assert files_with(tmp_path, b"Unmistakable") == []


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ({}, "at least one sample, camera or model"),
        ({"samples": ("cafe",)}, "64 hex digits, got 'cafe'"),
        ({"samples": ("A" * 64,)}, "64 hex digits"),
        ({"cameras": ("",)}, "not empty"),
    ],
)
def test_what_cannot_be_forgotten_is_said_before_anything_is_done(named, said):
    with pytest.raises(BadInput, match=said):
        Scope(**named)


def test_what_would_go_can_be_asked_before(collect, state):
    ids = collect(1, 2, camera="gate")
    collect(3, camera="yard")

    assert find_samples(state, Scope(cameras=("gate",))) == sorted(ids)
    assert len(stored(state)) == 3


class SomeVersions:
    """Two dataset versions; the second adds an image."""

    def __init__(self, first, second):
        self._images = {"v1.0.0": {first: "item"}, "v1.1.0": {first: "item", second: "item"}}

    def versions(self):
        return list(self._images)

    def get_version(self, name):
        return type("Version", (), {"by_image": self._images[name]})


def test_cycles_and_dataset_versions_that_know_a_forgotten_sample_are_named(collect, eraser, state):
    one, two, three = collect(1, 2, 3)
    claim(state, "7", one, two)
    finish_cycle(state, "7")
    record = {
        "cycle_id": "cycle-7",
        "stage": "select",
        "input_hash": "i",
        "output": {"sample_ids": [one, two]},
    }
    with state.write() as connection:
        connection.execute(insert(stages).values(**record, token=1, started_at=1.0, finished_at=1.0))
    forget(eraser, Scope((one, three)), now=NOW)

    known = affected(state, [one, three], SomeVersions(one, two))

    assert known.cycles == {"cycle-7": (one,)}
    assert known.versions == {"v1.0.0": (one,), "v1.1.0": (one,)}
    assert deleted_on_purpose(state, [one, two, three]) == {one, three}


def test_a_claim_not_recorded_yet_is_named_too(collect, state):
    [one] = collect(1)
    claim(state, "8", one)

    assert affected(state, [one], SomeVersions("x", "y")).cycles == {"cycle-8": (one,)}


class Failing(LocalBlobs):
    """A store that stops answering."""

    down = False

    def delete(self, key):
        if self.down:
            raise Unavailable("no answer")
        super().delete(key)


def test_what_a_store_that_was_down_left_undone_the_next_call_does(collect, state, blobs, tmp_path):
    one, two = collect(1, 2)
    failing = Failing(blobs.root)
    failing.down = True
    eraser = Eraser(state, failing, tmp_path / "cache")
    with pytest.raises(Unavailable):
        forget(eraser, Scope((one,)), now=NOW)
    assert list(stored(state)) == [two]

    failing.down = False
    forget(eraser, Scope((one,)), now=NOW)

    assert files_with(tmp_path / "blobs", png_bytes(1)) == []
    assert is_exact(state, blobs)


def test_only_who_holds_the_guard_forgets(collect, state, blobs, tmp_path):
    def refuse(_connection):
        raise Conflict("not ours")

    [one] = collect(1)

    with pytest.raises(Conflict, match="not ours"):
        forget(Eraser(state, blobs, tmp_path / "cache", refuse), Scope((one,)), now=NOW)

    assert list(stored(state)) == [one]
    assert files_with(blobs.root, png_bytes(1)) != []
