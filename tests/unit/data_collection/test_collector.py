import logging
import multiprocessing
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from retrain.boxes import Detections
from retrain.data_collection.collector import DataCollectionService
from retrain.data_collection.sample import DataSample
from retrain.errors import BadInput, ConfigError, StorageFull, Unavailable
from retrain.storage.blobs import LocalBlobs
from retrain.storage.digests import content_digest
from retrain.storage.schema import samples
from retrain.storage.state import open_state

TRUNCATED = -60


def stored(state):
    with state.read() as connection:
        rows = connection.execute(select(samples).order_by(samples.c.id)).all()
    return [DataSample.from_row(row) for row in rows]


def test_an_uncertain_frame_is_stored_with_everything_known_about_it(service, state, blobs, png, seen):
    metadata = {"camera_id": "cam_01", "recording": "cam_01/monday", "captured_at": 12.5, "lux": 3}

    decision = service().collect(image=png(1), prediction=seen(0.5), metadata=metadata)

    [sample] = stored(state)
    assert decision.taken
    assert decision.inclusion_probability == 1.0
    assert blobs.get(sample.image_key) == png(1)
    assert sample.id == content_digest(png(1))
    assert sample.image_key == f"samples/{sample.id[:2]}/{sample.id}"
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

    state = open_state(f"sqlite:///{tmp_path / 'collected' / 'index.sqlite'}")
    [sample] = stored(state)
    state.close()
    assert decision.taken
    assert (sample.confidence, sample.recording) == (0.65, "cam_01")
    assert sample.prediction.to_json() == {"boxes": [[1, 2, 3, 4]], "classes": [1], "scores": [0.65]}


def test_a_certain_frame_and_an_empty_one_are_left(service, state, png, seen):
    collecting = service()

    certain = collecting.collect(image=png(1), prediction=seen(0.9))
    empty = collecting.collect(image=png(2), prediction=Detections.empty())

    assert not certain.taken
    assert empty.reason == "no boxes"
    assert stored(state) == []
    assert collecting.stats().skipped == {"no boxes": 1, "strategy": 1}


def test_an_empty_frame_taken_by_another_strategy_has_no_confidence(service, state, png):
    service(collection_strategy="all").collect(image=png(1), prediction=Detections.empty())

    [sample] = stored(state)
    assert sample.confidence is None


def test_the_rule_for_a_frames_confidence_is_configurable(service, png):
    mixed = Detections.of([[0, 0, 1, 1]] * 2, [0, 0], [0.95, 0.55])

    assert service().collect(image=png(1), prediction=mixed).taken
    assert not service(confidence_rule="mean").collect(image=png(1), prediction=mixed).taken


def test_the_same_image_is_stored_once(service, state, png, seen):
    collecting = service()

    first = collecting.collect(image=png(1), prediction=seen(0.5))
    second = collecting.collect(image=png(1), prediction=seen(0.6))

    assert first.taken
    assert second.reason == "duplicate"
    assert [sample.confidence for sample in stored(state)] == [0.5]
    assert (collecting.stats().stored, collecting.stats().duplicates) == (1, 1)


def test_threads_that_offer_the_same_images_store_each_once(service, state, png, seen):
    collecting = service()
    offers = [png(number % 5) for number in range(40)]

    with ThreadPoolExecutor(4) as pool:
        decisions = list(
            pool.map(lambda image: collecting.collect(image=image, prediction=seen(0.5)), offers)
        )

    assert sum(decision.taken for decision in decisions) == 5
    assert len(stored(state)) == 5
    assert collecting.stats().duplicates == 35


def test_a_release_given_with_the_frame_wins(service, state, png, seen):
    service().collect(image=png(1), prediction=seen(0.5), release="b" * 64)

    assert stored(state)[0].release == "b" * 64


