"""One MLflow run, addressed by its id; every write is safe to repeat and read back."""

import math
import threading
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param

from retrain.errors import BadInput, Conflict, NotFound, PostConditionFailed
from retrain.mlflow_integration.connection import answering

Clock = Callable[[], float]

_BATCH = 100
"""MLflow's limit for parameters; metrics allow 1000."""
_LONGEST_PARAM = 6000


class TrackedRun:
    """Safe to share between threads.

    A stage that was killed and runs again continues the same run: parameters must be the same, metrics already
    logged with the same value at the same step are not logged twice, artifacts are overwritten.
    """

    def __init__(
        self, client: MlflowClient, tracking_uri: str, run_id: str, clock: Clock, *, fresh: bool
    ) -> None:
        self.id = run_id
        self._client, self._uri, self._clock = client, tracking_uri, clock
        self._fresh = fresh
        self._logged: dict[str, dict[int, float]] = {}
        self._lock = threading.Lock()

    @property
    def status(self) -> str:
        with answering(self._uri):
            return str(self._client.get_run(self.id).info.status)

    @property
    def url(self) -> str | None:
        """Page of the run in the MLflow UI; None without a server."""
        if not self._uri.startswith("http"):
            return None
        with answering(self._uri):
            experiment = self._client.get_run(self.id).info.experiment_id
        return f"{self._uri.rstrip('/')}/#/experiments/{experiment}/runs/{self.id}"

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Record settings, as text.

        Raises:
            Conflict: the run was begun with another value.
        """
        wanted = {name: str(value) for name, value in params.items()}
        if too_long := [name for name, value in wanted.items() if len(value) > _LONGEST_PARAM]:
            raise BadInput(
                f"Parameters {too_long} exceed {_LONGEST_PARAM} characters; log them as an artifact."
            )
        with self._lock, answering(self._uri):
            known = self._client.get_run(self.id).data.params
            for name, value in wanted.items():
                if known.get(name, value) != value:
                    raise Conflict(
                        f"Run {self.id} was begun with {name}={known[name]}, now {value}. "
                        "Changed settings need a run of their own (another key)."
                    )
            missing = iter([Param(name, value) for name, value in wanted.items() if name not in known])
            while part := list(islice(missing, _BATCH)):
                self._client.log_batch(self.id, params=part)
            stored = self._client.get_run(self.id).data.params
        _require(all(stored.get(name) == value for name, value in wanted.items()), self.id, "parameters")

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Record all values of one step (an epoch) in one call."""
        if not all(
            isinstance(value, (int, float)) or hasattr(value, "__float__") for value in metrics.values()
        ):
            raise BadInput(f"Metrics must be numbers, got {dict(metrics)}.")
        with self._lock, answering(self._uri):
            new = {name: float(value) for name, value in metrics.items()}
            new = {
                name: value for name, value in new.items() if not _same(self._history(name).get(step), value)
            }
            now_ms = int(self._clock() * 1000)
            items = iter([Metric(name, value, now_ms, step) for name, value in new.items()])
            while part := list(islice(items, _BATCH)):
                self._client.log_batch(self.id, metrics=part)
            stored = self._client.get_run(self.id).data.metrics
            _require(all(name in stored for name in metrics), self.id, "metrics")
            for name, value in new.items():
                self._history(name)[step] = value

    def set_tags(self, tags: Mapping[str, str]) -> None:
        with answering(self._uri):
            for name, value in tags.items():
                self._client.set_tag(self.id, name, value)
            stored = self._client.get_run(self.id).data.tags
        _require(all(stored.get(name) == value for name, value in tags.items()), self.id, "tags")

    def log_dataset(self, name: str, digest: str, source: str, context: str = "training") -> None:
        """Tie the run to a dataset version (lineage).

        Args:
            digest: at most 36 characters reach MLflow's own field, so the whole is kept in the tag
                `retrain.dataset.<context>` as well.
        """
        dataset = Dataset(name=name, digest=digest[:36], source_type="dvc", source=source)
        tagged = DatasetInput(dataset, tags=[InputTag("mlflow.data.context", context)])
        with answering(self._uri):
            self._client.log_inputs(self.id, datasets=[tagged])
        self.set_tags({f"retrain.dataset.{context}": digest})

    def log_artifact(self, path: Path | str, artifact_path: str | None = None) -> str:
        """Store a file, or a folder's content, under `artifact_path`; returns its `runs:/` address.

        Raises:
            NotFound: nothing at `path`.
        """
        local = Path(path)
        if not local.exists():
            raise NotFound(f"There is no file or folder {local} to log.")
        with answering(self._uri):
            if local.is_dir():
                self._client.log_artifacts(self.id, str(local), artifact_path)
                files = {
                    file.relative_to(local).as_posix(): file for file in local.rglob("*") if file.is_file()
                }
            else:
                self._client.log_artifact(self.id, str(local), artifact_path)
                files = {local.name: local}
            stored = self._sizes(artifact_path or "")
        prefix = f"{artifact_path}/" if artifact_path else ""
        arrived = all(stored.get(prefix + name) == file.stat().st_size for name, file in files.items())
        _require(arrived, self.id, f"files of {local}")
        inside = prefix.rstrip("/") if local.is_dir() or prefix else local.name
        return f"runs:/{self.id}/{inside}".rstrip("/")

    def has_file(self, path: str) -> bool:
        """Whether a file is stored under this path."""
        folder = path.rpartition("/")[0]
        with answering(self._uri):
            stored = self._client.list_artifacts(self.id, folder or None)
            return any(entry.path == path and not entry.is_dir for entry in stored)

    def log_model(self, model_path: Path | str, artifact_path: str = "model") -> str:
        """Store a weights file or model folder; the address returned is what a registry version points to."""
        return self.log_artifact(model_path, artifact_path)

    def finish(self, status: str = "FINISHED") -> None:
        """Close the run: FINISHED, FAILED or KILLED."""
        with answering(self._uri):
            self._client.set_terminated(self.id, status, end_time=int(self._clock() * 1000))
        _require(self.status == status, self.id, f"status {status}")

    def _history(self, name: str) -> dict[int, float]:
        """Last value of each step, as far as this metric was logged (by an earlier process, too)."""
        if name not in self._logged:
            past = [] if self._fresh else self._client.get_metric_history(self.id, name)
            past = sorted(past, key=lambda metric: metric.timestamp)
            self._logged[name] = {int(metric.step): float(metric.value) for metric in past}
        return self._logged[name]

    def _sizes(self, folder: str) -> dict[str, int]:
        found: dict[str, int] = {}
        for entry in self._client.list_artifacts(self.id, folder or None):
            found |= self._sizes(entry.path) if entry.is_dir else {entry.path: int(entry.file_size)}
        return found


def _same(known: float | None, value: float) -> bool:
    return known is not None and (known == value or (math.isnan(known) and math.isnan(value)))


def _require(arrived: bool, run_id: str, what: str) -> None:
    if not arrived:
        raise PostConditionFailed(
            f"MLflow accepted the {what} of run {run_id}, but reading back does not show them."
        )
