import logging
import math
import multiprocessing
import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from sqlalchemy import select

from retrain.boxes import Detections
from retrain.data_collection.collector import AUDIT, DataCollectionService
from retrain.data_collection.quota import LocalQuota
from retrain.data_collection.sample import DataSample
from retrain.data_collection.spool.reader import segments, spool_depth
from retrain.data_collection.store.samples import SampleStore
from retrain.errors import BadInput, ConfigError, StorageFull, Unavailable
from retrain.storage.digests import content_digest
from retrain.storage.local_blobs import LocalBlobs
from retrain.storage.schema import draws, samples
from retrain.storage.state import open_state

TRUNCATED = -60


def stored(state):
    with state.read() as connection:
        rows = connection.execute(select(samples).order_by(samples.c.id)).all()
    return [DataSample.from_row(row) for row in rows]


def drawn(state):
    with state.read() as connection:
        return connection.execute(select(draws).order_by(draws.c.id)).all()


def collected(service, *offers):
    """The decisions, once everything taken is stored."""
    decisions = [service.collect(**offer) for offer in offers]
    service.flush()
    return decisions


def test_an_uncertain_frame_is_stored_with_everything_known_about_it(
    service, state, blobs, png, seen, tmp_path
):
    metadata = {"camera_id": "cam_01", "recording": "cam_01/monday", "captured_at": 12.5, "lux": 3}

    [decision] = collected(service(), {"image": png(1), "prediction": seen(0.5), "metadata": metadata})

    [sample] = stored(state)
    assert decision == (True, "confidence < 0.7", 1.0)
    assert SampleStore(state, blobs, tmp_path / "cache", "test").image(sample) == png(1)
    assert sample.id == content_digest(png(1))
    assert sample.file_name == f"{sample.id}.png"
    assert (sample.model, sample.release, sample.strategy) == ("m", "a" * 64, "uncertainty")
    assert (sample.camera, sample.recording, sample.captured_at) == ("cam_01", "cam_01/monday", 12.5)
    assert (sample.width, sample.height, sample.confidence) == (12, 12, 0.5)
    assert sample.prediction.to_json() == seen(0.5).to_json()
    assert sample.metadata == metadata


def test_the_seeds_own_call_works(tmp_path, png):
    frame = tmp_path / "frame_001.png"
    frame.write_bytes(png(1))

    with DataCollectionService(
        storage_path=tmp_path / "collected",
        collection_strategy="uncertainty",
        confidence_threshold=0.7,
        classes=["person", "car"],
    ) as service:
        decision = service.collect(
            image_path=str(frame),
            prediction={"class": "car", "bbox": [1, 2, 3, 4]},
            confidence=0.65,
            metadata={"camera_id": "cam_01"},
        )
        frame.unlink()

    state = open_state(f"sqlite:///{tmp_path / 'collected' / 'index.sqlite'}")
    [sample] = stored(state)
    state.close()
    assert decision.taken
    assert (sample.confidence, sample.recording) == (0.65, "cam_01")
    assert sample.prediction.to_json() == {"boxes": [[1, 2, 3, 4]], "classes": [1], "scores": [0.65]}
    assert not list((tmp_path / "collected" / "spool").glob("*.spool"))


def test_a_certain_frame_and_an_empty_one_are_left(service, state, png, seen):
    collecting = service()

    certain, empty = collected(
        collecting,
        {"image": png(1), "prediction": seen(0.9)},
        {"image": png(2), "prediction": Detections.empty()},
    )

    assert not certain.taken
    assert empty.reason == "no boxes"
    assert stored(state) == []
    assert collecting.stats().by_outcome() == {"no boxes": 1, "confidence >= 0.7": 1}


def test_an_empty_frame_taken_by_another_strategy_has_no_confidence(service, state, png):
    collected(service(collection_strategy="no_detections"), {"image": png(1), "prediction": []})

    [sample] = stored(state)
    assert sample.confidence is None
    assert sample.strategy == "no_detections"


