"""The sections of the configuration: every key, its range and its default, one frozen model per section."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from retrain.config_values import (
    BatchSize,
    Folder,
    Fraction,
    Integer,
    Number,
    Pipeline,
    PolicyFile,
    Port,
    Positive,
    Seconds,
    Section,
    Switch,
    Text,
)
from retrain.data_collection.strategies.names import CollectionStrategy


class Model(Section):
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")] = "detector"
    """Names the route, the registry entry and the Prefect resource `retrain.model.<name>`."""
    classes: Annotated[tuple[Text, ...], Field(min_length=1)] = ("object",)
    """Class names in index order."""


class Storage(Section):
    state_url: Text | None = None
    """SQLAlchemy URL of the state; unset: SQLite under the home folder."""
    blobs_url: Text | None = None
    """Folder or `s3://bucket/prefix` for releases and reports; unset: a folder under the home folder."""


class Spool(Section):
    max_bytes: Annotated[Integer, Field(ge=1024)] = 2 * 2**30
    """Disk that frames waiting to be packed may take."""
    segment_bytes: Annotated[Integer, Field(ge=1)] = 16 * 2**20
    """Size of one file of it, the unit that `drop_oldest` drops."""
    when_full: Literal["drop_new", "drop_oldest", "block"] = "drop_new"
    block_s: Annotated[Number, Field(ge=0)] = 1.0
    """How long `block` waits for room before it drops the frame."""
    sync: Switch = False
    """Also survive a power cut, for one fdatasync per taken frame."""

    @model_validator(mode="after")
    def _holds_two_segments(self) -> "Spool":
        if self.max_bytes < 2 * self.segment_bytes:
            raise ValueError(
                f"max_bytes must hold at least 2 segments, got {self.max_bytes} and segment_bytes {self.segment_bytes}."
            )
        return self


class Quota(Section):
    per_minute: Positive | None = None
    per_hour: Positive | None = None
    per_day: Positive | None = None


class NearDuplicates(Section):
    enabled: Switch = True
    """Off: only equal bytes are duplicates."""
    max_distance: Annotated[Integer, Field(ge=0, le=128)] = 26
    """Bits of 128 by which the hashes of a repeated picture may differ."""
    max_difference: Annotated[Number, Field(ge=0)] = 2.5
    """Grey levels by which its most different spot may differ."""
    mirrored: Switch = True
    """A picture flipped left to right is a repetition, too."""
    max_candidates: Positive = 32
    """Pictures looked at closely, nearest first."""
    scope: Literal["camera", "global"] = "camera"
    capacity: Positive = 100_000
    """Newest samples that are compared with; about 1 KiB of memory each."""


class StrategySettings(Section):
    boundary_low: Fraction = 0.4
    """`boundary` keeps frames whose confidence lies strictly between these two."""
    boundary_high: Fraction = 0.6
    band_low: Fraction = 0.4
    """`band` keeps frames with at least `band_boxes` boxes that score between these two."""
    band_high: Fraction = 0.6
    band_boxes: Positive = 1
    class_thresholds: dict[str, Fraction] = {}
    """`per_class` keeps frames with a box of the class that scores below this."""
    targets: dict[str, Fraction] = {}
    """`rare_class` keeps frames with a class that fewer than this share of the kept frames show."""
    weights: dict[str, Fraction] = {}
    """`combined` asks these strategies, each with the chance that its wish counts."""
    no_detections_rate: Fraction = 1.0
    """Share of the frames without any box that `no_detections` keeps."""
    match_iou: Annotated[Number, Field(gt=0, le=1)] = 0.5
    """Overlap from which two predictions mean the same object, in `flip_disagreement` and `shadow_disagreement`."""
    score_floor: Fraction = 0.25
    """Boxes scoring less count neither as found nor as missed, in the two above and `track_gap`."""
    track_frames: Annotated[Integer, Field(ge=2)] = 3
    """Frames an object must have been seen in before its absence counts as a gap, for `track_gap`."""
    track_iou: Annotated[Number, Field(gt=0, le=1)] = 0.3
    """Overlap from one frame to the next that makes two boxes one track."""
    track_border: Annotated[Number, Field(ge=0, lt=0.5)] = 0.02
    """Objects this near the edge, as a share of the side, have left and are no gap."""
    track_pause_s: Seconds = 5.0
    """After this long without a frame of the camera its tracks begin anew."""
    max_cameras: Positive = 256
    """Cameras whose tracks are remembered."""

    @model_validator(mode="after")
    def _bounds_in_order(self) -> "StrategySettings":
        bounds = {
            "boundary": (self.boundary_low, self.boundary_high),
            "band": (self.band_low, self.band_high),
        }
        if wrong := [
            f"{name}_low must be less than {name}_high, got {low:g} and {high:g}"
            for name, (low, high) in bounds.items()
            if low >= high
        ]:
            raise ValueError("; ".join(wrong))
        return self


class Trigger(Section):
    class_thresholds: dict[str, Positive] = {}
    """Waiting samples that show the class; any one suffices."""
    camera_thresholds: dict[str, Positive] = {}
    """Waiting samples of the camera; any one suffices."""
    rearm_fraction: Fraction = 0.5
    """Share of the threshold that samples an earlier crossing counted may count again."""
    cooldown_s: Annotated[Number, Field(ge=0)] = 0.0
    """No crossing this long after a cycle finished."""
    min_interval_s: Annotated[Number, Field(ge=0)] = 0.0
    """No crossing this long after the last."""
    freeze: tuple[Text, ...] = ()
    """Windows without a crossing: "Fri 18:00 - Mon 06:00", or two ISO times with "/" between."""
    timezone: Text = "UTC"
    """IANA zone of `freeze`."""


class Retention(Section):
    max_age_days: Annotated[Number, Field(gt=0)] | None = None
    """Samples captured longer ago are deleted; unset: at any age. What a dataset version holds stays in it."""
    max_bytes: Annotated[Integer, Field(ge=1)] | None = None
    """The oldest samples are deleted until all packs together are no larger; unset: at any size."""


class DataCollection(Section):
    strategy: CollectionStrategy = "uncertainty"
    confidence_threshold: Fraction = 0.7
    """`uncertainty` keeps frames whose confidence is below this."""
    sample_rate: Fraction = 0.1
    """Share of frames that `random` keeps."""
    frame_confidence: Literal["minimum", "mean"] = "minimum"
    """How the scores of a frame's boxes become the frame's one confidence."""
    audit_rate: Fraction = 0.01
    """Share of all frames kept whatever the strategy says: what unbiased production figures rest on."""
    flush_s: Annotated[Number, Field(gt=0, le=3600)] = 30.0
    """How long a taken frame may wait in the spool before it is packed and counted."""
    spool: Spool = Field(default_factory=Spool)
    """The hand-over on local disk; a taken frame is in it before `collect` returns."""
    quota: Quota = Field(default_factory=Quota)
    """Frames the strategy may take per camera; the audit arm is not limited."""
    settings: StrategySettings = Field(default_factory=StrategySettings)
    """What single strategies go by."""
    near_duplicates: NearDuplicates = Field(default_factory=NearDuplicates)
    """When a picture repeats a stored one and is left out."""
    redis_url: Text | None = None
    """Redis between collecting hosts and `retrain collect drain`; unset: frames are stored from here."""
    retention: Retention = Field(default_factory=Retention)
    """How long samples are kept; applied by `retrain collect retain` and the scheduled reconcile flow."""
    retrain_threshold: Positive = 500
    """Stored, not yet used samples that start a retraining cycle."""
    trigger: Trigger = Field(default_factory=Trigger)
    """Further thresholds, and when none may start a cycle."""
    storage_path: Folder | None = None
    """Folder of the samples' images; unset: beside the other blobs."""
    s3_bucket: Text | None = None
    """Bucket of the samples' images instead of a folder; endpoint and credentials come from AWS_* variables."""

    @model_validator(mode="after")
    def _one_place(self) -> "DataCollection":
        if self.storage_path is not None and self.s3_bucket is not None:
            raise ValueError("storage_path and s3_bucket both name where samples go; set one of them")
        return self


