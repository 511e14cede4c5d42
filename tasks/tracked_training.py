"""What a training leaves where people look: an MLflow run, a Prefect progress bar and a table of epochs."""

import hashlib
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from prefect.artifacts import create_progress_artifact, create_table_artifact, update_progress_artifact

from retrain.errors import Cancelled, Conflict, Unavailable
from retrain.mlflow_integration.metric_names import metric_name
from retrain.mlflow_integration.run import TrackedRun
from retrain.training.result import EpochReport, TrainingResult

# MLflow takes no longer ones.
_LONGEST_PARAM = 6000

logger = logging.getLogger(__name__)


class TrackedTraining:
    """One training, whatever asked for it and however many processes it has; may be killed and begun again.

    Args:
        run: of this training alone.
        what: it is, in words.
        settings: that decide the weights, as `TrainingOrchestrator.settings_of` tells them.
    """

    def __init__(self, run: TrackedRun, what: str, settings: Mapping[str, Any]) -> None:
        self._run = run
        run.log_params({key: _short(value) for key, value in settings.items()})
        self._artifact = create_progress_artifact(progress=0.0, description=what)

    def epoch(self, report: EpochReport) -> None:
        """Record a finished epoch; again changes nothing. A server that is down is a warning: `finish` catches up."""
        try:
            self._log(report)
        except Unavailable as error:
            logger.warning("Epoch %d is recorded when the training is done: %s", report.epoch, error)

    def _log(self, report: EpochReport) -> None:
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
        """Record what came of it and close the run; returns the address of the stored model.

        Raises:
            Unavailable: MLflow or Prefect does not answer; call again.
        """
        for report in result.epochs:
            self._log(report)
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
        self._run.log_params({f"resolved/{key}": _short(value) for key, value in result.resolved.items()})
        if (pictures := result.model_folder.parent / "pictures").is_dir():
            self._run.log_artifact(pictures, "pictures")
        model_uri = self._run.log_model(result.model_folder)
        self._run.finish()
        return model_uri


@contextmanager
def run_closed_on_failure(run: TrackedRun) -> Iterator[None]:
    """A run says how its training ended, also when that was not well."""
    try:
        yield
    except Conflict:
        # Somebody else trains the job, and the run is theirs.
        raise
    except BaseException as error:
        stopped = isinstance(error, Cancelled) or not isinstance(error, Exception)
        try:
            run.finish("KILLED" if stopped else "FAILED")
        except Unavailable as unavailable:
            # The reason is worth more than where it is recorded.
            logger.warning("MLflow does not know that training ended: %s", unavailable)
        raise


def _short(value: Any) -> str:
    """As text; of what MLflow would refuse the beginning, and a digest of the whole."""
    text = str(value)
    if len(text) <= _LONGEST_PARAM:
        return text
    digest = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    return f"{text[: _LONGEST_PARAM - 100]}... (blake2b of the whole: {digest})"
