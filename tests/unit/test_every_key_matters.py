"""Every configuration key changes something a user can observe, computed by the code that runs in production.

A probe runs product code under a configuration and returns what came out. Where that code would meet a network, a
clock or a neural network, the probe stands at that border and looks at what is handed over.
"""

import hashlib
import itertools
import json
import mmap
import shutil
import sys
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
import yaml
from sqlalchemy import select

from deployments.stack import Stack
from flows.demo import _serve_until_crossing
from retrain.boxes import Detections
from retrain.config import RetrainConfig
from retrain.data_collection.triggers.crossings import record_crossing, select_samples
from retrain.dataset.splitter import DatasetSplitter, GroupContents
from retrain.dataset.version import LabelledObject
from retrain.errors import PostConditionFailed, RetrainError
from retrain.evaluation.comparator import Comparison
from retrain.serving.release import Lineage, read_release
from retrain.storage.digests import content_digest
from retrain.storage.s3_blobs import S3Blobs
from retrain.storage.schema import samples
from retrain.storage.selections import read_selection_file
from retrain.training.request import TrainingRequest
from tasks.annotation import annotate
from tasks.cycle import CycleWork, cycle_work
from tasks.data_collection import watch_samples
from tasks.dataset import lay_out
from tasks.evaluation import evaluate_models, gate
from tasks.gate_rules import FROZEN, NEW
from tasks.production import Production, encode
from tasks.reconcile import start_missing_cycles
from tasks.resources import PRODUCTION_START, Resources
from tasks.serving import promote, register_release
from tasks.simulation import heldout_frames, make_first_version
from tasks.thresholds import fit_serving_thresholds
from tasks.training import train
from tests.unit.collection_probes import COLLECTION_CASES, Case, Probe
from tests.unit.dataset.conftest import build_item, build_version
from tests.unit.tasks.evaluated_cycle import store_pair, stored_versions

SMALL = {
    "training.image_size": 160,
    "simulation.train_frames": 36,
    "simulation.frames_per_recording": 2,
    "simulation.heldout_frames": 6,
    "simulation.max_frames": 2,
}
"""On both sides of every comparison, so that a probe takes a fraction of a second."""


class Oracle:
    """Stands in for the network: two boxes whose scores depend on the pixels."""

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> "Oracle":
        return cls(Path(folder).name)

    def __init__(self, name: str) -> None:
        self.name = name

    def predict(self, images: Any, confidence: float = 0.001, **_: Any) -> list[Detections]:
        return [self._answer(image) for image in images]

    def _answer(self, image: Any) -> Detections:
        drawn = hashlib.blake2b(self.name.encode() + image.tobytes(), digest_size=2).digest()
        low, high = sorted((0.26 + 0.7 * drawn[0] / 255, 0.26 + 0.7 * drawn[1] / 255))
        return Detections.of([[10, 10, 30, 30], [60, 60, 90, 90]], [0, 0], [high, low])


@contextmanager
def open_work(resources: Resources, patch: pytest.MonkeyPatch) -> Iterator[CycleWork]:
    patch.setattr("tasks.cycle.announce", MagicMock())
    with cycle_work(resources, "probe") as work:
        yield work


def released(resources: Resources, name: str = "model") -> str:
    """The digest of a published release; `name` makes it another one."""
    folder = model_folder(resources, name)
    return resources.releases.publish(folder, Lineage("v1.0.0", "0" * 64, name, None, "probe"))


def model_folder(resources: Resources, name: str) -> Path:
    folder = resources.home / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "weights.safetensors").write_bytes(name.encode())
    classes = list(resources.config.model.classes)
    (folder / "model.json").write_text(json.dumps({"classes": classes, "imgsz": 32}))
    return folder


@contextmanager
def production(resources: Resources, patch: pytest.MonkeyPatch, rounds: int = 4) -> Iterator[Production]:
    """Production that has served some rounds of drifted and undrifted frames."""
    patch.setitem(sys.modules, "retrain.detector", SimpleNamespace(Detector=Oracle))
    resources.routes.initialise(resources.model, released(resources), time.time())
    with Production(resources) as running:
        for _ in range(rounds):
            running.serve_round()
        yield running


