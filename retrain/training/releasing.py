"""Makes the result of a trained job, proves it, and reads it again."""

import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import lightning
import torch

from retrain.detector import Detector, StoredModel
from retrain.errors import BadInput, NotFound, PostConditionFailed
from retrain.training.best_models import BestModels
from retrain.training.data import DetectionData
from retrain.training.export.bundle import bundle
from retrain.training.job import TrainingJob
from retrain.training.job_files import RESOLVED, RESULT, plain
from retrain.training.model import build_model
from retrain.training.pictures import draw_curves, draw_epochs, draw_samples
from retrain.training.result import EpochReport, KeptModel, TrainingResult
from retrain.training.ultralytics_parts import ULTRALYTICS_VERSION
from retrain.training.validation import Validation
from retrain.training.weights import write_model_folder

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Releasing:
    """Writes what a job made.

    Attributes:
        device: that scores the model again.
        keep_best: how many of the best epochs keep their weights.
        export: formats beside its own that the model is written in.
        pictures: draw how the training went and what the model sees.
    """

    device: str
    keep_best: int
    export: tuple[str, ...]
    pictures: bool

    def finished(self, job: TrainingJob) -> TrainingResult | None:
        """The result of a finished job; None where there is none, or its model is damaged and has to be made again."""
        stored = job.read(RESULT)
        if stored is None:
            return None
        try:
            StoredModel.read(job.model_folder)
        except (NotFound, BadInput):
            # Training is repeatable.
            shutil.rmtree(job.folder)
            return None
        result = TrainingResult.from_json(stored, job.model_folder, bundle(job.model_folder, self.export))
        return replace(result, kept=self._kept(job, len(result.epochs)))

    def release(
        self,
        job: TrainingJob,
        state: Mapping[str, Any],
        dataset: Mapping[str, str] | None,
        resumed_from: int | None,
        processes: int,
    ) -> TrainingResult:
        """Write the model of the best epoch and the result, once the model scored again what it scored in training.

        Args:
            state: of the last checkpoint.
            dataset: the version that was asked for.
            resumed_from: finished epochs that this call started from.
            processes: that trained it.

        Raises:
            PostConditionFailed: the stored model is not the trained one.
            StorageFull: no space; the checkpoints are still there.
        """
        data = DetectionData(job, self.device, cache=False)
        architecture = build_model(job, data).yaml
        reports = [EpochReport.from_json(report) for report in state["reports"]]
        request = job.request
        best = reports[
            request.stopping.best_epoch([request.stopping.metric_of(report) for report in reports])
        ]
        digest = write_model_folder(
            job.model_folder, StoredModel(architecture, request.classes, request.image_size, state["best"])
        )
        validation = Validation(data, job.folder)
        detector = self._verified(job, validation, best)
        if self.pictures:
            draw_epochs(reports, job.pictures)
            draw_curves(validation.curves(), request.classes, job.pictures)
            draw_samples(detector, data.validation_images, job.pictures)
        resolved = {**_resolved(job, data, self.device), "processes": processes, "dataset": dataset}
        result = TrainingResult(
            job_id=job.id,
            model_folder=job.model_folder,
            files=bundle(job.model_folder, self.export),
            weights_sha256=digest,
            epochs=reports,
            best=best,
            resumed_from_epoch=resumed_from,
            stopped_early=len(reports) < request.epochs,
            resolved=plain(resolved),
            kept=self._kept(job, len(reports)),
        )
        job.write(RESULT, result.to_json())
        return result

    def _kept(self, job: TrainingJob, epochs: int) -> list[KeptModel]:
        if self.keep_best == 1:
            return []
        models = BestModels(job.best_models, self.keep_best, rewindable=0)
        # Those that only going back could have needed.
        models.rewind(epochs)
        kept = models.models()
        if len(kept) < min(self.keep_best, epochs):
            logger.warning(
                "Of training job %s %d of the %d best models are kept.", job.id, len(kept), self.keep_best
            )
        score = job.request.stopping.score
        return [KeptModel(one.epoch, score(one.score), job.best_models / one.file_name) for one in kept]

    def _verified(self, job: TrainingJob, validation: Validation, best: EpochReport) -> Detector:
        """The folder, loaded as serving loads it, is the model that was validated."""
        model = StoredModel.read(job.model_folder).build().to(self.device)
        measured = validation.score(model).map50_95
        # Equal on one machine; GPUs of another kind round differently.
        if abs(measured - best.map50_95) > 1e-3:
            raise PostConditionFailed(
                f"{job.model_folder} scores map50_95 {measured:.4f} on the validation images, but epoch {best.epoch} "
                f"scored {best.map50_95:.4f}; the data or the machine changed since."
            )
        detector = Detector.load(job.model_folder, self.device)
        detector.warm_up()
        return detector


def _resolved(job: TrainingJob, data: DetectionData, device: str) -> dict[str, Any]:
    return {
        **job.request.identity(),
        # What the set-up was found to be.
        **(job.read(RESOLVED) or {}),
        "accumulate": job.accumulate,
        "micro_batches": job.micro_batches(),
        "mixed_precision": job.mixed_precision,
        "device": device,
        "threads": job.threads(),
        "images": data.images,
        "batches": len(data.train),
        "torch": torch.__version__,
        "lightning": lightning.__version__,
        "ultralytics": ULTRALYTICS_VERSION,
    }
