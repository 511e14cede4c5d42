"""Builds the adapters of one configuration: the only place that picks implementations."""

from collections.abc import Collection
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from retrain.annotation.review import AnnotationStore, Reviewer
from retrain.config import RetrainConfig, load_config
from retrain.data_collection.collector import DataCollectionService
from retrain.data_collection.likeness import LikenessIndex
from retrain.data_collection.queue import SpoolLimits
from retrain.data_collection.quota import Quota, local_quota
from retrain.data_collection.store.intake import Intake
from retrain.data_collection.store.samples import SampleStore, owner_of
from retrain.duplicates.near_duplicates import NearDuplicateRule
from retrain.environment import prepare, writable
from retrain.serving.release import ReleaseStore
from retrain.serving.route import RouteStore
from retrain.storage.blobs import BlobStore
from retrain.storage.journal import Journal
from retrain.storage.leases import LeaseManager
from retrain.storage.open_blobs import open_blobs
from retrain.storage.state import StateStore, open_state
from tasks.collection_rules import strategy_settings

if TYPE_CHECKING:
    from retrain.data_collection.redis_backend.drainer import StreamDrainer
    from retrain.dataset.manager import DatasetManager
    from retrain.mlflow_integration.ledger import Ledger
    from retrain.mlflow_integration.registry import ModelRegistry
    from retrain.mlflow_integration.tracker import MLflowTracker
    from retrain.simulation.traffic import TrafficSimulator


PRODUCTION_START = 10_000
"""Frame index per camera at which simulated production begins; what lies before became the first dataset."""