def stored_samples(resources: Resources) -> list[tuple[Any, ...]]:
    columns = (
        samples.c.id,
        samples.c.model,
        samples.c.strategy,
        samples.c.confidence,
        samples.c.inclusion_probability,
    )
    with resources.state.read() as connection:
        return sorted(tuple(row) for row in connection.execute(select(*columns)))


def collected(resources: Resources, patch: pytest.MonkeyPatch) -> Any:
    with production(resources, patch):
        return stored_samples(resources)


def spooled(resources: Resources, patch: pytest.MonkeyPatch) -> Any:
    """How the hand-over to disk went: files begun, syncs, waits for room, and what came through."""
    begun: list[int] = []
    syncs: list[int] = []
    waits: list[float] = []

    class Memory(mmap.mmap):
        def __init__(self, _descriptor: int, size: int) -> None:
            begun.append(size)

        def flush(self, *where: int) -> None:
            syncs.append(1)
            super().flush(*where)

    patch.setattr("retrain.data_collection.queue.mmap.mmap", Memory)
    patch.setattr("retrain.data_collection.queue.time.sleep", waits.append)
    with production(resources, patch):
        return len(begun), len(syncs), len(waits) > 0, stored_samples(resources)


def flush_times(resources: Resources, patch: pytest.MonkeyPatch) -> Any:
    """How often the collector's own thread drains, while nobody asks it to, in three pretended seconds."""
    drained: list[float] = []
    patch.setattr("retrain.data_collection.background.threading.Thread", MagicMock())
    with production(resources, patch, rounds=0) as running:
        background = running.collector._background
        patch.setattr(running.collector.drainer, "drain", lambda stop=None: drained.append(1.0))
        background._stop = MagicMock(wait=MagicMock(side_effect=[False] * 3 + [True]), is_set=lambda: True)
        background._run()
    return len(drained)


def places(resources: Resources, patch: pytest.MonkeyPatch) -> Any:
    """Where things lie after production has collected samples."""
    bucket = RecordingBucket()
    patch.setattr(S3Blobs, "_connect", lambda store: bucket)
    with production(resources, patch):
        root = resources.home.parent
        files = [path.relative_to(root).parts for path in root.rglob("*") if path.is_file()]
    return sorted({parts[:-2] or parts for parts in files if "cache" not in parts}), sorted(bucket.names)


class RecordingBucket:
    """The S3 client at its border: what is put where."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def put_object(self, Bucket: str, Key: str, Body: bytes) -> None:  # noqa: N803
        self.names.add(Bucket)
        self._body = Body

    def upload_file(self, path: str, bucket: str, key: str, Config: Any) -> None:  # noqa: N803
        self.put_object(bucket, key, Path(path).read_bytes())

    def head_object(self, Bucket: str, Key: str) -> Mapping[str, Any]:  # noqa: N803
        return {"ContentLength": len(self._body), "ETag": hashlib.md5(self._body).hexdigest()}


def polls(resources: Resources, patch: pytest.MonkeyPatch) -> Any:
    """How long the router's thread sleeps between two looks at the route."""
    waits: list[float | None] = []

    class Event(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout)
            return super().wait(timeout)

    names = {"Event": Event, "Thread": threading.Thread, "Lock": threading.Lock}
    patch.setattr("retrain.serving.router.threading", SimpleNamespace(**names))
    with production(resources, patch, rounds=0):
        deadline = time.monotonic() + 5
        while not waits and time.monotonic() < deadline:
            time.sleep(0.001)
    return waits[0]


def threshold_watch(resources: Resources, patch: pytest.MonkeyPatch) -> Any:
    """The event that the watch announces, if any."""
    events: list[Mapping[str, Any]] = []
    patch.setattr("tasks.events.emit_event", lambda **event: events.append(event))
    patch.setattr("tasks.data_collection.get_run_logger", MagicMock())
    with production(resources, patch):
        watch_samples.fn(resources)
    return [(event["event"], event["resource"], event["payload"]) for event in events]