class Annotation(Section):
    auto_label: Switch = True
    """Off: every sample goes to the reviewer."""
    auto_label_threshold: Fraction = 0.8
    """A frame is labelled by the champion alone only if every box it shows scores at least this."""
    require_review: Switch = True
    """Off: frames below the threshold keep the champion's labels too, unreviewed."""
    reviewer: Literal["simulated"] | None = None
    """Who looks at uncertain frames; unset: nobody, and those frames are left out."""


class Splits(Section):
    train: Fraction = 0.7
    val: Fraction = 0.15
    test: Fraction = 0.15

    @model_validator(mode="after")
    def _sum_to_one(self) -> "Splits":
        total = self.train + self.val + self.test
        if abs(total - 1) > 1e-9:
            raise ValueError(
                f"train + val + test must be 1, got {self.train} + {self.val} + {self.test} = {total:g}."
            )
        return self


class Dataset(Section):
    versions_path: Folder | None = None
    """The Git + DVC repository of dataset versions; unset: a folder under the home folder."""
    splits: Splits = Field(default_factory=Splits)
    """Shares of the recordings (never of single frames) that go to each split."""
    balance_classes: Switch = False
    """Draw training images that show rare classes more often, by weight; no image is copied."""
    augmentation: Switch = True
    """Off: training images are used as stored, whatever the pipeline, `training.mosaic` and `training.flip` say."""
    augmentation_pipeline: Pipeline = ()
    """Steps that change each training image anew in each epoch, before the trainer's own augmentation, such as
    `{step: rain, probability: 0.2}`."""


