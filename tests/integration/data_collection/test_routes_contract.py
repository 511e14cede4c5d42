"""From the spool to the store, on one machine and through Redis: the same must be stored."""

import io
import re
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from retrain.data_collection.likeness import LikenessIndex
from retrain.data_collection.spool.format import HEADER, MAGIC
from retrain.data_collection.spool.reader import spool_depth
from retrain.errors import StorageFull, Unavailable
from retrain.storage.digests import content_digest
from retrain.storage.local_blobs import LocalBlobs
from tests.integration.data_collection.redis_world import (
    SpoolRoute,
    StreamRoute,
    collector,
    drawn,
    png,
    stored,
)

ONE_BOX = [{"class": 0, "bbox": [1, 1, 5, 5], "score": 0.5}]
OUTSIDE = [{"class": 0, "bbox": [50, 50, 60, 60], "score": 0.5}]


@pytest.fixture(params=["spool", "stream"])
def route(request, tmp_path, state, blobs):
    """Makes the way from the spool of `collecting` to the store."""

    def make(blobs=blobs, **options):
        if request.param == "spool":
            return SpoolRoute(tmp_path, state, blobs, **options)
        redis, name = request.getfixturevalue("redis"), request.getfixturevalue("name")
        return StreamRoute(tmp_path, state, blobs, redis, name, **options)

    return make


@pytest.fixture
def collecting(tmp_path, state, blobs):
    return collector(tmp_path, state, blobs)


def outcomes(state):
    return Counter(draw.outcome for draw in drawn(state))


def decoded(data):
    return np.asarray(Image.open(io.BytesIO(data)))


def test_a_frame_is_stored_with_everything_known_about_it(route, collecting, state):
    metadata = {"camera_id": "cam_01", "recording": "cam_01/monday", "captured_at": 12.5, "lux": 3}
    collecting.collect(image=png(1), prediction=ONE_BOX, confidence=0.5, metadata=metadata, release="a" * 64)
    way = route()

    report = way.bring()

    [sample], [draw] = stored(state), drawn(state)
    assert report.outcomes == {"stored": 1}
    assert way.store.image(sample) == png(1)
    assert (sample.id, sample.file_name) == (content_digest(png(1)), f"{content_digest(png(1))}.png")
    assert (sample.model, sample.release, sample.strategy) == ("m", "a" * 64, "all")
    assert (sample.camera, sample.recording, sample.captured_at) == ("cam_01", "cam_01/monday", 12.5)
    assert (sample.width, sample.height, sample.confidence) == (12, 12, 0.5)
    assert sample.prediction.to_json() == {"boxes": [[1, 1, 5, 5]], "classes": [0], "scores": [0.5]}
    assert sample.metadata == metadata
    assert (draw.sample_id, draw.inclusion_probability, draw.audit) == (sample.id, 1.0, 0)


def test_every_record_is_stored_once_and_nothing_stays_behind(route, collecting, state):
    for number in range(600):
        collecting.collect(image=png(number), confidence=0.5)
    collecting.close()
    way = route()

    report = way.bring()

    assert report.outcomes == {"stored": 600}
    assert {sample.id for sample in stored(state)} == {content_digest(png(number)) for number in range(600)}
    assert spool_depth(collecting.drainer.spool).bytes == 0
    assert way.bring().outcomes == {}


@pytest.mark.parametrize("order", [(1, 1, 2), (2, 1, 1), (1, 2, 1)])
def test_the_same_image_is_stored_once_and_every_draw_of_it_is_known(route, collecting, state, order):
    way = route()

    for number in order:
        collecting.collect(image=png(number), confidence=0.5)
    way.bring()
    for number in order:
        collecting.collect(image=png(number), confidence=0.6)
    way.bring()

    assert outcomes(state) == {"stored": 2, "duplicate": 4}
    assert Counter(draw.sample_id for draw in drawn(state)) == {
        content_digest(png(1)): 4,
        content_digest(png(2)): 2,
    }
    assert {sample.confidence for sample in stored(state)} == {0.5}


