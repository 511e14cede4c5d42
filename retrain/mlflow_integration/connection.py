"""One way to reach MLflow: explicit address, quick to fail, errors in our words."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import httpx
import requests
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from retrain.environment import home
from retrain.errors import BadInput, ConfigError, NotFound, RetrainError, StorageFull, Unavailable

_PROBE_TIMEOUT_S = 3.0
# MLflow's own defaults (7 retries with growing pauses, 120 s each) keep a caller waiting for minutes.
_IMPATIENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}
_SQLITE = "sqlite:///"


def default_tracking_uri() -> str:
    """SQLite under the home folder; needs no server."""
    return f"{_SQLITE}{home() / 'mlflow' / 'mlflow.db'}"


def connect(tracking_uri: str) -> MlflowClient:
    """A client for a SQLite file, a database or a server, proven to answer.

    Raises:
        ConfigError: a folder, which MLflow 3.17 and later refuse.
        Unavailable: it does not answer, or the file's folder cannot be made.
    """
    for name, value in _IMPATIENT.items():
        os.environ.setdefault(name, value)
    scheme = urlsplit(tracking_uri).scheme
    if scheme in {"", "file"}:
        raise ConfigError(
            f"MLflow no longer keeps runs in a folder, got {tracking_uri!r}. Use sqlite:///<path>.db or http://…"
        )
    if scheme in {"http", "https"}:
        _probe(tracking_uri)
    elif (folder := local_folder(tracking_uri)) is not None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Unavailable(f"Cannot create {folder} for MLflow's database: {error.strerror}.") from error
    with answering(tracking_uri):
        return MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)


def local_folder(tracking_uri: str) -> Path | None:
    """The folder of a SQLite store, None for everything else."""
    if not tracking_uri.startswith(_SQLITE):
        return None
    return Path(tracking_uri.removeprefix(_SQLITE)).absolute().parent


@contextmanager
def answering(tracking_uri: str) -> Iterator[None]:
    """Turn what MLflow raises into the project's errors, with the address in the sentence."""
    try:
        yield
    except MlflowException as error:
        raise _translated(error, _shown(tracking_uri)) from error
    except requests.RequestException as error:
        raise Unavailable(
            f"MLflow at {_shown(tracking_uri)} does not answer: {type(error).__name__}."
        ) from error
    except OSError as error:
        if error.errno == errno.ENOSPC and not isinstance(error, RetrainError):
            place = local_folder(tracking_uri) or _shown(tracking_uri)
            raise StorageFull(
                errno.ENOSPC, f"No space left for MLflow in {place}; free some and repeat."
            ) from error
        raise


def _translated(error: MlflowException, place: str) -> RetrainError:
    text = " ".join(str(error).split())[:400]
    if "disk is full" in text:
        return StorageFull(
            errno.ENOSPC, f"No space left for MLflow's database {place}; free some and repeat."
        )
    if error.error_code in {"RESOURCE_DOES_NOT_EXIST", "NOT_FOUND"}:
        return NotFound(f"MLflow at {place}: {text}")
    if error.error_code in {
        "INVALID_PARAMETER_VALUE",
        "RESOURCE_ALREADY_EXISTS",
        "BAD_REQUEST",
        "INVALID_STATE",
    }:
        return BadInput(f"MLflow at {place} refused: {text}")
    return Unavailable(f"MLflow at {place} does not answer as it should; is it running? {text}")


def _probe(tracking_uri: str) -> None:
    try:
        answer = httpx.get(f"{tracking_uri.rstrip('/')}/health", timeout=_PROBE_TIMEOUT_S)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise Unavailable(
            f"MLflow at {_shown(tracking_uri)} does not answer within {_PROBE_TIMEOUT_S:.0f} s "
            f"({type(error).__name__}). Start it, or correct mlflow.tracking_uri."
        ) from error
    if answer.status_code != httpx.codes.OK:
        raise Unavailable(
            f"{_shown(tracking_uri)} answers {answer.status_code} where an MLflow server says it is healthy; "
            "check mlflow.tracking_uri and the server's --allowed-hosts."
        )


def _shown(tracking_uri: str) -> str:
    """The address without a password."""
    parts = urlsplit(tracking_uri)
    return (
        tracking_uri
        if "@" not in parts.netloc
        else urlunsplit(parts._replace(netloc=parts.netloc.split("@")[-1]))
    )
