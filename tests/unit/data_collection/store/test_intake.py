from datetime import UTC, datetime

import numpy as np
import pytest
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from retrain.data_collection.queue import DataCollectionQueue
from retrain.data_collection.spool.offer import Offer, encode_offer
from retrain.data_collection.spool.reader import spool_depth
from retrain.data_collection.store.drainer import Drainer
from retrain.data_collection.store.intake import Intake
from retrain.data_collection.store.samples import SampleStore
from retrain.errors import Unavailable
from retrain.storage.digests import content_digest
from retrain.storage.local_blobs import LocalBlobs
from retrain.storage.schema import draws, samples
from tests.unit.data_collection.pictures import jpeg, picture

ORIGINAL, COPY = jpeg(picture(1)), jpeg(picture(1), 60)
AUDITED = 1
"""A seed whose first coin is 0.13: below an audit rate of 0.2."""
NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


def drawn(state):
    with state.read() as connection:
        return connection.execute(select(draws)).all()


def stored(state):
    with state.read() as connection:
        return connection.execute(select(samples)).all()


def chances(state):
    return sorted(sample.inclusion_probability for sample in stored(state))


def offer(service, *images, **metadata):
    for image in images:
        assert service.collect(image=image, confidence=0.5, metadata=metadata).taken
    service.flush()


def test_of_a_repeated_picture_only_the_audit_arms_draws_are_stored_and_with_its_chance(service, state):
    pixels = np.asarray(picture(1)).astype(int).clip(1, 254)
    rng = np.random.default_rng(0)
    options = {"settings": {"weights": {"all": 0.9}}, "audit_rate": 0.2, "seed": 0}

    collecting = service(collection_strategy="combined", **options)
    for _ in range(100):
        noisy = (pixels + rng.integers(-1, 2, pixels.shape)).astype(np.uint8)
        collecting.collect(image=noisy, confidence=0.5)
    collecting.flush()

    kept = [draw for draw in drawn(state) if draw.outcome == "stored"]
    assert len(kept) > 5
    assert sum(not draw.audit for draw in kept) <= 1
    assert chances(state) == [0.2] * (len(kept) - 1) + [0.9]
    assert {draw.inclusion_probability for draw in drawn(state)} == {0.9}


@pytest.mark.parametrize("batches", [1, 2])
def test_equal_bytes_leave_the_chance_of_the_stored_sample_alone(service, state, batches):
    collecting = service(collection_strategy="all", audit_rate=0.2, seed=AUDITED)
    each = [[ORIGINAL, ORIGINAL]] if batches == 1 else [[ORIGINAL], [ORIGINAL]]

    for images in each:
        offer(collecting, *images)

    assert chances(state) == [1.0]
    assert [draw.outcome for draw in drawn(state)] == ["stored", "duplicate"]


class Refusing(LocalBlobs):
    """A store whose server is gone until it is told otherwise."""

    error: Exception | None = Unavailable("no answer")

    def put_file(self, key, path):
        if self.error:
            raise self.error
        super().put_file(key, path)


def test_a_repeated_picture_keeps_the_audit_arms_chance_after_a_store_that_failed(service, state, tmp_path):
    offer(service(collection_strategy="all"), ORIGINAL)
    blobs = Refusing(tmp_path / "refusing")
    collecting = service(collection_strategy="all", audit_rate=0.2, seed=AUDITED, blobs=blobs)
    with pytest.raises(Unavailable):
        offer(collecting, COPY)
    blobs.error = None

    collecting.flush()

    assert chances(state) == [0.2, 1.0]


@pytest.mark.parametrize("given", [NOON, NOON.timestamp(), "2026-11-24T12:00:00Z", "2026-11-24T12:00:00"])
def test_the_time_of_capture_is_stored_however_it_was_given(service, state, given):
    offer(service(), ORIGINAL, captured_at=given)

    [draw], [sample] = drawn(state), stored(state)
    assert draw.captured_at == sample.captured_at == NOON.timestamp()
    assert sample.metadata == {"captured_at": NOON.timestamp()}


@pytest.mark.parametrize("given", [True, "noon", 1.7e12])
def test_a_frame_with_a_time_that_is_none_is_rejected_with_the_reason(service, state, given):
    offer(service(), ORIGINAL, captured_at=given)

    [draw] = drawn(state)
    assert (draw.outcome, draw.captured_at) == ("rejected", 50.0)
    assert (
        f"captured_at must be seconds since the epoch, a datetime or ISO 8601 text, got {given!r}"
        in draw.detail
    )


def test_a_strategy_that_looks_at_times_reads_every_form_of_them(service):
    collecting = service(collection_strategy="track_gap")
    seen = {"boxes": [[40, 40, 60, 60]], "classes": [0], "scores": [0.9]}

    decisions = [
        collecting.collect(
            image=ORIGINAL,
            prediction=seen if second < 5 else {"boxes": [], "classes": [], "scores": []},
            metadata={"captured_at": f"2026-11-24T12:00:0{second}Z", "width": 128, "height": 128},
        )
        for second in range(6)
    ]

    assert [one.taken for one in decisions] == [False] * 5 + [True]