def missing_cycles(resources: Resources, patch: pytest.MonkeyPatch) -> Any:
    """What reconcile does about a crossing of 150 s ago whose cycle was started three times and never finished."""
    patch.setattr("tasks.reconcile.run_deployment", MagicMock())
    patch.setattr("tasks.reconcile.get_run_logger", MagicMock())
    patch.setattr("tasks.cycle.announce", MagicMock())
    with production(resources, patch):
        crossing = record_crossing(resources.state, resources.model, 1, time.time() - 150)
    assert crossing is not None
    for _ in range(3):
        with cycle_work(resources, crossing.id):
            pass
    try:
        return start_missing_cycles.fn(resources)
    except RetrainError:
        # Its message names the configured number, which alone would prove nothing.
        return "needs a person"


def labels(resources: Resources, patch: pytest.MonkeyPatch) -> Any:
    """What the annotate stage stores for the samples that production collected, and what it leaves out."""
    with production(resources, patch), open_work(resources, patch) as work:
        select_samples(resources.state, resources.model, work.cycle.id, 100)
        report = annotate.fn(work, released(resources))
        stored = resources.annotations.load(work.cycle.id)
    boxes = {one.sample_id: one.annotations.to_json() for one in stored.values()}
    return report, boxes


def training_job(resources: Resources, patch: pytest.MonkeyPatch, *, fine_tune: bool = False) -> Any:
    """What the train stage hands to the trainer, checked as the trainer checks it."""

    class Handed(Exception):
        pass

    class Trainer:
        def __init__(self, work_dir: Path, **settings: Any) -> None:
            self.settings = settings

        def settings_of(self, request: Mapping[str, Any]) -> dict[str, Any]:
            return TrainingRequest.of(request).identity()

        def train(self, request: Mapping[str, Any], on_epoch: Any, *, preflight: bool) -> None:
            asked = TrainingRequest.of(request)
            raise Handed(self.settings, asked.identity(), asked.workers, asked.cache, preflight)

    module = SimpleNamespace(TrainingOrchestrator=Trainer)
    patch.setitem(sys.modules, "retrain.training.orchestrator", module)
    patch.setattr("tasks.tracked_training.create_progress_artifact", MagicMock())
    resources.__dict__["tracker"] = MagicMock()
    layout = {"train": ["train.jsonl"], "val": "val.jsonl"}
    initial = released(resources) if fine_tune else None
    with open_work(resources, patch) as work, pytest.raises(Handed) as handed:
        train.fn(work, {"name": "v1.0.0", "digest": "d"}, layout, initial)
    return handed.value.args


def fine_tuning_job(resources: Resources, patch: pytest.MonkeyPatch) -> Any:
    return training_job(resources, patch, fine_tune=True)


def laid_out(resources: Resources, patch: pytest.MonkeyPatch) -> Any:
    """Images of the lists that the layout stage makes for the trainer, with how often each is drawn."""
    old = [build_item(seed) for seed in range(30)]
    new = [build_item(30), build_item(31, split="val")]
    versions = {"v1.0.0": build_version(old), "v1.1.0": build_version([*old, *new])}
    pack = resources.home / "pack.zip"
    pack.touch()
    resources.__dict__["datasets"] = SimpleNamespace(
        get_version=versions.__getitem__, pack_file=lambda version, digest: pack
    )
    with open_work(resources, patch) as work:
        layout = lay_out.fn(work, {"name": "v1.1.0"}, "v1.0.0")
    lists = [read_selection_file(resources.home / place) for place in (*layout["train"], layout["val"])]
    return [[(image.name, image.weight) for image in one.images] for one in lists]


def first_version(resources: Resources, patch: pytest.MonkeyPatch) -> Any:
    """Image digests of the first dataset version, with the split that each gets."""
    datasets = MagicMock()
    resources.__dict__["datasets"] = datasets
    make_first_version.fn(resources)
    created, added = datasets.create_version.call_args, datasets.add_images.call_args
    groups = {group: GroupContents(images, {}) for group, images in Counter(added.kwargs["groups"]).items()}
    splits = DatasetSplitter(created.kwargs["splits"]).assign(groups)
    images = [hashlib.sha256(data).hexdigest() for data in added.args[1]]
    return images, splits


