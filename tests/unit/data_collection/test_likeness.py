import pytest
from sqlalchemy import delete, select

from retrain.data_collection.likeness import LikenessIndex
from retrain.data_collection.queue import SpoolLimits
from retrain.duplicates.near_duplicates import NearDuplicateRule
from retrain.duplicates.perceptual_hash import perceptual_hash
from retrain.errors import Unavailable
from retrain.storage.digests import content_digest
from retrain.storage.local_blobs import LocalBlobs
from retrain.storage.schema import draws, likenesses, samples
from tests.unit.data_collection.pictures import changed, jpeg, mirrored, picture

ORIGINAL = jpeg(picture(1))
COPY = jpeg(picture(1), 60)


def offer(service, *images, camera="east"):
    """The service keeps these images and stores them."""
    for image in images:
        assert service.collect(image=image, confidence=0.5, metadata={"camera_id": camera}).taken
    service.flush()


def stored(state):
    with state.read() as connection:
        return set(connection.execute(select(samples.c.id)).scalars())


def outcomes(state):
    """Of every draw in the order they came: what became of it, and the sample it belongs to."""
    with state.read() as connection:
        rows = connection.execute(select(draws.c.outcome, draws.c.sample_id, draws.c.id))
        return [(row.outcome, row.sample_id) for row in sorted(rows, key=lambda row: place(row.id))]


def place(draw_id):
    segment, offset = draw_id.split(":")
    return segment, int(offset)


def digests(*images):
    return {content_digest(image) for image in images}


COPIES = {
    "re-encoded": COPY,
    "mirrored": jpeg(mirrored(picture(1)), 60),
    "enlarged": jpeg(picture(1).resize((300, 300))),
}


@pytest.mark.parametrize("kind", COPIES)
def test_a_copy_is_not_stored_and_its_draw_names_the_sample_it_repeats(service, state, kind):
    offer(service(), ORIGINAL, COPIES[kind])

    assert stored(state) == digests(ORIGINAL)
    assert outcomes(state) == [
        ("stored", content_digest(ORIGINAL)),
        ("near-duplicate", content_digest(ORIGINAL)),
    ]


def test_a_scene_with_a_small_change_is_stored(service, state):
    other = jpeg(changed(picture(1)))

    offer(service(), ORIGINAL, other)

    assert stored(state) == digests(ORIGINAL, other)


def test_equal_bytes_are_a_duplicate_and_no_near_duplicate(service, state):
    offer(service(), ORIGINAL, ORIGINAL)

    assert [outcome for outcome, _ in outcomes(state)] == ["stored", "duplicate"]


def test_what_the_audit_arm_drew_is_stored_although_it_repeats_a_sample(service, state):
    offer(service(audit_rate=1.0), ORIGINAL, COPY)

    assert stored(state) == digests(ORIGINAL, COPY)


def test_a_copy_of_what_the_audit_arm_stored_is_a_near_duplicate(service, state):
    offer(service(audit_rate=1.0), ORIGINAL)

    offer(service(), COPY)

    assert ("near-duplicate", content_digest(ORIGINAL)) in outcomes(state)


@pytest.mark.parametrize(("scope", "kept"), [("camera", {ORIGINAL, COPY}), ("global", {ORIGINAL})])
def test_another_cameras_copy_is_left_out_only_under_the_global_scope(service, state, scope, kept):
    collecting = service(likeness_scope=scope)

    offer(collecting, ORIGINAL, camera="east")
    offer(collecting, COPY, camera="west")

    assert stored(state) == digests(*kept)


def test_another_models_copy_is_stored(service, state):
    offer(service(model="m"), ORIGINAL)

    offer(service(model="other"), COPY)

    assert stored(state) == digests(ORIGINAL, COPY)


def test_without_a_rule_copies_are_stored(service, state):
    offer(service(near_duplicates=None), ORIGINAL, COPY)

    assert stored(state) == digests(ORIGINAL, COPY)


def test_the_rule_of_the_service_is_the_one_that_decides(service, state):
    offer(service(near_duplicates=NearDuplicateRule(mirrored=False)), ORIGINAL, jpeg(mirrored(picture(1))))

    assert len(stored(state)) == 2


def test_a_service_opened_later_knows_the_pictures(service, state):
    offer(service(), ORIGINAL)

    offer(service(), COPY)

    assert outcomes(state)[1] == ("near-duplicate", content_digest(ORIGINAL))