class Resources:
    """Adapters made on first use, so that a task pays only for what it touches."""

    def __init__(self, config: RetrainConfig, home: Path) -> None:
        self.config, self.home = config, home

    @property
    def model(self) -> str:
        return self.config.model.name

    @cached_property
    def state(self) -> StateStore:
        return open_state(self.config.storage.state_url or f"sqlite:///{self.home / 'state.db'}")

    @property
    def blobs_url(self) -> str:
        return self.config.storage.blobs_url or str(self.home / "blobs")

    @cached_property
    def blobs(self) -> BlobStore:
        return open_blobs(self.blobs_url)

    @cached_property
    def sample_blobs(self) -> BlobStore:
        collection = self.config.data_collection
        if collection.s3_bucket is not None:
            return open_blobs(f"s3://{collection.s3_bucket}")
        return self.blobs if collection.storage_path is None else open_blobs(str(collection.storage_path))

    @cached_property
    def samples(self) -> SampleStore:
        return SampleStore(self.state, self.sample_blobs, self.home / "cache", owner=owner_of(self.spool))

    def collection_service(
        self, *, seed: int | None = None, background: bool = True
    ) -> DataCollectionService:
        """The collector that production on this machine hands its frames to."""
        collection, near = self.config.data_collection, self.config.data_collection.near_duplicates
        return DataCollectionService(
            self.home,
            collection.strategy,
            collection.confidence_threshold,
            collection.sample_rate,
            audit_rate=collection.audit_rate,
            settings=strategy_settings(self.config),
            redis_url=collection.redis_url,
            quota=self._quota(),
            near_duplicates=self._near_duplicate_rule(),
            likeness_scope=near.scope,
            likeness_capacity=near.capacity,
            blobs=self.sample_blobs,
            state=self.state,
            model=self.model,
            classes=self.config.model.classes,
            confidence_rule=collection.frame_confidence,
            limits=SpoolLimits(**collection.spool.model_dump()),
            background=background,
            flush_s=collection.flush_s,
            seed=seed,
        )

    def stream_drainer(self, name: str = "0") -> "StreamDrainer | None":
        """What stores the frames that collecting hosts sent to Redis; None when none is configured.

        Args:
            name: of one of several on this host.
        """
        collection = self.config.data_collection
        if collection.redis_url is None:
            return None
        from retrain.data_collection.redis_backend.connection import RedisConnection
        from retrain.data_collection.redis_backend.drainer import StreamDrainer
        from retrain.data_collection.redis_backend.stream import RedisStream

        folder, near = self.home / "central" / name, collection.near_duplicates
        rule = self._near_duplicate_rule()
        return StreamDrainer(
            RedisStream(RedisConnection(collection.redis_url)),
            Intake(
                SampleStore(self.state, self.sample_blobs, folder / "cache", owner=owner_of(folder)),
                classes=self.config.model.classes,
                likeness=LikenessIndex(self.state, rule, near.scope, near.capacity) if rule else None,
            ),
            folder,
            flush_s=collection.flush_s,
        )

    def _near_duplicate_rule(self) -> NearDuplicateRule | None:
        near = self.config.data_collection.near_duplicates
        rule = (near.max_distance, near.max_difference, near.mirrored, near.max_candidates)
        return NearDuplicateRule(*rule) if near.enabled else None

    def _quota(self) -> Quota | None:
        collection, quota = self.config.data_collection, self.config.data_collection.quota
        limits = {"minute": quota.per_minute, "hour": quota.per_hour, "day": quota.per_day}
        given = {period: limit for period, limit in limits.items() if limit is not None}
        if collection.redis_url is None or not given:
            return local_quota(limits)
        from retrain.data_collection.redis_backend.connection import RedisConnection
        from retrain.data_collection.redis_backend.quota import RedisQuota

        return RedisQuota(RedisConnection(collection.redis_url, timeout_s=2.0), given)

    @property
    def spool(self) -> Path:
        """Where production on this machine hands frames over."""
        return self.home / "spool"

    @cached_property
    def leases(self) -> LeaseManager:
        return LeaseManager(self.state)

    @cached_property
    def releases(self) -> ReleaseStore:
        return ReleaseStore(self.blobs, self.home / "cache" / "releases")

    @cached_property
    def routes(self) -> RouteStore:
        return RouteStore(self.state)

    @cached_property
    def annotations(self) -> AnnotationStore:
        return AnnotationStore(self.state)

    @cached_property
    def datasets(self) -> "DatasetManager":
        from retrain.dataset.manager import DatasetManager

        return DatasetManager(self.datasets_path)

    def review_page(self, cycle_id: str) -> Path:
        """The page that shows what a cycle's dataset version changed."""
        return self.home / "cycles" / cycle_id / "dataset.html"

    def evaluation_page(self, cycle_id: str) -> Path:
        """The page that shows champion and challenger of a cycle beside each other."""
        return self.home / "cycles" / cycle_id / "evaluation.html"

    def pages_with(self, images: Collection[str]) -> list[Path]:
        """Pages of cycles that show any of these images, by their digests."""
        pages = sorted(self.home.glob("cycles/*/*.html"))
        return [
            page for page in pages if any(image[:12] in page.read_text(encoding="utf-8") for image in images)
        ]

    @property
    def datasets_path(self) -> Path:
        return self.config.dataset.versions_path or self.home / "datasets"

    @property
    def tracking_uri(self) -> str:
        return self.config.mlflow.tracking_uri or f"sqlite:///{self.home / 'mlflow.db'}"

    @cached_property
    def tracker(self) -> "MLflowTracker":
        from retrain.mlflow_integration.tracker import MLflowTracker

        mlflow = self.config.mlflow
        location = mlflow.artifact_location
        if location is None and mlflow.tracking_uri is None:
            location = (self.home / "mlflow-artifacts").as_uri()
        return MLflowTracker(self.tracking_uri, mlflow.experiment_name, artifact_location=location)

    @cached_property
    def registry(self) -> "ModelRegistry":
        from retrain.mlflow_integration.registry import ModelRegistry

        return ModelRegistry(self.tracking_uri, self.state)

    @cached_property
    def ledger(self) -> "Ledger":
        from retrain.mlflow_integration.ledger import Ledger

        return Ledger(self.state)

    @cached_property
    def traffic(self) -> "TrafficSimulator":
        """Simulated production: what the demo's cameras send, and what its annotators can look up."""
        from retrain.simulation.traffic import FLEET, TrafficSimulator

        simulation = self.config.simulation
        return TrafficSimulator(
            FLEET,
            seed=simulation.seed,
            drift_from=PRODUCTION_START + simulation.drift_from,
            size=self.config.training.image_size,
            frames_per_recording=simulation.frames_per_recording,
        )

    @cached_property
    def reviewer(self) -> Reviewer | None:
        if self.config.annotation.reviewer is None:
            return None
        from retrain.simulation.annotators import SimulatedAnnotator
        from retrain.simulation.reviewer import SimulatedReviewer

        simulation = self.config.simulation
        annotator = SimulatedAnnotator(
            "simulated annotator",
            simulation.seed,
            miss_rate=simulation.annotator_miss_rate,
            jitter_px=simulation.annotator_jitter_px,
            confusion_rate=simulation.annotator_confusion_rate,
        )
        return SimulatedReviewer(annotator, self.traffic)

    def progress(self, cycle_id: str) -> Journal:
        """What a cycle reports while it runs, for whoever watches from another process."""
        return Journal(self.state, f"progress-{cycle_id}")


def build_resources(config: RetrainConfig | None) -> Resources:
    """Adapters for a given configuration, or for the one of this process's environment."""
    home = writable(prepare())
    return Resources(config or load_config().config, home)
