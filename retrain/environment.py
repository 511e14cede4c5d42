"""Where Retrain writes, and the switches that keep every library offline, silent and out of HOME."""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import retrain
from retrain.errors import ConfigError, StorageFull, Unavailable

# What launchers tell a process of its place among others.
_LAUNCHERS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "TORCHELASTIC_", "SLURM_")


def home() -> Path:
    """The one folder Retrain writes to.

    `RETRAIN_HOME` when set; else `.retrain` in the checkout the package runs from; else `.retrain` in the
    working directory.
    """
    if configured := os.environ.get("RETRAIN_HOME"):
        return expanded(configured).absolute()
    checkout = Path(retrain.__file__).resolve().parents[1]
    base = checkout if (checkout / "pyproject.toml").exists() else Path.cwd()
    return base / ".retrain"


def expanded(path: str) -> Path:
    """The path with `~` replaced by the user's folder.

    Raises:
        ConfigError: nobody knows that folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"Whose home folder {path} means is not known; write the whole path.") from error


def switches(folder: Path) -> dict[str, str]:
    """Environment variables every Retrain process runs with, given its home.

    Telemetry, update checks and hidden downloads are off, and caches that libraries would put in the user's
    HOME go under `folder`, so that a read-only HOME and a machine without network both work.
    """
    cache = folder / "cache"
    return {
        # OpenMP reads it when torch is imported. Spinning threads on a busy machine made training 250 times slower.
        "OMP_WAIT_POLICY": "PASSIVE",
        "YOLO_OFFLINE": "true",
        "YOLO_AUTOINSTALL": "false",
        "YOLO_VERBOSE": "false",
        "YOLO_CONFIG_DIR": str(cache / "ultralytics"),
        "MPLCONFIGDIR": str(cache / "matplotlib"),
        "TORCH_HOME": str(cache / "torch"),
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "torchinductor"),
        # Timing kernels to choose among them would give a resumed training other bits.
        "TORCHINDUCTOR_DETERMINISTIC": "1",
        "XDG_CACHE_HOME": str(cache / "xdg"),
        # ONNX Runtime reports its use over the network, from native code, as soon as it is imported.
        "ORT_DISABLE_TELEMETRY": "1",
        "DVC_NO_ANALYTICS": "1",
        "DVC_SITE_CACHE_DIR": str(cache / "dvc-site"),
        "DVC_GLOBAL_CONFIG_DIR": str(cache / "dvc-global"),
        "DVC_SYSTEM_CONFIG_DIR": str(cache / "dvc-system"),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_EXTRA_LOGGERS": "",
        # The server that a flow without a stack brings itself; 20 s, its default, is too short on a busy machine.
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    }


def prepare(folder: Path | None = None) -> Path:
    """Apply `switches` to this process (what the user set already wins) and return the home folder."""
    folder = folder or home()
    for name, value in switches(folder).items():
        os.environ.setdefault(name, value)
    return folder


def unlaunched() -> dict[str, str]:
    """The environment without what a launcher such as torchrun says of this process's place among others."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_LAUNCHERS)}


@contextmanager
def launcher_hidden() -> Iterator[None]:
    """For importing Ultralytics, which reads its rank then and would take the other processes for its own workers."""
    everything = dict(os.environ)
    hidden = everything.keys() - unlaunched().keys()
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update({name: everything[name] for name in hidden})


def writable(folder: Path) -> Path:
    """The home folder, made if it is not there, once a write to it succeeded.

    Raises:
        Unavailable: nothing can be written there.
        StorageFull: no space left.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Permission bits do not tell: a read-only file system and root's exceptions are known only by trying.
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise StorageFull(f"No space left in the home folder {folder}; free some and retry.") from error
        raise Unavailable(
            f"Cannot write to the home folder {folder}: {error.strerror}. Set RETRAIN_HOME to one you may write to."
        ) from error