def versions_of_two(resources: Resources, patch: pytest.MonkeyPatch, split: str) -> None:
    """Versions with 12 and 24 images of a split, each with two objects; `Oracle` is the network."""
    patch.setitem(sys.modules, "retrain.detector", SimpleNamespace(Detector=Oracle))
    images = [encode(resources.traffic.frame("dock-a", index).image) for index in range(24)]
    boxes = (10.0, 10.0, 30.0, 30.0), (60.0, 60.0, 90.0, 95.0)
    objects = tuple(LabelledObject(f"o-{at}", 0, box) for at, box in enumerate(boxes))
    items = [build_item(at, image=content_digest(image), group=f"r{at // 2}", split=split, objects=objects)
             for at, image in enumerate(images)]  # fmt: skip
    pack = resources.home / "pack.zip"
    with zipfile.ZipFile(pack, "w") as archive:
        for item, image in zip(items, images, strict=True):
            archive.writestr(item.file_name, image)
    versions = {"v1.0.0": build_version(items[:12]), "v1.1.0": build_version(items)}
    resources.__dict__["datasets"] = SimpleNamespace(
        get_version=versions.__getitem__, pack_file=lambda version, digest: pack
    )


def evaluated(resources: Resources, patch: pytest.MonkeyPatch) -> Any:
    """Comparisons of the evaluate stage, and the champion's stored scores."""
    patch.setattr("tasks.evaluation.create_table_artifact", MagicMock())
    patch.setattr("tasks.evaluation.create_image_artifact", MagicMock())
    versions_of_two(resources, patch, "test")
    plan = {"champion": released(resources), "known_version": "v1.0.0"}
    training = {"job_id": "j", "model_folder": model_folder(resources, "challenger").name}
    with open_work(resources, patch) as work:
        compared = evaluate_models.fn(work, plan, {"name": "v1.1.0"}, training, 0.25)
        stored = json.loads((resources.home / "cycles" / work.cycle.id / "champion.json").read_bytes())
    return compared, stored["summary"]


def gated(resources: Resources, patch: pytest.MonkeyPatch) -> Any:
    """The gate's rules and answer: a clear gain on the new frames, a possible small loss on the frozen test."""

    def comparison(low: float, high: float, verdict: str) -> Mapping[str, Any]:
        middle = (low + high) / 2
        return Comparison(
            "map50", 0.8, 0.8 + middle, middle, low, high, 0.95, 50, 10, 1000, "", verdict, ""
        ).to_json()

    patch.setattr("tasks.evaluation_report.create_markdown_artifact", MagicMock())
    found = {NEW: comparison(0.1, 0.2, "better"), FROZEN: comparison(-0.02, 0.01, "inconclusive")}
    stored_versions(resources)
    with open_work(resources, patch) as work:
        store_pair(resources, work.cycle.id)
        decision = gate.fn(work, {"known_version": "v1.0.0"}, {"name": "v1.1.0"}, found)
    return decision["passed"], [rule["rule"] for rule in decision["rules"]]


def release_thresholds(resources: Resources, patch: pytest.MonkeyPatch) -> Any:
    """Scores from which the registered release calls a box found."""
    resources.__dict__["registry"] = MagicMock()
    resources.registry.register.return_value = "1"
    versions_of_two(resources, patch, "val")
    training = {
        "job_id": "j",
        "run_id": "r",
        "model_uri": "m",
        "model_folder": model_folder(resources, "trained").name,
    }
    with open_work(resources, patch) as work:
        version = {"name": "v1.0.0", "digest": "d"}
        confidence = fit_serving_thresholds.fn(work, version, training)
        release = register_release.fn(work, training, version, None, confidence)
    return read_release(resources.releases.fetch(release["digest"])).thresholds


