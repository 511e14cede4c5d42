import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from retrain.boxes import Detections
from retrain.data_collection.monitor import DataCollectionMonitor
from retrain.data_collection.statistics.counters import BINS, SUFFIX, Counts, Standstill
from retrain.data_collection.statistics.records import UNPREDICTED

NOW = 1_000_000.0
NO_PROCESS = 2**22 + 1
"""Above the highest process id of Linux."""


class Clock:
    def __init__(self, now=NOW):
        self.now = now

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def monitor(tmp_path, state, clock):
    """Of the folder that the test's service uses."""

    def make(**change):
        return DataCollectionMonitor(
            tmp_path / "spool", state, change.pop("model", "m"), **{"clock": clock, **change}
        )

    return make


@pytest.fixture
def publish(tmp_path):
    """Publishes counts as a process would: outcomes by camera, and frames by confidence bin."""

    def publish(outcomes, at, histogram=None, name=f"{NO_PROCESS}-a", standstills=None):
        (tmp_path / "spool").mkdir(exist_ok=True)
        counts = Counts(0.0, at, outcomes, histogram or [0] * (BINS + 1), standstills or {})
        (tmp_path / "spool" / (name + SUFFIX)).write_bytes(msgspec.json.encode(counts))

    return publish


def box(label, score=0.5):
    return Detections.of([[1, 1, 5, 5]], [label], [score])


def test_before_anything_was_collected_nothing_is_known_and_nothing_shown_as_zero(monitor):
    snapshot = monitor().snapshot()

    assert (snapshot.flow, snapshot.histogram, snapshot.without_confidence) == (None, None, None)
    assert (snapshot.offered_per_s, snapshot.taken_per_s) == (None, None)
    assert (snapshot.queue, snapshot.oldest_wait_s, snapshot.published_at) == (None, None, None)
    assert (snapshot.stored.bytes_per_sample, snapshot.stored.zero_detection_share) == (None, None)
    assert snapshot.strategy_ratios == {}


def test_frames_are_counted_by_camera_and_by_what_was_decided(monitor, publish):
    east = {"taken": 2, "no boxes": 5, "confidence >= 0.7": 1, "rejected": 1, "dropped: full": 1}
    publish({"east": east, "west": {"taken": 3}}, NOW)

    snapshot = monitor().snapshot()

    assert (snapshot.flow.offered, snapshot.flow.taken, snapshot.flow.rejected) == (13, 5, 1)
    assert snapshot.flow.skipped == {"no boxes": 5, "confidence >= 0.7": 1}
    assert snapshot.flow.dropped == {"full": 1}
    assert snapshot.cameras["east"].accept_ratio == 0.2
    assert snapshot.cameras["west"].accept_ratio == 1.0


def test_frames_dropped_after_they_were_taken_are_not_offered_twice(monitor, publish):
    publish({"east": {"taken": 8}, "(others)": {"dropped: oldest": 3}}, NOW)

    snapshot = monitor().snapshot()

    assert (snapshot.flow.offered, snapshot.flow.evicted, snapshot.flow.dropped) == (8, 3, {})
    assert set(snapshot.cameras) == {"east"}


def test_a_service_and_its_monitor_agree(service, monitor, png, seen):
    collecting = service()
    collecting.collect(image=png(1), prediction=seen(0.52), metadata={"camera_id": "east"})
    collecting.collect(image=png(2), prediction=seen(0.97), metadata={"camera_id": "east"})
    collecting.collect(image=png(3), prediction=[], metadata={"camera_id": "east"})
    collecting.collect(image=b"", prediction=seen(0.5), metadata={"camera_id": "east"})
    collecting.flush()
    collecting.close()

    snapshot = monitor().snapshot()

    assert snapshot.cameras["east"] == snapshot.flow
    assert (snapshot.flow.offered, snapshot.flow.taken, snapshot.flow.rejected) == (4, 1, 1)
    assert [number for number, frames in enumerate(snapshot.histogram) if frames] == [10, 19]
    assert snapshot.without_confidence == 1
    assert (snapshot.queue.records, snapshot.stored.samples) == (0, 1)