def test_a_service_opened_later_knows_the_newest_pictures_up_to_its_capacity(service, state):
    now = iter(range(100, 200))
    for number in range(3):
        offer(service(clock=lambda: float(next(now))), jpeg(picture(number)))

    offer(service(likeness_capacity=2), *(jpeg(picture(number), 60) for number in (2, 1, 0)))

    assert [outcome for outcome, _ in outcomes(state)[3:]] == ["near-duplicate", "near-duplicate", "stored"]


def test_two_services_on_one_state_see_each_others_pictures_after_a_flush(service, state):
    one, other = service(), service()
    # Both have read their index before anything comes.
    offer(one, jpeg(picture(2)))
    offer(other, jpeg(picture(3)))

    offer(one, ORIGINAL)
    offer(other, COPY)
    offer(one, jpeg(picture(3), 60))

    repeated = [sample for outcome, sample in outcomes(state) if outcome == "near-duplicate"]
    assert set(repeated) == digests(ORIGINAL, jpeg(picture(3)))
    assert stored(state) == digests(ORIGINAL, jpeg(picture(2)), jpeg(picture(3)))


def test_pictures_of_a_host_whose_clock_is_behind_are_seen_too(service, state):
    ahead, behind = service(clock=lambda: 100.0), service(clock=lambda: 99.0)
    offer(ahead, jpeg(picture(2)))
    offer(ahead, jpeg(picture(3)))

    offer(behind, ORIGINAL)
    offer(ahead, COPY)

    assert ("near-duplicate", content_digest(ORIGINAL)) in outcomes(state)


class Refusing(LocalBlobs):
    """A store whose server is gone until it is told otherwise."""

    error: Exception | None = Unavailable("no answer")

    def put_file(self, key, path):
        if self.error:
            raise self.error
        super().put_file(key, path)


def test_pictures_of_a_store_that_failed_half_way_are_no_near_duplicates_of_themselves(
    service, state, tmp_path
):
    blobs = Refusing(tmp_path / "refusing")
    collecting, images = service(blobs=blobs), [ORIGINAL, COPY, jpeg(picture(2))]
    for image in images:
        collecting.collect(image=image, confidence=0.5, metadata={"camera_id": "east"})
    with pytest.raises(Unavailable):
        collecting.flush()
    blobs.error = None

    collecting.flush()

    assert [outcome for outcome, _ in outcomes(state)] == ["stored", "near-duplicate", "stored"]
    assert stored(state) == digests(ORIGINAL, jpeg(picture(2)))


def test_a_copy_is_stored_once_the_picture_that_it_repeats_was_deleted(service, state):
    collecting = service()
    offer(collecting, ORIGINAL)
    with state.write() as connection:
        connection.execute(delete(samples))
        connection.execute(delete(likenesses))

    offer(collecting, COPY)

    assert stored(state) == digests(COPY)


def test_a_copy_is_stored_if_the_picture_that_it_repeats_never_was(service, state, tmp_path):
    blobs = Refusing(tmp_path / "refusing")
    limits = SpoolLimits(segment_bytes=30_000, max_bytes=60_000, when_full="drop_oldest")
    collecting = service(blobs=blobs, limits=limits)
    collecting.collect(image=ORIGINAL, confidence=0.5, metadata={"camera_id": "east"})
    with pytest.raises(Unavailable):
        collecting.flush()
    for number in range(2, 12):
        collecting.collect(image=jpeg(picture(number)), confidence=0.5)
    blobs.error = None

    offer(collecting, COPY)

    assert stored(state) >= digests(COPY)


def test_a_picture_is_remembered_once_for_each_sample_and_only_if_it_was_stored(service, state):
    offer(service(), ORIGINAL, ORIGINAL, COPY)
    offer(service(near_duplicates=None), jpeg(picture(2)))

    with state.read() as connection:
        [row] = connection.execute(select(likenesses)).all()
    assert (row.sample_id, row.model, row.camera) == (content_digest(ORIGINAL), "m", "east")
    assert row.picture == perceptual_hash(ORIGINAL).to_bytes()


def test_an_index_that_was_never_asked_reads_nothing_when_it_is_refreshed(state):
    index = LikenessIndex(state)

    index.refresh()

    assert index.find("m", perceptual_hash(ORIGINAL), "east") is None