def promotion(resources: Resources, patch: pytest.MonkeyPatch) -> Any:
    """How a promotion ends, and after how long, when no router runs."""
    ticks = itertools.count()
    slept: list[float] = []
    clock = SimpleNamespace(time=lambda: 1e9 + sum(slept) + next(ticks) * 1e-6, sleep=slept.append)
    patch.setattr("tasks.serving.time", clock)
    patch.setattr("tasks.serving.announce", MagicMock())
    patch.setattr("tasks.serving.get_run_logger", MagicMock())
    resources.__dict__["registry"] = MagicMock()
    champion, challenger = released(resources, "champion"), released(resources, "challenger")
    resources.registry.current.return_value = SimpleNamespace(digest=champion)
    resources.routes.initialise(resources.model, champion, 1e9)
    with open_work(resources, patch) as work:
        try:
            promote.fn(work, {"champion": champion}, {"digest": challenger, "model_version": "2"}, {})
            ending = "promoted"
        except PostConditionFailed:
            ending = "withdrawn"
    return ending, resources.routes.get(resources.model).control == challenger, round(sum(slept))


def mlflow_experiment(resources: Resources, patch: pytest.MonkeyPatch) -> Any:
    """The experiment that the tracker makes, and on which server."""
    made: list[Any] = []

    def connect(uri: str) -> Any:
        client = MagicMock()
        client.get_experiment_by_name.return_value = None
        client.create_experiment.side_effect = lambda name, artifact_location: made.append(
            (uri, name, artifact_location)
        )
        return client

    patch.setattr("retrain.mlflow_integration.tracker.connect", connect)
    _ = resources.tracker
    return made


def stack_addresses(resources: Resources, patch: pytest.MonkeyPatch) -> Any:
    return [(row.name, row.url) for row in Stack(resources.home, resources.config).status()]


def worker_environment(resources: Resources, patch: pytest.MonkeyPatch) -> Any:
    """Of the variables a worker is started with, those about how it asks the server."""
    environment = Stack(resources.home, resources.config).environment()
    return {name: value for name, value in environment.items() if name.startswith("PREFECT_WORKER")}


def schedules(resources: Resources, patch: pytest.MonkeyPatch) -> Any:
    """Schedules in the file that `retrain up` has Prefect deploy."""
    commands: list[tuple[str, ...]] = []
    patch.setattr(Stack, "_run", lambda stack, *command: commands.append(command))
    patch.setattr(Stack, "_make_work_pool", lambda stack: None)
    Stack(resources.home, resources.config)._apply()
    (deploy,) = (command for command in commands if "deploy" in command)
    deployed = yaml.safe_load(Path(deploy[deploy.index("--prefect-file") + 1]).read_text())
    return {one["entrypoint"]: one.get("schedules") for one in deployed["deployments"]}


def datasets_folder(resources: Resources, patch: pytest.MonkeyPatch) -> Any:
    return resources.datasets.repository.folder


def traffic(resources: Resources, patch: pytest.MonkeyPatch) -> Any:
    """Frames of a camera around the beginning of its drift."""
    frames = [resources.traffic.frame("gate-n", PRODUCTION_START + index) for index in range(18, 23)]
    return [(frame.recording, frame.drifted, hashlib.sha256(frame.image).hexdigest()) for frame in frames]


def heldout(resources: Resources, patch: pytest.MonkeyPatch) -> Any:
    return {condition: len(frames) for condition, frames in heldout_frames(resources).items()}


def patience_of_the_demo(resources: Resources, patch: pytest.MonkeyPatch) -> Any:
    """How many frames the demo serves before it gives up on a threshold that is never reached."""
    with (
        production(resources, patch, rounds=0) as running,
        pytest.raises(PostConditionFailed, match=r"simulation\.max_frames"),
    ):
        _serve_until_crossing(resources, running, MagicMock())
    return len(running.observations)


SIMULATED = {"annotation.reviewer": "simulated", "data_collection.strategy": "all"}
"""Every frame is collected, and a person looks at those the model is unsure of."""

SMALL_SPOOL = {"data_collection.strategy": "all", "data_collection.spool.segment_bytes": 50_000}
FULL_SPOOL = {**SMALL_SPOOL, "data_collection.spool.max_bytes": 150_000}