class Training(Section):
    model: Text = "yolov8n"
    """Ultralytics architecture the first champion is built from."""
    num_gpus: Annotated[Integer, Field(ge=0)] = 0
    """0 trains on the CPU; more than one share every batch."""
    sync_batchnorm: Switch = False
    """Normalise by the images of all GPUs together; needs more than one."""
    supervised: Switch = True
    """Train in a process of its own that is stopped and started again when it hangs, as with several GPUs always."""
    stall_s: Seconds = 600.0
    """Without progress for so long, a watched training is taken to hang."""
    mixed_precision: Switch = False
    channels_last: Switch = False
    """Keep the channels of a pixel side by side in memory, which convolutions are often faster with."""
    compile: Switch = False
    """Let torch compile the network first: minutes that pay only in long trainings; needs a C++ compiler."""
    gradient_accumulation: Positive = 1
    """Batches per optimiser step."""
    batch_size: BatchSize = 16
    """Images of one step, of all GPUs together; `auto` takes as many as memory allows, at most 64 a GPU and 16 on the
    CPU, chosen once for the same data and settings."""
    epochs: Positive = 100
    learning_rate: Annotated[Number, Field(gt=0)] = 0.002
    optimizer: Literal["adam", "adamw", "sgd", "musgd"] = "adamw"
    scheduler: Literal["linear", "cosine", "onecycle", "step", "plateau"] = "linear"
    image_size: Annotated[Integer, Field(ge=32, multiple_of=32)] = 640
    """Side of the square the network sees, in pixels."""
    early_stopping: Switch = True
    patience: Positive = 10
    """Epochs without a better val mAP50-95 before early stopping ends a job."""
    mosaic: Fraction = 0.5
    flip: Fraction = 0.0
    """Probability of a horizontal flip; 0 where left and right differ in meaning, as for digits."""
    seed: Integer = 0
    workers: Annotated[Integer, Field(ge=0)] = 0
    """Processes that load training images; 0 loads them in the training process."""
    cache: Literal["auto", "ram", "none"] = "auto"
    """`ram` keeps all images decoded in memory, `none` reads each whenever it is drawn, `auto` keeps them where they
    take at most half of what is free; the weights are the same."""
    preflight: Switch = True
    """Before a training: are the labels sane, does the model learn a few images, do memory and disk suffice?"""
    warm_start: Switch = True
    """A challenger starts from the champion's weights; off: from scratch, with `epochs` and `learning_rate`."""
    fine_tune_epochs: Positive = 20
    """Epochs of a challenger that starts from the champion's weights."""
    fine_tune_learning_rate: Annotated[Number, Field(gt=0)] = 0.001
    replay_fraction: Fraction = 0.5
    """Share of the older training images of each class at each camera that is shown again beside the new ones."""
    replay_by_class: dict[str, Fraction] = {}
    """Shares for single classes in place of `replay_fraction`; `no object` means images that show none."""
    replay_by_camera: dict[str, Fraction] = {}
    """Shares for single cameras; where a class and its camera both have one, the greater holds."""
    mirror_checkpoints: Switch = False
    """Copy checkpoints to the blob store, so that another machine can go on with a training that was cut short."""
    export: tuple[Literal["pt", "onnx"], ...] = ("pt", "onnx")
    """Formats that a trained model is also written in, for others to read: Ultralytics' `.pt`, ONNX."""

    @model_validator(mode="after")
    def _sync_batchnorm_possible(self) -> "Training":
        if self.sync_batchnorm and self.num_gpus < 2:
            raise ValueError(
                f"sync_batchnorm needs num_gpus of at least 2, got {self.num_gpus}; switch it off or raise num_gpus."
            )
        if self.sync_batchnorm and self.compile:
            raise ValueError(
                "compile and sync_batchnorm were never tried together; set one of them to false."
            )
        return self