def test_the_rule_for_a_frames_confidence_is_configurable(service, png):
    mixed = Detections.of([[0, 0, 1, 1]] * 2, [0, 0], [0.95, 0.55])

    assert service().collect(image=png(1), prediction=mixed).taken
    assert not service(confidence_rule="mean").collect(image=png(1), prediction=mixed).taken


def test_pixels_and_ultralytics_results_are_stored_without_loss(service, state, blobs, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (10, 14, 3), dtype=np.uint8)
    boxes = SimpleNamespace(
        xyxy=np.array([[1.0, 1, 5, 5]]), cls=np.array([1.0]), conf=np.array([0.5], dtype=np.float32)
    )
    results = SimpleNamespace(boxes=boxes, orig_img=pixels[:, :, ::-1])

    collected(service(), {"prediction": results}, {"image": 255 - pixels, "confidence": 0.5})

    store = SampleStore(state, blobs, tmp_path / "cache", "test")
    images = {sample.confidence: decode(store.image(sample)) for sample in stored(state)}
    assert len(images) == 1
    assert any(np.array_equal(decode(store.image(sample)), pixels) for sample in stored(state))
    assert any(np.array_equal(decode(store.image(sample)), 255 - pixels) for sample in stored(state))
    assert {tuple(sample.prediction.classes.tolist()) for sample in stored(state)} == {(1,), ()}


def decode(data):
    import io

    return np.asarray(Image.open(io.BytesIO(data)))


def test_the_same_image_is_stored_once_and_every_draw_of_it_is_known(service, state, png, seen):
    offer = {"image": png(1), "prediction": seen(0.5)}

    collected(service(), offer, offer, {**offer, "prediction": seen(0.6)})

    assert [sample.confidence for sample in stored(state)] == [0.5]
    assert Counter(draw.outcome for draw in drawn(state)) == {"stored": 1, "duplicate": 2}
    assert {draw.sample_id for draw in drawn(state)} == {content_digest(png(1))}


def test_threads_that_offer_the_same_images_store_each_once(service, state, png, seen):
    collecting = service()
    offers = [png(number % 5) for number in range(40)]

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda image: collecting.collect(image=image, prediction=seen(0.5)), offers))
    collecting.flush()

    assert len(stored(state)) == 5
    assert len(drawn(state)) == 40


def test_a_release_given_with_the_frame_wins(service, state, png, seen):
    collected(service(), {"image": png(1), "prediction": seen(0.5), "release": "b" * 64})

    assert stored(state)[0].release == "b" * 64


@pytest.mark.parametrize("given", [0, 0.5, np.float32(0.5), np.float64(0.5)])
def test_a_confidence_may_be_a_number_of_any_type(service, state, png, given):
    collected(service(), {"image": png(1), "confidence": given})

    assert stored(state)[0].confidence == given


AT_ONCE = {
    "empty": {"image": b""},
    "missing file": {"image_path": "/nowhere/frame.png"},
    "a folder": {"image_path": "/"},
    "no image": {"image": None},
    "grey pixels": {"image": np.zeros((4, 4), np.uint8)},
    "float pixels": {"image": np.zeros((4, 4, 3))},
    "nan confidence": {"confidence": float("nan")},
    "confidence over 1": {"confidence": 1.2},
    "confidence of text": {"confidence": "high"},
    "no prediction at all": {"prediction": object()},
    "unserialisable metadata": {"metadata": {"lock": object()}},
    "metadata of text": {"metadata": "cam_01"},
    "order of channels": {"image": np.zeros((9, 9, 3), np.uint8), "order": "bgr"},
    "release of another type": {"release": 7},
    "long release": {"release": "r" * 65},
    "NUL in release": {"release": "r\0"},
    "long camera": {"metadata": {"camera_id": "c" * 201}},
    "NUL in camera": {"metadata": {"camera_id": "c\0"}},
    "half a surrogate pair in camera": {"metadata": {"camera_id": "c\udcff"}},
    "long recording": {"metadata": {"recording": "r" * 301}},
    "NUL in recording": {"metadata": {"recording": "r\0"}},
}
LATER = {
    "not an image": {"image": b"hello"},
    "truncated": {"image": "truncated"},
    "unknown class": {"prediction": {"class": "cat", "bbox": [0, 0, 1, 1]}},
    "wrong box": {"prediction": {"class": 0, "bbox": [5, 5, 1]}},
    "upside-down box": {"prediction": {"class": 0, "bbox": [5, 5, 1, 1]}},
    "box of infinity": {"prediction": {"class": 0, "bbox": [0, 0, 1, float("inf")]}},
    "box outside the image": {"prediction": {"class": 0, "bbox": [50, 50, 60, 60]}},
    "no box": {"prediction": {"class": 0}},
    "score of nan": {"prediction": {"class": 0, "bbox": [0, 0, 1, 1], "score": float("nan")}},
    "text": {"prediction": ["car"]},
    "nan metadata": {"metadata": {"lux": float("nan")}},
    "bytes in metadata": {"metadata": {"raw": b"\xff"}},
    "NUL in metadata": {"metadata": {"note": "a\0b"}},
    "captured at NaN": {"metadata": {"captured_at": float("nan")}},
    "key of bytes": {"metadata": {b"\xff": 1}},
}