CASES: dict[str, Case] = {
    "model.name": Case("gates", threshold_watch, {"data_collection.retrain_threshold": 1}),
    "model.classes": Case(("a", "b"), training_job),
    "storage.state_url": Case("sqlite:///{tmp}/elsewhere/other.db", places),
    "storage.blobs_url": Case("{tmp}/elsewhere", places),
    "data_collection.strategy": Case("boundary", collected),
    "data_collection.confidence_threshold": Case(0.4, collected),
    "data_collection.sample_rate": Case(0.9, collected, {"data_collection.strategy": "random"}),
    "data_collection.frame_confidence": Case("mean", collected),
    "data_collection.audit_rate": Case(0.9, collected),
    "data_collection.flush_s": Case(1.0, flush_times),
    "data_collection.spool.max_bytes": Case(150_000, spooled, SMALL_SPOOL),
    "data_collection.spool.segment_bytes": Case(60_000, spooled, {"data_collection.strategy": "all"}),
    "data_collection.spool.when_full": Case("drop_oldest", spooled, FULL_SPOOL),
    "data_collection.spool.block_s": Case(
        0.0, spooled, {**FULL_SPOOL, "data_collection.spool.when_full": "block"}
    ),
    "data_collection.spool.sync": Case(True, spooled),
    "data_collection.quota.per_minute": Case(1, collected, {"data_collection.strategy": "all"}),
    "data_collection.quota.per_hour": Case(1, collected, {"data_collection.strategy": "all"}),
    "data_collection.quota.per_day": Case(1, collected, {"data_collection.strategy": "all"}),
    "data_collection.retrain_threshold": Case(3, threshold_watch),
    "data_collection.storage_path": Case("{tmp}/elsewhere", places),
    "data_collection.s3_bucket": Case("samples", places),
    "annotation.auto_label": Case(False, labels, {"annotation.auto_label_threshold": 0.3}),
    "annotation.auto_label_threshold": Case(0.3, labels),
    "annotation.require_review": Case(False, labels),
    "annotation.reviewer": Case("simulated", labels),
    "dataset.augmentation": Case(False, training_job),
    "dataset.augmentation_pipeline": Case([{"step": "flip"}], training_job),
    "dataset.balance_classes": Case(True, laid_out),
    "dataset.versions_path": Case("{tmp}/elsewhere", datasets_folder),
    "dataset.splits.train": Case(0.3, first_version, beside={"dataset.splits.test": 0.55}),
    "dataset.splits.val": Case(0.6, first_version, beside={"dataset.splits.train": 0.25}),
    "dataset.splits.test": Case(0.6, first_version, beside={"dataset.splits.train": 0.25}),
    "training.model": Case("yolov8s", training_job),
    "training.num_gpus": Case(1, training_job),
    "training.sync_batchnorm": Case(True, training_job, {"training.num_gpus": 2}),
    "training.supervised": Case(False, training_job),
    "training.stall_s": Case(60.0, training_job),
    "training.mixed_precision": Case(True, training_job),
    "training.channels_last": Case(True, training_job),
    "training.compile": Case(True, training_job),
    "training.gradient_accumulation": Case(4, training_job),
    "training.batch_size": Case(8, training_job),
    "training.epochs": Case(7, training_job),
    "training.learning_rate": Case(0.01, training_job),
    "training.optimizer": Case("sgd", training_job),
    "training.scheduler": Case("cosine", training_job),
    "training.image_size": Case(320, training_job),
    "training.early_stopping": Case(False, training_job),
    "training.patience": Case(3, training_job),
    "training.mosaic": Case(0.0, training_job),
    "training.flip": Case(0.5, training_job),
    "training.seed": Case(1, training_job),
    "training.workers": Case(2, training_job),
    "training.cache": Case("none", training_job),
    "training.preflight": Case(False, training_job),
    "training.fine_tune_epochs": Case(7, fine_tuning_job),
    "training.fine_tune_learning_rate": Case(0.01, fine_tuning_job),
    "training.warm_start": Case(False, fine_tuning_job),
    "training.replay_fraction": Case(0.1, laid_out),
    "training.replay_by_class": Case({"one": 1.0}, laid_out),
    "training.replay_by_camera": Case({"north": 1.0}, laid_out),
    "training.mirror_checkpoints": Case(True, training_job),
    "training.export": Case(["pt"], training_job),
    "evaluation.confidence": Case(0.6, release_thresholds),
    "evaluation.thresholds": Case("f1", release_thresholds),
    "evaluation.resamples": Case(300, evaluated),
    "evaluation.level": Case(0.8, evaluated),
    "evaluation.margin": Case(0.01, gated),
    "evaluation.policy": Case(str(Path("configs/gate_policy.yaml").absolute()), gated),
    "serving.poll_s": Case(0.02, polls),
    "serving.min_replicas": Case(0, promotion),
    "serving.ack_timeout_s": Case(5.0, promotion),
    "mlflow.tracking_uri": Case("sqlite:///{tmp}/elsewhere/mlflow.db", mlflow_experiment),
    "mlflow.experiment_name": Case("gates", mlflow_experiment),
    "mlflow.artifact_location": Case("{tmp}/elsewhere", mlflow_experiment),
    "orchestration.prefect_port": Case(4299, stack_addresses),
    "orchestration.mlflow_port": Case(5099, stack_addresses),
    "orchestration.worker_poll_s": Case(7.0, worker_environment),
    "orchestration.watch_interval_s": Case(60, schedules),
    "orchestration.reconcile_after_s": Case(1e6, missing_cycles),
    "orchestration.max_attempts": Case(5, missing_cycles),
    "simulation.seed": Case(1, traffic),
    "simulation.train_frames": Case(48, first_version),
    "simulation.heldout_frames": Case(8, heldout),
    "simulation.frames_per_recording": Case(3, traffic),
    "simulation.drift_from": Case(22, traffic),
    "simulation.max_frames": Case(3, patience_of_the_demo),
    "simulation.annotator_miss_rate": Case(1.0, labels, SIMULATED),
    "simulation.annotator_confusion_rate": Case(1.0, labels, SIMULATED),
    "simulation.annotator_jitter_px": Case(3.0, labels, SIMULATED),
    **COLLECTION_CASES,
}