@pytest.mark.parametrize("batches", [1, 2])
def test_two_models_that_see_the_same_image_have_a_sample_each(
    route, collecting, state, blobs, tmp_path, batches
):
    way, second = route(), collector(tmp_path, state, blobs, model="second")

    collecting.collect(image=png(1), confidence=0.5)
    if batches == 2:
        way.bring()
    second.collect(image=png(1), confidence=0.6)
    way.bring()
    collecting.collect(image=png(1), confidence=0.5)
    second.collect(image=png(1), confidence=0.6)
    way.bring()

    assert outcomes(state) == {"stored": 2, "duplicate": 2}
    found = {sample.model: sample for sample in stored(state)}
    assert {model: sample.confidence for model, sample in found.items()} == {"m": 0.5, "second": 0.6}
    assert all(way.store.image(sample) == png(1) for sample in found.values())


@pytest.mark.parametrize(
    ("metadata", "reason"), [({"note": "a\0b"}, "no NUL"), ({"unpredicted": "perhaps"}, "true or false")]
)
def test_metadata_that_would_break_the_index_is_rejected(route, collecting, state, metadata, reason):
    collecting.collect(image=png(1), confidence=0.5, metadata=metadata)
    collecting.collect(image=png(2), confidence=0.5, metadata={"note": r"a\u0000b", "unpredicted": False})
    route().bring()

    rejected, kept = sorted(drawn(state), key=lambda draw: draw.outcome)
    assert (rejected.outcome, kept.outcome) == ("rejected", "stored")
    assert reason in rejected.detail


def test_pictures_with_levels_of_more_than_8_bits_are_not_taken_for_each_other(route, collecting, state):
    for number in range(5):
        levels = np.random.default_rng(number).integers(30_000, 31_000, (64, 64), dtype=np.uint16)
        file = io.BytesIO()
        Image.fromarray(levels).save(file, "PNG")
        collecting.collect(image=file.getvalue(), confidence=0.5)

    route(likeness=LikenessIndex(state)).bring()

    assert outcomes(state) == {"stored": 5}


def test_equal_pixels_are_stored_once_without_loss_whenever_they_come(route, collecting, state):
    pixels, way = np.random.default_rng(0).integers(0, 256, (10, 14, 3), dtype=np.uint8), route()

    for _ in range(2):
        collecting.collect(image=pixels, confidence=0.5)
        collecting.collect(image=pixels[:, :, ::-1], order="BGR", confidence=0.5)
        way.bring()

    [sample] = stored(state)
    assert np.array_equal(decoded(way.store.image(sample)), pixels)
    assert outcomes(state) == {"stored": 1, "duplicate": 3}


def test_a_linked_file_is_stored_after_the_caller_deleted_it(route, collecting, state, tmp_path):
    frame = tmp_path / "frame.png"
    frame.write_bytes(png(1))
    collecting.collect(image_path=frame, confidence=0.5)
    frame.unlink()
    way = route()

    way.bring()

    assert way.store.image(stored(state)[0]) == png(1)
    assert not list((tmp_path / "spool").rglob("*.images/*"))


REJECTED = {
    "not an image": ({"image": b"hello"}, r"The image \(5 bytes\) is not an image"),
    "truncated": ({"image": png(1)[:-60]}, r"The image \(\d+ bytes\) cannot be decoded"),
    "outside": ({"image": png(1), "prediction": OUTSIDE}, "is outside its image of 12 x 12 pixels"),
    "class": ({"image": png(1), "prediction": [{"class": "cat", "bbox": [0, 0, 1, 1]}]}, "Unknown class"),
    "metadata": ({"image": png(1), "metadata": {"lux": float("nan")}}, "JSON values only"),
}


@pytest.mark.parametrize("what", REJECTED)
def test_what_cannot_be_stored_is_counted_with_its_reason_every_time(route, collecting, state, what):
    offer, said = REJECTED[what]
    way = route()

    for _ in range(2):
        collecting.collect(**{"confidence": 0.5, **offer})
        collecting.collect(**{"confidence": 0.5, **offer})
        assert way.bring().outcomes == {"rejected": 2}

    assert stored(state) == []
    assert [draw.sample_id for draw in drawn(state)] == [None] * 4
    assert all(re.search(said, draw.detail) for draw in drawn(state))


