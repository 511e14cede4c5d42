"""Trains a release candidate, once per cycle, with progress for Prefect, MLflow and whoever watches."""

import time
from collections.abc import Mapping
from typing import Any

from prefect import task
from prefect.artifacts import create_progress_artifact, create_table_artifact, update_progress_artifact

from retrain.config import RetrainConfig
from retrain.mlflow_integration.run import TrackedRun
from retrain.training.result import EpochReport, TrainingResult
from tasks.cycle import CycleWork
from tasks.retrying import RETRYING


@task(name="train", task_run_name="train on {version[name]}", timeout_seconds=7 * 24 * 3600, **RETRYING)
def train(
    work: CycleWork, version: Mapping[str, Any], layout: Mapping[str, Any], initial_release: str | None
) -> Mapping[str, Any]:
    """A model folder trained on what was laid out; a killed training resumes from its last epoch."""

    def run() -> dict[str, Any]:
        from retrain.training.orchestrator import TrainingOrchestrator

        resources, settings = work.resources, work.resources.config.training
        orchestrator = TrainingOrchestrator(
            resources.home / "jobs",
            num_gpus=settings.num_gpus,
            mixed_precision=settings.mixed_precision,
            gradient_accumulation=settings.gradient_accumulation,
            supervised=settings.supervised,
            stall_s=settings.stall_s,
        )
        request = _request(work, layout, initial_release)
        run = resources.tracker.run_for(f"{work.cycle.id}/train", f"{work.cycle.id} on {version['name']}")
        run.log_params(_loggable(request))
        run.log_dataset(version["name"], version["digest"], str(resources.datasets_path))
        result = orchestrator.train(request, on_epoch=_Progress(work, run))
        return _record(work, result, run)

    inputs = {"version": version["name"], "digest": version["digest"], "initial_release": initial_release}
    return work.cycle.stage("train", inputs, run)


def _request(work: CycleWork, layout: Mapping[str, Any], initial_release: str | None) -> dict[str, Any]:
    config = work.resources.config
    settings = config.training
    start = initial_release if settings.warm_start else None
    fresh = start is None
    home = work.resources.home
    return {
        "model": settings.model,
        "classes": list(config.model.classes),
        "train_data": [str(home / place) for place in layout["train"]],
        "val_data": str(home / layout["val"]),
        "epochs": settings.epochs if fresh else settings.fine_tune_epochs,
        "learning_rate": settings.learning_rate if fresh else settings.fine_tune_learning_rate,
        "batch_size": settings.batch_size,
        "sync_batchnorm": settings.sync_batchnorm,
        "optimizer": settings.optimizer,
        "scheduler": settings.scheduler,
        "image_size": settings.image_size,
        "patience": settings.patience if settings.early_stopping else None,
        "sampling": "balanced" if config.dataset.balance_classes else "uniform",
        **_augmentation(config),
        "seed": settings.seed,
        "initial_weights": None if start is None else str(work.resources.releases.fetch(start)),
    }


def _augmentation(config: RetrainConfig) -> dict[str, Any]:
    from retrain.training.request import AUGMENTATIONS

    if not config.dataset.augmentation:
        return {"augment": dict.fromkeys(AUGMENTATIONS, 0.0), "augmentation_pipeline": []}
    return {
        "augment": {"mosaic": config.training.mosaic, "fliplr": config.training.flip},
        "augmentation_pipeline": list(config.dataset.augmentation_pipeline),
    }


class _Progress:
    """Writes each epoch where it is looked for: the journal, MLflow and a Prefect progress artifact."""

    def __init__(self, work: CycleWork, run: TrackedRun) -> None:
        self._work, self._run = work, run
        self._artifact = create_progress_artifact(progress=0.0, description=f"training for {work.cycle.id}")

    def __call__(self, report: EpochReport) -> None:
        resources, cycle = self._work.resources, self._work.cycle
        # Only the end of the stage is fenced; without this a training that lost its lease would go on for hours.
        cycle.require_ours()
        now = time.time()
        resources.progress(cycle.id).append(f"epoch-{report.epoch}", "epoch", report.to_json(), now)
        metrics = {f"train/{name}": value for name, value in report.losses.items()}
        metrics |= {"val/map50": report.map50, "val/map50_95": report.map50_95, "lr": report.lr}
        metrics |= {"epoch_seconds": report.seconds, "images_per_s": report.images_per_s}
        self._run.log_metrics(metrics, step=report.epoch)
        update_progress_artifact(self._artifact, progress=100.0 * report.epoch / report.epochs)  # type: ignore[arg-type]


def _record(work: CycleWork, result: TrainingResult, run: TrackedRun) -> dict[str, Any]:
    create_table_artifact(
        key="training-epochs",
        table=[
            {
                "epoch": r.epoch,
                "mAP50": round(r.map50, 4),
                "mAP50-95": round(r.map50_95, 4),
                "s": round(r.seconds, 1),
            }
            for r in result.epochs
        ],
        description=f"Validation scores of job {result.job_id}, best epoch {result.best.epoch}.",
    )
    model_uri = run.log_model(result.model_folder)
    run.finish()
    return {
        "job_id": result.job_id,
        "model_folder": str(result.model_folder.relative_to(work.resources.home)),
        "weights_sha256": result.weights_sha256,
        "run_id": run.id,
        "model_uri": model_uri,
        "epochs": [report.to_json() for report in result.epochs],
        "best_epoch": result.best.epoch,
        "train_images": result.resolved["images"],
    }


def _loggable(request: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without places, which are no other training when they change."""
    places = {"train_data", "val_data", "initial_weights"}
    return {key: value for key, value in request.items() if key not in places}