def all_keys(section: type[Any] = RetrainConfig, prefix: str = "") -> Iterator[str]:
    for name, value in section.model_fields.items():
        if hasattr(value.annotation, "model_fields"):
            yield from all_keys(value.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name


def configured(values: Mapping[str, Any], folder: Path) -> RetrainConfig:
    nested: dict[str, Any] = {}
    for key, value in values.items():
        *sections, name = key.split(".")
        inner = nested
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[name] = value.replace("{tmp}", str(folder)) if isinstance(value, str) else value
    return RetrainConfig.model_validate(nested)


def observed(probe: Probe, values: Mapping[str, Any], folder: Path) -> Any:
    """What a probe sees in a fresh home; always the same folder, so that a path is a difference only if configured."""
    folder.mkdir()
    resources = Resources(configured(values, folder), folder / "home")
    resources.home.mkdir()
    try:
        with pytest.MonkeyPatch.context() as patch:
            return probe(resources, patch)
    finally:
        if "state" in resources.__dict__:
            resources.state.close()
        shutil.rmtree(folder)


_seen: dict[tuple[Probe, str], Any] = {}


def observed_once(probe: Probe, values: Mapping[str, Any], folder: Path) -> Any:
    """The same probe of the same values is asked only once in this file."""
    key = (probe, json.dumps(values, sort_keys=True))
    if key not in _seen:
        _seen[key] = observed(probe, values, folder)
    return _seen[key]


def test_the_table_holds_exactly_the_keys_there_are():
    assert sorted(CASES) == sorted(all_keys())


@pytest.mark.parametrize("key", sorted(set(all_keys()) | set(CASES)))
def test_another_value_of_the_key_changes_what_is_observed(key, tmp_path_factory):
    case = CASES[key]
    # One folder for all, because results are compared across tests.
    folder = tmp_path_factory.getbasetemp() / "every-key"
    default = {**SMALL, **case.both}

    before = observed_once(case.probe, default, folder)
    after = observed(case.probe, {**default, **case.beside, key: case.other}, folder)

    assert before != after


@pytest.mark.parametrize(
    "probe", sorted({case.probe for case in CASES.values()}, key=lambda probe: probe.__name__)
)
def test_without_a_change_a_probe_sees_the_same_twice(probe, tmp_path_factory):
    # Otherwise a difference would prove nothing.
    folder = tmp_path_factory.getbasetemp() / "every-key"

    assert observed_once(probe, SMALL, folder) == observed(probe, SMALL, folder)