def test_an_image_whose_first_record_was_rejected_is_stored_with_the_next_one(route, collecting, state):
    way = route()
    collecting.collect(image=png(1), prediction=OUTSIDE, confidence=0.5)
    collecting.collect(image=png(1), prediction=ONE_BOX, confidence=0.6)

    way.bring()

    assert outcomes(state) == {"rejected": 1, "stored": 1}
    assert [sample.confidence for sample in stored(state)] == [0.6]


def test_a_repeated_image_with_a_wrong_prediction_is_rejected(route, collecting, state):
    way = route()
    collecting.collect(image=png(1), prediction=ONE_BOX, confidence=0.5)
    way.bring()
    collecting.collect(image=png(1), prediction=OUTSIDE, confidence=0.5)
    collecting.collect(image=png(1), confidence=0.5, metadata={"lux": float("nan")})

    assert way.bring().outcomes == {"rejected": 2}


def test_a_file_written_over_in_place_is_rejected(route, collecting, state, tmp_path):
    frame = tmp_path / "frame.png"
    frame.write_bytes(png(1))
    collecting.collect(image_path=frame, confidence=0.5)
    frame.write_bytes(png(2))

    route().bring()

    [draw] = drawn(state)
    assert "written over in place" in draw.detail
    assert stored(state) == []


class Refusing(LocalBlobs):
    """A store whose disk can be full or whose server can be gone."""

    error: Exception | None = None

    def put_file(self, key, path):
        if self.error:
            raise self.error
        super().put_file(key, path)


@pytest.mark.parametrize("error", [StorageFull("disk is full"), Unavailable("no answer")])
def test_a_store_that_refuses_for_long_loses_nothing_and_holds_it_against_no_frame(
    route, collecting, state, tmp_path, error
):
    blobs = Refusing(tmp_path / "refusing")
    way = route(blobs)
    for number in range(3):
        collecting.collect(image=png(number), confidence=0.5)
    blobs.error = error

    for _ in range(8):
        with pytest.raises(type(error)):
            way.bring()

    assert stored(state) == []
    blobs.error = None
    assert way.bring().outcomes == {"stored": 3}


def test_a_repeated_picture_is_left_out_unless_the_audit_arm_drew_it(route, tmp_path, state, blobs):
    smooth = np.kron(
        np.random.default_rng(3).integers(0, 256, (6, 8, 3), dtype=np.uint8), np.ones((32, 32, 1))
    )
    first = smooth.astype(np.uint8)
    again = np.clip(first.astype(int) + 1, 0, 255).astype(np.uint8)
    way = route(likeness=LikenessIndex(state))

    for rate, pixels in ((0.0, first), (0.0, again), (0.0, again), (1.0, again)):
        collector(tmp_path, state, blobs, audit_rate=rate).collect(image=pixels, confidence=0.5)
        way.bring()

    assert [draw.outcome for draw in drawn(state)] == ["stored", "near-duplicate", "near-duplicate", "stored"]


def test_a_record_cut_short_by_a_kill_is_skipped_and_counted(route, collecting, state):
    for number in range(3):
        collecting.collect(image=png(number), confidence=0.5)
    collecting.close()
    [segment] = collecting.drainer.spool.glob("*.spool")
    segment.write_bytes(segment.read_bytes()[:-10])

    report = route().bring()

    assert (report.outcomes, report.torn) == ({"stored": 2}, 1)


def test_a_damaged_record_is_skipped_and_counted(route, collecting, state):
    for number in range(3):
        collecting.collect(image=png(number), confidence=0.5)
    collecting.close()
    [segment] = collecting.drainer.spool.glob("*.spool")
    data = bytearray(segment.read_bytes())
    second = data.index(MAGIC, 1)
    data[second + HEADER.size] ^= 0xFF
    segment.write_bytes(data)

    report = route().bring()

    assert (report.outcomes, report.damaged) == ({"stored": 2}, 1)