def offer_of(what, png):
    offer = {"image": png(1), "prediction": [], "confidence": 0.5} | what
    if isinstance(offer.get("image"), str):
        offer["image"] = png(1)[:TRUNCATED]
    if "image_path" in offer:
        del offer["image"]
    return offer


@pytest.mark.parametrize("what", AT_ONCE)
def test_what_can_be_seen_at_once_is_rejected_and_never_raised_into_the_inference_loop(
    service, state, png, what
):
    collecting = service()

    [decision] = collected(collecting, offer_of(AT_ONCE[what], png))

    assert decision.reason.startswith("rejected: ")
    assert collecting.stats().by_outcome() == {"rejected": 1}
    assert (stored(state), drawn(state)) == ([], [])
    with pytest.raises(BadInput):
        service(on_error="raise").collect(**offer_of(AT_ONCE[what], png))


@pytest.mark.parametrize("what", LATER)
def test_what_only_a_decoder_sees_is_counted_as_rejected_with_its_reason(service, state, png, what):
    [decision] = collected(service(), offer_of(LATER[what], png))

    assert decision.taken
    assert stored(state) == []
    [draw] = drawn(state)
    assert (draw.outcome, draw.sample_id) == ("rejected", None)
    assert len(draw.detail) > 20


@pytest.mark.parametrize("what", LATER)
def test_who_asks_for_errors_gets_them_before_the_frame_is_taken(service, state, png, what):
    collecting = service(on_error="raise")

    with pytest.raises(BadInput):
        collecting.collect(**offer_of(LATER[what], png))

    assert spool_depth(collecting.drainer.spool).records == 0


def test_keys_that_are_no_text_are_stored_as_text(service, state, png):
    collected(service(), {"image": png(1), "confidence": 0.5, "metadata": {1: 2, "a": {3: 4}}})

    assert stored(state)[0].metadata == {"1": 2, "a": {"3": 4}}


@pytest.mark.parametrize(
    "limits", [{"model": "m" * 201}, {"model": "m\0"}, {"release": "r" * 65}, {"release": 7}]
)
def test_names_that_no_table_takes_are_refused_on_opening(service, limits):
    with pytest.raises(ConfigError, match=r"The (model|release)"):
        service(**limits)


class Nameless:
    def __str__(self):
        raise RuntimeError("not loaded yet")


@pytest.mark.parametrize("camera", ["c\udcff", Nameless()])
@pytest.mark.parametrize("confidence", [0.5, 0.9])
def test_a_camera_whose_name_cannot_be_written_raises_nowhere(service, png, camera, confidence):
    collecting = service()

    decision = collecting.collect(image=png(1), confidence=confidence, metadata={"camera_id": camera})
    collecting.close()

    assert not decision.taken
    assert collecting.stats().outcomes.keys() == {"unknown"}