def test_rates_need_two_readings_and_are_over_the_time_between_publications(monitor, publish, clock):
    monitor = monitor()
    publish({"east": {"taken": 10, "no boxes": 90}}, NOW - 1)
    first = monitor.snapshot()
    clock.now += 10
    publish({"east": {"taken": 14, "no boxes": 106}}, NOW + 7)

    second = monitor.snapshot()

    assert (first.offered_per_s, first.taken_per_s) == (None, None)
    assert (second.offered_per_s, second.taken_per_s) == (20 / 8, 4 / 8)


def test_rates_forget_what_was_before_the_window(monitor, publish, clock):
    monitor = monitor(window_s=60.0)
    for minute, frames in enumerate((0, 600, 600, 600)):
        clock.now = NOW + 60 * minute
        publish({"east": {"taken": frames}}, clock.now)
        last = monitor.snapshot()

    assert last.offered_per_s == 0.0


def test_while_nobody_publishes_rates_are_not_known_instead_of_zero(monitor, publish, clock):
    monitor = monitor()
    publish({"east": {"taken": 10}}, NOW)
    monitor.snapshot()
    publish({"east": {"taken": 20}}, NOW + 1)
    clock.now = NOW + 30

    snapshot = monitor.snapshot()

    assert snapshot.offered_per_s is None
    assert snapshot.published_at == NOW + 1
    assert [producer.life for producer in snapshot.producers] == ["ended"]


def test_deleted_counts_give_no_negative_rate(monitor, publish, clock):
    monitor = monitor()
    publish({"east": {"taken": 10}}, NOW)
    monitor.snapshot()
    publish({"east": {"taken": 2}}, NOW + 1)
    clock.now = NOW + 1

    assert monitor.snapshot().offered_per_s is None


def test_what_waits_in_the_spool_is_shown_with_its_age(service, monitor, png, seen, clock):
    collecting = service()
    collecting.collect(image=png(1), prediction=seen(0.5))
    monitor, since = monitor(), monitor().snapshot().queue.oldest_at
    clock.now = since + 42

    snapshot = monitor.snapshot()

    assert snapshot.queue.records == 1
    assert snapshot.queue.bytes > len(png(1))
    assert snapshot.oldest_wait_s == pytest.approx(42)


def test_outcomes_of_taken_frames_and_bytes_per_sample_come_from_the_index(
    service, monitor, png, seen, blobs
):
    collecting = service()
    for image in (png(1), png(1), png(2), png(3)[:-60]):
        collecting.collect(image=image, prediction=seen(0.5), metadata={"camera_id": "east"})
    collecting.flush()

    snapshot = monitor().snapshot()

    pack = sum(len(blobs.get(key)) for key in blobs.keys("packs/"))
    assert snapshot.outcomes() == {"stored": 2, "duplicate": 1, "rejected": 1}
    assert snapshot.draws == {"uncertainty": {"stored": 2, "duplicate": 1, "rejected": 1}}
    assert snapshot.stored.bytes_per_sample == pack / 2
    [rejection] = snapshot.rejections
    assert (rejection.camera, rejection.at) == ("east", 50.0)
    assert "cannot be decoded" in rejection.detail


def test_the_share_of_empty_frames_leaves_out_frames_that_no_model_looked_at(service, monitor, png, seen):
    collecting = service(collection_strategy="all")
    for number, prediction in enumerate((seen(0.5), seen(0.9), [])):
        collecting.collect(image=png(number), prediction=prediction)
    collecting.collect(image=png(7), metadata={UNPREDICTED: True})
    collecting.flush()

    stored = monitor().snapshot().stored

    assert (stored.samples, stored.predicted, stored.without_detections) == (4, 3, 1)
    assert stored.zero_detection_share == 1 / 3


def test_other_models_are_left_out_unless_all_are_asked_for(service, monitor, png, seen):
    for number, model in enumerate(("m", "other", "other")):
        collecting = service(model=model)
        collecting.collect(image=png(number), prediction=seen(0.5))
        collecting.flush()

    assert monitor().snapshot().stored.samples == 1
    assert monitor(model=None).snapshot().stored.samples == 3
    assert monitor(model=None).snapshot().draws == {"uncertainty": {"stored": 3}}


