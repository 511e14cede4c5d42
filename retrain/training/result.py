"""What training reports while it runs and when it is done."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypedDict


class SliceScore(TypedDict):
    """Scores of a slice in [0, 1], and how many images it has: for a class those that show it."""

    map50: float
    map50_95: float
    images: int


@dataclass(frozen=True)
class Regression:
    """A slice whose map50 fell from `reference` to `current`."""

    name: str
    reference: float
    current: float

    @property
    def drop(self) -> float:
        return self.reference - self.current


@dataclass(frozen=True, kw_only=True)
class EpochReport:
    """One finished epoch.

    Attributes:
        epoch: from 1.
        epochs: how many were asked for.
        losses: mean of each loss term over the epoch, by the name the model gives it.
        map50: of the averaged weights on the validation images, in [0, 1].
        map50_95: the same, mean over IoU 0.50 to 0.95.
        precision, recall: mean over classes, at the confidence where their harmonic mean is highest.
        lr: learning rate of weights in the last batch.
        seconds: training and validation together.
        images_per_s: training images per second, validation not counted.
        batch_seconds: mean time of a training batch, loading included.
        usage: of the leading process's machine while it trained, see `retrain.training.usage`.
        eta_s: expected seconds for the remaining epochs.
        slices: scores of parts of the validation images: `class/<name>`, and `camera/<name>` where they name one.
        regressions: slices that score worse than the model that training started from did, the greatest drop first;
            none where it started from scratch.
    """

    epoch: int
    epochs: int
    losses: Mapping[str, float]
    map50: float
    map50_95: float
    precision: float
    recall: float
    lr: float
    seconds: float
    images_per_s: float
    eta_s: float
    batch_seconds: float = 0.0
    usage: Mapping[str, float] = field(default_factory=dict)
    slices: Mapping[str, SliceScore] = field(default_factory=dict)
    regressions: Sequence[Regression] = ()

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "losses": dict(self.losses)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "EpochReport":
        regressions = tuple(Regression(**one) for one in data.get("regressions", ()))
        return cls(**{**data, "regressions": regressions})


@dataclass(frozen=True)
class KeptModel:
    """The averaged weights of a good epoch, as safetensors, and its `stop_metric`."""

    epoch: int
    score: float
    path: Path


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """A finished job.

    Attributes:
        job_id: name of the job's folder; equal requests on equal data have equal ids.
        model_folder: weights.safetensors and model.json, the averaged weights of the best epoch; model.pt and
            model.onnx of the same.
        files: sha256 of each of these, hex, by name.
        weights_sha256: of weights.safetensors.
        epochs: one report per epoch that was trained, whichever call trained it.
        best: the epoch whose weights are in `model_folder`: best `stop_metric`, the latest of equals.
        kept: the `keep_best` best epochs, best first; none if only one is kept, which is `best`.
        resumed_from_epoch: finished epochs that the finishing call started from; None if it started fresh.
        stopped_early: patience ran out before the last epoch.
        resolved: what training really used: optimizer, learning rate, batch, augmentation, versions.
        reused: this call trained nothing, the job was finished already.
    """

    job_id: str
    model_folder: Path
    files: Mapping[str, str]
    weights_sha256: str
    epochs: list[EpochReport]
    best: EpochReport
    resumed_from_epoch: int | None
    stopped_early: bool
    resolved: Mapping[str, Any]
    kept: Sequence[KeptModel] = ()
    reused: bool = False

    def to_json(self) -> dict[str, Any]:
        """Without `model_folder`, `files`, `kept` and `reused`, which depend on where and how it is read back."""
        return {
            "job_id": self.job_id,
            "weights_sha256": self.weights_sha256,
            "epochs": [report.to_json() for report in self.epochs],
            "best_epoch": self.best.epoch,
            "resumed_from_epoch": self.resumed_from_epoch,
            "stopped_early": self.stopped_early,
            "resolved": dict(self.resolved),
        }

    @classmethod
    def from_json(
        cls, data: Mapping[str, Any], model_folder: Path, files: Mapping[str, str]
    ) -> "TrainingResult":
        reports = [EpochReport.from_json(report) for report in data["epochs"]]
        return cls(
            job_id=data["job_id"],
            model_folder=model_folder,
            files=files,
            weights_sha256=data["weights_sha256"],
            epochs=reports,
            best=reports[data["best_epoch"] - 1],
            resumed_from_epoch=data["resumed_from_epoch"],
            stopped_early=data["stopped_early"],
            resolved=data["resolved"],
            reused=True,
        )