def test_a_camera_that_is_none_or_a_number_has_a_name(service, state, png):
    collecting = service()

    collected(
        collecting,
        {"image": png(1), "confidence": 0.5, "metadata": {"camera_id": None, "recording": None}},
        {"image": png(2), "confidence": 0.5, "metadata": {"camera_id": 7}},
    )

    assert {(sample.camera, sample.recording) for sample in stored(state)} == {
        ("unknown", "unknown"),
        ("7", "7"),
    }
    assert collecting.stats().outcomes.keys() == {"unknown", "7"}


BY_NAME = {"class": "b", "bbox": [1, 1, 5, 5], "score": 0.5}
BY_INDEX = {"boxes": [[1, 1, 5, 5]], "classes": [8], "scores": [0.5]}


@pytest.mark.parametrize(
    ("prediction", "index"), [(BY_NAME, 1), ([BY_NAME], 1), (BY_INDEX, 8), ([{**BY_NAME, "class": 8}], 8)]
)
@pytest.mark.parametrize("others", [(), ("b", "car")])
def test_classes_are_those_of_whoever_collected_and_not_of_whoever_drains(
    service, state, png, prediction, index, others
):
    service(classes=tuple("abcdefghi")).collect(image=png(1), prediction=prediction)

    service(classes=others).flush()

    assert [sample.prediction.classes.tolist() for sample in stored(state)] == [[index]]


def test_a_class_that_whoever_collected_does_not_have_is_rejected_by_whoever_has_it(service, state, png):
    few = service(classes=("a", "b"))
    few.collect(image=png(1), prediction=BY_INDEX)
    few.collect(image=png(1), prediction={**BY_NAME, "class": "i"}, confidence=0.5)

    service(classes=tuple("abcdefghi")).flush()

    assert [draw.outcome for draw in drawn(state)] == ["rejected"] * 2


def test_names_of_a_producer_that_was_told_no_classes_are_those_of_whoever_drains(service, state, png):
    service().collect(image=png(1), prediction=BY_NAME, confidence=0.5)

    service(classes=("a", "b")).flush()

    assert [sample.prediction.classes.tolist() for sample in stored(state)] == [[1]]


@pytest.mark.parametrize("name", ["a?b", "a#b", "a%20b", "a b"])
def test_the_index_is_in_the_folder_whatever_that_is_called(tmp_path, png, name):
    with DataCollectionService(tmp_path / name, "all", background=False) as collecting:
        collecting.collect(image=png(1), confidence=0.5)
        collecting.flush()

    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name / "index.sqlite").stat().st_size


def test_a_bucket_beside_redis_is_said_to_be_used_by_whoever_drains(tmp_path, caplog):
    with DataCollectionService(
        tmp_path, redis_url="redis://127.0.0.1:1", s3_bucket="my-training-data", background=False
    ) as collecting:
        assert collecting.collect(image=b"x", confidence=0.5).taken

    [said] = [record.getMessage() for record in caplog.records if "s3_bucket" in record.getMessage()]
    assert "'my-training-data'" in said


def test_a_rare_class_keeps_its_share_over_restarts(service, state, png):
    """It had reached its target before; forgotten, every frame of it would be taken again."""
    options = {"collection_strategy": "rare_class", "settings": {"targets": {1: 0.5}}, "sample_rate": 0.0}
    rare = {"boxes": [[1, 1, 5, 5]], "classes": [1], "scores": [0.9]}
    taken = []
    for number in range(3):
        collecting = service(**options)
        taken += collected(collecting, {"image": png(number), "prediction": rare})
        collecting.close()

    assert [decision.taken for decision in taken] == [True, False, False]


@pytest.mark.parametrize("size", [(1, 1), (1, 4000)])
def test_odd_sizes_are_images_too(service, state, size):
    pixels = np.zeros((*size, 3), np.uint8)

    collected(service(), {"image": pixels, "confidence": 0.5})

    assert (stored(state)[0].height, stored(state)[0].width) == size


def test_a_file_written_over_in_place_is_rejected_instead_of_stored_under_the_wrong_prediction(
    service, state, png, tmp_path
):
    frame, collecting = tmp_path / "frame.png", service()
    frame.write_bytes(png(1))
    collecting.collect(image_path=frame, confidence=0.5)
    frame.write_bytes(png(2))

    collecting.flush()

    assert stored(state) == []
    assert "written over in place" in drawn(state)[0].detail


