"""What a training leaves where people look: an MLflow run, a Prefect progress bar and a table of epochs."""

from collections.abc import Mapping
from typing import Any

from prefect.artifacts import create_progress_artifact, create_table_artifact, update_progress_artifact

from retrain.mlflow_integration.metric_names import metric_name
from retrain.mlflow_integration.run import TrackedRun
from retrain.training.result import EpochReport, TrainingResult

# No other training when they change.
_UNIMPORTANT = frozenset({"train_data", "val_data", "initial_weights", "threads", "workers", "cache"})


class TrackedTraining:
    """One training, whatever asked for it and however many processes it has; may be killed and begun again.

    Args:
        run: of this training alone.
        what: it is, in words.
        settings: of the request.
    """

    def __init__(self, run: TrackedRun, what: str, settings: Mapping[str, Any]) -> None:
        self._run = run
        run.log_params({key: value for key, value in settings.items() if key not in _UNIMPORTANT})
        self._artifact = create_progress_artifact(progress=0.0, description=what)

    def epoch(self, report: EpochReport) -> None:
        """Record a finished epoch; again changes nothing."""
        metrics = {f"train/{name}": value for name, value in report.losses.items()}
        metrics |= {
            f"val/{name}": getattr(report, name) for name in ("map50", "map50_95", "precision", "recall")
        }
        metrics |= {
            metric_name("val", "slice", *name.split("/", 1), "map50"): score["map50"]
            for name, score in report.slices.items()
        }
        metrics |= {"lr": report.lr, "epoch_seconds": report.seconds, "images_per_s": report.images_per_s}
        metrics |= {"batch_seconds": report.batch_seconds}
        metrics |= {f"system/{name}": value for name, value in report.usage.items()}
        self._run.log_metrics(metrics, step=report.epoch)
        update_progress_artifact(self._artifact, progress=100.0 * report.epoch / report.epochs)  # type: ignore[arg-type]

    def finish(self, result: TrainingResult) -> str:
        """Record what came of it and close the run; returns the address of the stored model."""
        rows = [
            {
                "epoch": report.epoch,
                "mAP50": round(report.map50, 4),
                "mAP50-95": round(report.map50_95, 4),
                "s": round(report.seconds, 1),
                "worse than at the start": ", ".join(one.name for one in report.regressions),
            }
            for report in result.epochs
        ]
        create_table_artifact(
            key="training-epochs",
            table=rows,
            description=f"Validation scores of job {result.job_id}, best epoch {result.best.epoch}.",
        )
        # A second set beside what was asked for, so that a difference would be seen.
        self._run.log_params({f"resolved/{key}": value for key, value in result.resolved.items()})
        if (pictures := result.model_folder.parent / "pictures").is_dir():
            self._run.log_artifact(pictures, "pictures")
        model_uri = self._run.log_model(result.model_folder)
        self._run.finish()
        return model_uri