class Evaluation(Section):
    confidence: Fraction = 0.25
    """Score from which a box is served, and at which precision and recall are read; with a rule in `thresholds`, only
    where val has too few objects to fit one."""
    thresholds: Literal["fixed", "f1", "lrp"] = "fixed"
    """`fixed`: `confidence` for all classes. Else by class, fitted on val: that of best F1 or of least LRP error."""
    resamples: Annotated[Integer, Field(ge=200)] = 1000
    """Bootstrap resamples of recordings."""
    level: Annotated[Number, Field(gt=0.5, lt=1)] = 0.95
    """Confidence level of intervals."""
    margin: Fraction = 0.03
    """mAP50 the challenger may at most lose, at the interval's lower end, on the frozen test."""
    policy: PolicyFile | None = None
    """YAML file of rules that the gate of a cycle decides by, with their own `level` and `resamples`; unset: better on
    the new frames, and at most `margin` worse on the frozen test."""


class Serving(Section):
    poll_s: Annotated[Number, Field(gt=0, le=3)] = 1.0
    """How often a router looks for a newer route and says that it lives; at most 3 s, because a promotion waits
    only for routers heard of in the 10 s before the switch, and one late or lost poll must not hide a router."""
    min_replicas: Annotated[Integer, Field(ge=0)] = 1
    """Live routers that must report the new digest before a promotion counts as done."""
    ack_timeout_s: Seconds = 60.0
    """After this long without them the route goes back to the old release and the promotion fails."""


class Mlflow(Section):
    tracking_uri: Text | None = None
    """Unset: SQLite under the home folder, no server needed."""
    experiment_name: Text = "retrain"
    artifact_location: Text | None = None


class Orchestration(Section):
    prefect_port: Port = 4200
    mlflow_port: Port = 5000
    worker_poll_s: Seconds = 2.0
    """How often the worker asks for new flow runs."""
    watch_interval_s: Annotated[Integer, Field(ge=10)] = 300
    """Schedule of the watch and reconcile flows."""
    reconcile_after_s: Annotated[Number, Field(ge=0)] = 120.0
    """A crossing without a cycle after this long counts as a lost event."""
    max_attempts: Positive = 3
    """Times a cycle is started before it needs a person."""


class Simulation(Section):
    seed: Integer = 0
    train_frames: Positive = 600
    """Clean frames of the first dataset version, over all splits."""
    heldout_frames: Positive = 120
    """Frames with exact truth, per condition, that only the report's scores use."""
    frames_per_recording: Positive = 10
    """Consecutive frames of a camera that share a background and a split."""
    drift_from: Annotated[Integer, Field(ge=0)] = 20
    """Frame index per camera at which the drift begins."""
    max_frames: Positive = 400
    """Frames per camera after which a demo that crossed no threshold gives up."""
    annotator_miss_rate: Fraction = 0.01
    annotator_confusion_rate: Fraction = 0.01
    annotator_jitter_px: Annotated[Number, Field(ge=0)] = 0.7