class Stumbling(SampleStore):
    """A store that fails on one picture, whatever it comes with."""

    error: Exception | None = None

    def add(self, arrivals, now):
        if self.error and any(one.image == ORIGINAL for one in arrivals):
            raise self.error
        return super().add(arrivals, now)


@pytest.fixture
def stumbling(state, blobs, tmp_path):
    return Stumbling(state, blobs, tmp_path / "cache", "test")


@pytest.fixture
def drainer(service, stumbling):
    """Of the spool of `service`, without comparing pictures."""
    return Drainer(service().drainer.spool, Intake(stumbling, clock=lambda: 50.0))


VALUES = IntegrityError("INSERT", {}, Exception("NOT NULL constraint failed"))


@pytest.mark.parametrize("error", [VALUES, OverflowError("int too large")])
def test_a_frame_that_the_store_stumbles_on_is_put_aside_with_the_reason_and_the_others_are_stored(
    service, drainer, stumbling, state, png, error
):
    stumbling.error, collecting = error, service()
    for image in (png(1), ORIGINAL, png(2)):
        collecting.collect(image=image, confidence=0.5)

    report = drainer.drain()

    assert report.outcomes == {"stored": 2, "rejected": 1}
    assert {sample.id for sample in stored(state)} == {content_digest(png(number)) for number in (1, 2)}
    [aside] = [draw for draw in drawn(state) if draw.outcome == "rejected"]
    assert aside.sample_id is None
    assert type(error).__name__ in aside.detail
    assert spool_depth(drainer.spool).records == 0


def test_a_batch_that_is_taken_apart_is_said_with_what_went_wrong(service, drainer, stumbling, png, caplog):
    stumbling.error, collecting = VALUES, service()
    for image in (ORIGINAL, png(1)):
        collecting.collect(image=image, confidence=0.5)

    drainer.drain()

    [said] = [record for record in caplog.records if "each is tried alone" in record.getMessage()]
    assert said.exc_info[1] is VALUES


@pytest.mark.parametrize("error", [MemoryError(), OSError(24, "Too many open files"), RuntimeError("a bug")])
def test_what_is_no_fault_of_a_frame_loses_none_also_where_others_could_be_stored(
    service, drainer, stumbling, state, png, error
):
    stumbling.error, collecting = error, service()
    for image in (png(1), ORIGINAL):
        collecting.collect(image=image, confidence=0.5)

    with pytest.raises(type(error)):
        drainer.drain()
    stumbling.error = None

    assert drainer.drain().outcomes == {"stored": 2}
    assert {draw.outcome for draw in drawn(state)} == {"stored"}


def test_a_frame_alone_whose_values_the_database_refuses_does_not_block_the_spool(
    service, drainer, stumbling, state
):
    stumbling.error = VALUES
    service().collect(image=ORIGINAL, confidence=0.5)

    assert drainer.drain().outcomes == {"rejected": 1}
    assert spool_depth(drainer.spool).records == 0


@pytest.mark.parametrize("beside", [b"", b"no image"])
def test_a_store_that_stores_nothing_at_all_keeps_its_frames_in_the_spool(
    service, drainer, stumbling, state, beside
):
    stumbling.error, collecting = OverflowError("a bug"), service()
    collecting.collect(image=ORIGINAL, confidence=0.5)
    collecting.collect(image=beside, confidence=0.5)

    with pytest.raises(OverflowError):
        drainer.drain()
    stumbling.error = None

    assert drainer.drain().outcomes["stored"] == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"release": "r" * 65}, "release has 65 characters; at most 64"),
        ({"model": "m" * 201}, "model has 201 characters; at most 200"),
        ({"metadata": {"camera_id": "c\0"}}, "camera's name holds a NUL character"),
        ({"metadata": {"recording": "r\0"}}, "recording's name holds a NUL character"),
    ],
)
def test_names_that_no_table_takes_are_rejected_whoever_wrote_the_record(drainer, state, change, said):
    offer = Offer("m", "r", "all", "all frames", 1.0, False, 0.0, 50.0, 0.5, None, {})
    for name, value in change.items():
        setattr(offer, name, value)
    queue = DataCollectionQueue(drainer.spool)
    queue.append(encode_offer(offer), ORIGINAL)

    drainer.drain()

    [draw] = drawn(state)
    assert (draw.outcome, "\0" in draw.camera) == ("rejected", False)
    assert len(draw.model) <= 200
    assert len(draw.release) <= 64
    assert said in draw.detail


def test_records_of_another_version_are_counted(drainer, state):
    queue = DataCollectionQueue(drainer.spool)
    queue.append(b"another version")

    report = drainer.drain()

    assert (report.unreadable, report.outcomes, drawn(state)) == (1, {}, [])
