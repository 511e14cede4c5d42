"""Experiment tracking with explicit run ids: nothing depends on MLflow's process-wide current run."""

import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException

from retrain.errors import BadInput, Conflict, PostConditionFailed
from retrain.mlflow_integration.connection import answering, connect, default_tracking_uri, local_folder
from retrain.mlflow_integration.run import Clock, TrackedRun

KEY_TAG = "retrain.key"
_KEY = re.compile(r"[\w.:/@+=-]{1,300}")


class MLflowTracker:
    """Runs of one experiment. Safe to share between threads; each thread has its own current run.

    Args:
        tracking_uri: `sqlite:///<path>` or `http://…`; SQLite under the home folder when not given.
        artifact_location: folder or URI for files of a new experiment; beside the SQLite file, or the server's
            choice, when not given.
    """

    def __init__(
        self,
        tracking_uri: str | None = None,
        experiment_name: str = "retrain",
        artifact_location: str | None = None,
        clock: Clock = time.time,
    ) -> None:
        self.tracking_uri = tracking_uri or default_tracking_uri()
        self.experiment_name = experiment_name
        self._clock = clock
        self._client = connect(self.tracking_uri)
        self._lock = threading.Lock()
        self._this_thread = threading.local()
        with answering(self.tracking_uri):
            self.experiment_id = self._experiment(_location(self.tracking_uri, artifact_location))

    @contextmanager
    def start_run(
        self, run_name: str, key: str | None = None, tags: Mapping[str, str] | None = None
    ) -> Iterator[TrackedRun]:
        """A run that ends with the block: FINISHED, or FAILED when the block raises.

        With `key`, the run of that key is continued (see `run_for`). Inside the block the tracker's own `log_…`
        methods go to this run, in this thread.
        """
        run = self._create(run_name, tags or {}) if key is None else self.run_for(key, run_name, tags)
        self._current_runs().append(run)
        try:
            yield run
        except BaseException as error:
            run.finish("FAILED" if isinstance(error, Exception) else "KILLED")
            raise
        else:
            run.finish()
        finally:
            self._current_runs().pop()

    def run_for(
        self, key: str, run_name: str | None = None, tags: Mapping[str, str] | None = None
    ) -> TrackedRun:
        """The one run of `key`: found, or created when there is none; set to RUNNING either way."""
        if not _KEY.fullmatch(key):
            raise BadInput(f"A run's key is 1 to 300 letters, digits or any of . : / @ + = - _, got {key!r}.")
        with self._lock, answering(self.tracking_uri):
            found = self._ids_of(key)
            created = None if found else self._create(run_name or key, {**(tags or {}), KEY_TAG: key}).id
            # Two processes may have created one each: both keep the older.
            found = self._ids_of(key)
            if not found:
                raise PostConditionFailed(
                    f"MLflow created run {created} but does not find it by its key {key}."
                )
            if created and created != found[0]:
                self._client.delete_run(created)
            if self._client.get_run(found[0]).info.status != "RUNNING":
                self._client.update_run(found[0], status="RUNNING")
        return self.run(found[0], fresh=found[0] == created)

    def run(self, run_id: str, *, fresh: bool = False) -> TrackedRun:
        """A handle on an existing run."""
        return TrackedRun(self._client, self.tracking_uri, run_id, self._clock, fresh=fresh)

    @property
    def current(self) -> TrackedRun:
        """The run of the innermost `start_run` block of this thread."""
        runs = self._current_runs()
        if not runs:
            raise BadInput("No run is open in this thread; log inside `with tracker.start_run(run_name=…):`.")
        return runs[-1]

    def log_params(self, params: Mapping[str, Any]) -> None:
        self.current.log_params(params)

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        self.current.log_metrics(metrics, step)

    def log_artifact(self, path: Path | str, artifact_path: str | None = None) -> str:
        return self.current.log_artifact(path, artifact_path)

    def log_model(self, model_path: Path | str, artifact_path: str = "model") -> str:
        return self.current.log_model(model_path, artifact_path)

    def _experiment(self, artifact_location: str | None) -> str:
        name = self.experiment_name
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            try:
                return str(self._client.create_experiment(name, artifact_location=artifact_location))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                # Another process was faster.
                experiment = self._client.get_experiment_by_name(name)
        if experiment.lifecycle_stage != "active":
            raise Conflict(f"MLflow experiment {name!r} is deleted; restore it or name another.")
        return str(experiment.experiment_id)

    def _create(self, run_name: str, tags: Mapping[str, str]) -> TrackedRun:
        with answering(self.tracking_uri):
            now_ms = int(self._clock() * 1000)
            run = self._client.create_run(
                self.experiment_id, start_time=now_ms, tags=dict(tags), run_name=run_name
            )
        return self.run(run.info.run_id, fresh=True)

    def _ids_of(self, key: str) -> list[str]:
        runs = self._client.search_runs([self.experiment_id], filter_string=f"tags.`{KEY_TAG}` = '{key}'")
        return [
            run.info.run_id for run in sorted(runs, key=lambda run: (run.info.start_time, run.info.run_id))
        ]

    def _current_runs(self) -> list[TrackedRun]:
        if not hasattr(self._this_thread, "runs"):
            self._this_thread.runs = []
        runs: list[TrackedRun] = self._this_thread.runs
        return runs


def _location(tracking_uri: str, artifact_location: str | None) -> str | None:
    """MLflow's own default for SQLite is a folder in the working directory."""
    if artifact_location is not None:
        return (
            artifact_location if "://" in artifact_location else Path(artifact_location).absolute().as_uri()
        )
    folder = local_folder(tracking_uri)
    return None if folder is None else (folder / "artifacts").as_uri()