BAD = {
    "not an image": {"image": b"hello"},
    "truncated": {"image": "truncated"},
    "empty": {"image": b""},
    "missing file": {"image_path": "/nowhere/frame.png"},
    "no image": {"image": None},
    "nan confidence": {"confidence": float("nan")},
    "confidence over 1": {"confidence": 1.2},
    "unknown class": {"prediction": {"class": "cat", "bbox": [0, 0, 1, 1]}},
    "wrong box": {"prediction": {"class": 0, "bbox": [5, 5, 1]}},
    "upside-down box": {"prediction": {"class": 0, "bbox": [5, 5, 1, 1]}},
    "no box": {"prediction": {"class": 0}},
    "score of nan": {"prediction": {"class": 0, "bbox": [0, 0, 1, 1], "score": float("nan")}},
    "no prediction at all": {"prediction": "car"},
    "unserialisable metadata": {"metadata": {"lock": object()}},
    "nan metadata": {"metadata": {"lux": float("nan")}},
    "odd time": {"metadata": {"captured_at": "noon"}},
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_counted_and_never_reaches_the_inference_loop(service, state, png, seen, what):
    offer = {"image": png(1), "prediction": seen(0.5)} | BAD[what]
    if offer["image"] == "truncated":
        offer["image"] = png(1)[:TRUNCATED]
    if "image_path" in offer:
        del offer["image"]
    collecting = service()

    decision = collecting.collect(**offer)

    assert decision.reason.startswith("rejected: ")
    assert collecting.stats().rejected == 1
    assert stored(state) == []
    with pytest.raises(BadInput):
        service(on_error="raise").collect(**offer)


def test_an_image_too_large_to_unpack_is_refused(service, png, seen, monkeypatch):
    monkeypatch.setattr("retrain.data_collection.sample.MAX_PIXELS", 100)

    assert "12 x 12 pixels" in service().collect(image=png(1), prediction=seen(0.5)).reason


class Refusing(LocalBlobs):
    """A store whose disk can be full or whose server can be gone."""

    error: Exception | None = None

    def put(self, key, data):
        if self.error:
            raise self.error
        super().put(key, data)


@pytest.mark.parametrize(
    ("error", "cause"), [(StorageFull("disk is full"), "full"), (Unavailable("no answer"), "error")]
)
def test_a_store_that_refuses_is_counted_warned_of_once_and_outlived(
    service, state, png, seen, tmp_path, caplog, error, cause
):
    blobs = Refusing(tmp_path / "refusing")
    collecting = service(blobs=blobs)
    blobs.error = error

    with caplog.at_level(logging.WARNING):
        lost = [collecting.collect(image=png(number), prediction=seen(0.5)) for number in range(3)]
    blobs.error = None
    after = collecting.collect(image=png(0), prediction=seen(0.5))

    assert all(decision.reason.startswith("lost: ") for decision in lost)
    assert collecting.stats().lost[cause] == 3
    assert len([record for record in caplog.records if record.name.endswith("collector")]) == 1
    assert after.taken
    assert len(stored(state)) == 1
    blobs.error = error
    with pytest.raises(type(error)):
        service(blobs=blobs, on_error="raise").collect(image=png(9), prediction=seen(0.5))


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(offers=st.lists(st.tuples(st.integers(0, 3), st.floats(0, 1) | st.just(float("nan"))), max_size=8))
def test_every_offer_ends_in_exactly_one_count(service, png, offers):
    collecting = service()
    for number, confidence in offers:
        collecting.collect(image=png(number), confidence=confidence)

    counts = asdict(collecting.stats())
    skipped, lost = sum(counts["skipped"].values()), sum(counts["lost"].values())
    assert counts["offered"] == len(offers)
    assert counts["stored"] + skipped + counts["duplicates"] + counts["rejected"] + lost == len(offers)


def test_a_misspelt_strategy_is_refused_at_once(service):
    with pytest.raises(ConfigError, match="Did you mean 'random'"):
        service(collection_strategy="randon")


def produce(folder, state_url, images, prediction, acknowledgements):
    """Collects until killed, and writes each id only after `collect` said it is stored."""
    state = open_state(state_url)
    service = DataCollectionService(folder, blobs=LocalBlobs(folder / "blobs"), state=state, on_error="raise")
    for image in images:
        if service.collect(image=image, prediction=prediction).taken:
            os.write(acknowledgements, (content_digest(image) + "\n").encode())


def test_every_acknowledged_sample_survives_sigkill_once(tmp_path, state_url, png, seen):
    images = [png(number) for number in range(1500)]
    open_state(state_url).close()
    fork = multiprocessing.get_context("fork")
    acknowledged = []
    for round_ in range(5):
        reader, writer = os.pipe()
        offers = images[len(acknowledged) :]
        child = fork.Process(target=produce, args=(tmp_path, state_url, offers, seen(0.5), writer))
        child.start()
        os.close(writer)
        received = os.read(reader, 65)
        time.sleep(0.02 + 0.017 * round_)
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        while chunk := os.read(reader, 65_536):
            received += chunk
        os.close(reader)
        acknowledged += received.decode().split("\n")[:-1]
        assert child.exitcode == -signal.SIGKILL, "the producer must be killed at work, not after it"

    state, blobs = open_state(state_url), LocalBlobs(tmp_path / "blobs")
    indexed = [sample.id for sample in stored(state)]
    state.close()
    assert len(acknowledged) >= 5
    assert len(set(acknowledged)) == len(acknowledged)
    assert set(acknowledged) <= set(indexed)
    # At most the one sample per kill that was stored but not yet acknowledged.
    assert len(indexed) <= len(acknowledged) + 5
    assert all(content_digest(blobs.get(f"samples/{digest[:2]}/{digest}")) == digest for digest in indexed)
