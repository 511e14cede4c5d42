"""Trains a release candidate, once per cycle, with progress for Prefect, MLflow and whoever watches."""

import time
from collections.abc import Mapping
from typing import Any

from prefect import task

from retrain.config import RetrainConfig
from retrain.training.result import EpochReport, TrainingResult
from tasks.cycle import CycleWork
from tasks.resources import Resources
from tasks.retrying import RETRYING
from tasks.tracked_training import TrackedTraining, run_closed_on_failure


@task(name="train", task_run_name="train on {version[name]}", timeout_seconds=7 * 24 * 3600, **RETRYING)
def train(
    work: CycleWork, version: Mapping[str, Any], layout: Mapping[str, Any], initial_release: str | None
) -> Mapping[str, Any]:
    """A model folder trained on what was laid out; a killed training resumes from its last epoch."""

    def run() -> dict[str, Any]:
        from retrain.training.orchestrator import TrainingOrchestrator

        resources = work.resources
        orchestrator = TrainingOrchestrator(resources.home / "jobs", **execution_settings(resources))
        request = _request(work, layout, initial_release)
        run = resources.tracker.run_for(f"{work.cycle.id}/train", f"{work.cycle.id} on {version['name']}")
        run.log_dataset(version["name"], version["digest"], str(resources.datasets_path))
        tracked = TrackedTraining(run, f"training for {work.cycle.id}", orchestrator.settings_of(request))

        def on_epoch(report: EpochReport) -> None:
            # Only the end of the stage is fenced; without this a training that lost its lease would go on for hours.
            work.cycle.require_ours()
            journal = resources.progress(work.cycle.id)
            journal.append(f"epoch-{report.epoch}", "epoch", report.to_json(), time.time())
            tracked.epoch(report)

        with run_closed_on_failure(run):
            result = orchestrator.train(request, on_epoch, preflight=resources.config.training.preflight)
            return _record(work, result, run.id, tracked.finish(result))

    inputs = {"version": version["name"], "digest": version["digest"], "initial_release": initial_release}
    return work.cycle.stage("train", inputs, run)


def _request(work: CycleWork, layout: Mapping[str, Any], initial_release: str | None) -> dict[str, Any]:
    config = work.resources.config
    start = initial_release if config.training.warm_start else None
    home = work.resources.home
    return {
        **training_settings(config, fresh=start is None),
        "classes": list(config.model.classes),
        "train_data": [str(home / place) for place in layout["train"]],
        "val_data": str(home / layout["val"]),
        "initial_weights": None if start is None else str(work.resources.releases.fetch(start)),
    }


def training_settings(config: RetrainConfig, *, fresh: bool) -> dict[str, Any]:
    """Settings of `TrainingRequest`, its data left out.

    Args:
        fresh: from scratch, instead of from the champion's weights.
    """
    settings = config.training
    return {
        "model": settings.model,
        "epochs": settings.epochs if fresh else settings.fine_tune_epochs,
        "learning_rate": settings.learning_rate if fresh else settings.fine_tune_learning_rate,
        "batch_size": settings.batch_size,
        "sync_batchnorm": settings.sync_batchnorm,
        "channels_last": settings.channels_last,
        "compile": settings.compile,
        "optimizer": settings.optimizer,
        "scheduler": settings.scheduler,
        "image_size": settings.image_size,
        "patience": settings.patience if settings.early_stopping else None,
        "sampling": "balanced" if config.dataset.balance_classes else "uniform",
        **_augmentation(config),
        "seed": settings.seed,
        "workers": settings.workers,
        "cache": settings.cache,
    }


def execution_settings(resources: Resources) -> dict[str, Any]:
    """Settings of `TrainingOrchestrator` that the configuration says."""
    settings = resources.config.training
    names = ("num_gpus", "mixed_precision", "gradient_accumulation", "supervised", "stall_s", "export")
    return {
        **{name: getattr(settings, name) for name in names},
        "checkpoint_mirror": resources.blobs_url if settings.mirror_checkpoints else None,
        "pictures": True,
    }


def _augmentation(config: RetrainConfig) -> dict[str, Any]:
    from retrain.training.request import AUGMENTATIONS

    if not config.dataset.augmentation:
        return {"augment": dict.fromkeys(AUGMENTATIONS, 0.0), "augmentation_pipeline": []}
    return {
        "augment": {"mosaic": config.training.mosaic, "fliplr": config.training.flip},
        "augmentation_pipeline": list(config.dataset.augmentation_pipeline),
    }


def _record(work: CycleWork, result: TrainingResult, run_id: str, model_uri: str) -> dict[str, Any]:
    return {
        "job_id": result.job_id,
        "model_folder": str(result.model_folder.relative_to(work.resources.home)),
        "weights_sha256": result.weights_sha256,
        "run_id": run_id,
        "model_uri": model_uri,
        "epochs": [report.to_json() for report in result.epochs],
        "best_epoch": result.best.epoch,
        "train_images": result.resolved["images"],
    }