def test_accept_ratios_by_strategy_are_those_of_all_frames_not_only_of_the_taken(service, monitor, png, seen):
    collecting = service(audit_rate=0.2, seed=11, near_duplicates=None)
    for number in range(1500):
        collecting.collect(image=png(number % 40), prediction=seen(0.5 if number % 10 < 3 else 0.95))
    collecting.flush()

    ratios = monitor().snapshot().strategy_ratios

    assert ratios["uncertainty"] == pytest.approx(0.3, abs=0.03)
    assert ratios["audit"] == pytest.approx(0.7 * 0.2, abs=0.03)


def test_a_class_that_the_strategy_prefers_has_the_higher_ratio(service, monitor, png):
    collecting = service(audit_rate=0.2, seed=5, near_duplicates=None)
    for number in range(1500):
        label = number % 2
        wanted = number % 10 < 8 if label else number % 10 < 2
        collecting.collect(image=png(number), prediction=box(label, 0.5 if wanted else 0.95))
    collecting.flush()

    ratios = monitor(classes=("dent",)).snapshot().class_ratios

    assert ratios["1"] == pytest.approx(0.8 + 0.2 * 0.2, abs=0.06)
    assert ratios["dent"] == pytest.approx(0.2 + 0.8 * 0.2, abs=0.06)


def test_without_enough_audit_draws_ratios_are_not_known(service, monitor, png, seen):
    collecting = service()
    for number in range(30):
        collecting.collect(image=png(number), prediction=seen(0.5))
    collecting.flush()

    snapshot = monitor().snapshot()

    assert snapshot.audit_draws == 0
    assert snapshot.strategy_ratios == {"uncertainty": None}
    assert snapshot.class_ratios == {"0": None}
    assert snapshot.classes == {"0": 30}


def metrics(text):
    """(name, labels) -> value of every sample."""
    return {
        (sample.name, tuple(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_prometheus_gets_what_is_known(service, monitor, publish, png, seen):
    publish({"east": {"taken": 2, "no boxes": 5, "dropped: full": 1}}, NOW, [1] * BINS + [6])
    collecting = service()
    collecting.collect(image=png(1), prediction=seen(0.5))
    collecting.flush()

    found = metrics(monitor().to_prometheus())

    prefix = "retrain_collection_"
    frames = {labels: value for (name, labels), value in found.items() if name == prefix + "frames_total"}
    assert {dict(labels)["outcome"] for labels in frames} == {"taken", "skipped", "rejected", "dropped"}
    assert sum(frames.values()) == 8
    key = (("camera", "east"), ("outcome", "skipped"), ("reason", "no boxes"))
    assert frames[key] == 5
    assert found[prefix + "confidence_bucket", (("le", "0.5"),)] == 10
    assert found[prefix + "confidence_bucket", (("le", "+Inf"),)] == 20
    assert found[prefix + "stored_samples", ()] == 1
    assert found[prefix + "draws_total", (("outcome", "stored"), ("strategy", "uncertainty"))] == 1
    assert found[prefix + "queue_records", ()] == 0
    assert found[prefix + "producers", (("life", "live"),)] == 1


def test_prometheus_is_not_told_zero_for_what_is_not_known(monitor):
    found = {name for name, _ in metrics(monitor().to_prometheus())}

    assert found == {
        "retrain_collection_stored_samples",
        "retrain_collection_stored_bytes",
        "retrain_collection_producers",
    }


def test_a_process_that_cannot_store_is_shown_with_the_reason_and_for_how_long(monitor, publish):
    publish({"east": {"taken": 1}}, NOW, standstills={"storing": Standstill(NOW - 90, "S3 is down")})

    [producer] = monitor().snapshot().producers
    found = metrics(monitor().to_prometheus())

    assert producer.standstills == {"storing": Standstill(NOW - 90, "S3 is down")}
    name = "retrain_collection_standstill_seconds"
    assert {labels: value for (one, labels), value in found.items() if one == name} == {
        (("what", "storing"),): 90.0,
        (("what", "quota"),): 0.0,
    }