class Refusing(LocalBlobs):
    """A store whose disk can be full or whose server can be gone."""

    error: Exception | None = None

    def put_file(self, key, path):
        if self.error:
            raise self.error
        super().put_file(key, path)


@pytest.mark.parametrize("error", [StorageFull("disk is full"), Unavailable("no answer")])
def test_a_store_that_refuses_loses_nothing_and_the_backlog_drains_on_its_return(
    service, state, png, seen, tmp_path, error
):
    blobs = Refusing(tmp_path / "refusing")
    collecting = service(blobs=blobs)
    blobs.error = error

    taken = [collecting.collect(image=png(number), prediction=seen(0.5)) for number in range(3)]
    with pytest.raises(type(error)):
        collecting.flush()

    assert all(decision.taken for decision in taken)
    assert spool_depth(collecting.drainer.spool).records == 3
    blobs.error = None
    collecting.flush()
    assert len(stored(state)) == 3
    assert spool_depth(collecting.drainer.spool).records == 0


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(offers=st.lists(st.tuples(st.integers(0, 3), st.floats(0, 1) | st.just(math.nan)), max_size=8))
def test_every_offer_ends_in_exactly_one_count(service, png, offers):
    collecting = service()
    for number, confidence in offers:
        collecting.collect(image=png(number), confidence=confidence)

    assert collecting.stats().offered == len(offers)
    assert sum(collecting.stats().histogram) == len(offers)


def test_a_misspelt_strategy_is_refused_at_once(service):
    with pytest.raises(ConfigError, match="Did you mean 'random'"):
        service(collection_strategy="randon")


def test_the_audit_arm_takes_its_share_of_frames_the_strategy_does_not_want(service, state, png):
    collecting = service(audit_rate=0.25, seed=3)

    decisions = [collecting.collect(image=png(number), confidence=0.99) for number in range(400)]
    collecting.flush()

    taken = [decision for decision in decisions if decision.taken]
    assert 70 <= len(taken) <= 130  # 100 expected, standard deviation 8.7
    assert set(taken) == {(True, AUDIT, 0.25)}
    assert {decision.inclusion_probability for decision in decisions} == {0.25}
    assert all(draw.audit for draw in drawn(state))
    assert {sample.strategy for sample in stored(state)} == {AUDIT}


def test_frames_the_strategy_takes_are_marked_when_the_audit_arm_drew_them_too(service, state, png):
    collecting = service(audit_rate=0.25, seed=3)

    for number in range(400):
        collecting.collect(image=png(number), confidence=0.1)
    collecting.flush()

    assert {draw.inclusion_probability for draw in drawn(state)} == {1.0}
    assert 70 <= sum(draw.audit for draw in drawn(state)) <= 130
    assert {draw.strategy for draw in drawn(state)} == {"uncertainty"}


def test_random_sampling_keeps_exactly_its_share_with_the_audit_arm_inside(service, png):
    collecting = service(collection_strategy="random", sample_rate=0.25, audit_rate=0.1, seed=5)

    decisions = [collecting.collect(image=b"x", confidence=0.5) for _ in range(4000)]

    assert {decision.inclusion_probability for decision in decisions} == {0.25}
    assert 880 <= sum(decision.taken for decision in decisions) <= 1120


def test_a_quota_stops_the_strategy_and_not_the_audit_arm_and_the_probability_says_so(service, png):
    collecting = service(quota=LocalQuota({"minute": 5}), audit_rate=0.2, seed=1)

    decisions = [
        collecting.collect(image=b"x", confidence=0.1, metadata={"camera_id": "a"}) for _ in range(300)
    ]
    other = collecting.collect(image=b"x", confidence=0.1, metadata={"camera_id": "b"})

    at = [number for number, one in enumerate(decisions) if one.taken and one.reason != AUDIT]
    later = decisions[at[-1] + 1 :]
    assert len(at) == 5
    assert {decisions[number].inclusion_probability for number in at} == {1.0}
    assert {one.inclusion_probability for one in later} == {0.2}
    assert 30 <= sum(one.taken for one in later) <= 90
    assert {one.reason for one in later if not one.taken} == {"quota used up"}
    assert other.taken


def flip_coins(service, results):
    results.put([service.collect(image=b"x", confidence=0.99).taken for _ in range(64)])


def test_forked_producers_flip_coins_of_their_own(service):
    collecting = service(audit_rate=0.5, seed=7)
    fork = multiprocessing.get_context("fork")
    results = fork.Queue()
    children = [fork.Process(target=flip_coins, args=(collecting, results)) for _ in range(2)]
    for child in children:
        child.start()
    first, second = results.get(timeout=30), results.get(timeout=30)
    for child in children:
        child.join()

    own = [collecting.collect(image=b"x", confidence=0.99).taken for _ in range(64)]

    assert len({tuple(first), tuple(second), tuple(own)}) == 3


def test_a_forked_child_writes_to_a_segment_of_its_own(service, state, png):
    collecting = service()
    collecting.collect(image=png(0), confidence=0.5)
    child = multiprocessing.get_context("fork").Process(
        target=lambda: [collecting.collect(image=png(number), confidence=0.5) for number in range(1, 20)]
    )
    child.start()
    for number in range(20, 40):
        collecting.collect(image=png(number), confidence=0.5)
    child.join()

    assert len(segments(collecting.drainer.spool)) == 2
    collecting.flush()
    assert len(stored(state)) == 40


def test_the_privacy_hook_sees_pixels_before_anything_is_written(service, state, blobs, png, tmp_path):
    def blur(pixels, prediction):
        assert prediction == {"class": 0, "bbox": [1, 1, 5, 5]}
        pixels[1:5, 1:5] = 0
        return pixels

    collected(
        service(redact=blur),
        {"image": png(1), "confidence": 0.5, "prediction": {"class": 0, "bbox": [1, 1, 5, 5]}},
    )

    [sample] = stored(state)
    kept = decode(SampleStore(state, blobs, tmp_path / "cache", "test").image(sample))
    original = decode(png(1))
    assert (kept[1:5, 1:5] == 0).all()
    assert np.array_equal(kept[6:], original[6:])
    assert png(1) not in b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("hook", "said"),
    [
        (lambda _pixels, _prediction: None, "rejected: withheld by the privacy hook"),
        (lambda pixels, _prediction: pixels[:4], "rejected: The privacy hook must return"),
        (lambda _pixels, _prediction: 1 / 0, "dropped: division by zero"),
    ],
)
def test_a_hook_that_withholds_or_fails_keeps_nothing(service, tmp_path, png, hook, said):
    collecting = service(redact=hook)

    decision = collecting.collect(image=png(1), confidence=0.5)

    assert decision.reason.startswith(said)
    assert spool_depth(collecting.drainer.spool).records == 0


def test_a_full_spool_drops_new_frames_counts_them_and_goes_on_when_there_is_room(service, png, caplog):
    from retrain.data_collection.queue import SpoolLimits

    collecting = service(limits=SpoolLimits(max_bytes=4000, segment_bytes=1000))

    with caplog.at_level(logging.WARNING):
        decisions = [collecting.collect(image=png(number), confidence=0.5) for number in range(30)]

    dropped = sum(decision.reason.startswith("dropped: ") for decision in decisions)
    assert 0 < dropped < 30
    assert collecting.stats().by_outcome() == {"taken": 30 - dropped, "dropped: full": dropped}
    assert len([record for record in caplog.records if "said once" in record.message]) == 1
    collecting.flush()
    # A full spool is not measured again for each frame.
    deadline = time.monotonic() + 30
    while not collecting.collect(image=png(100), confidence=0.5).taken:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_frames_of_a_seeded_service_are_decided_alike_again(service):
    def run():
        return [service(audit_rate=0.5, seed=9).collect(image=b"x", confidence=0.99).taken for _ in range(20)]

    assert run() == run()
    assert random.random() != random.random()
