"""Where a training starts from: a model folder, an Ultralytics `.pt` file, or official weights by name.

A `.pt` is a pickle, which may run code. It is converted in a process of its own, with Ultralytics' list of allowed
types (which stays in force for the rest of a process), into a model folder; only that is read here.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from filelock import FileLock

from retrain import environment
from retrain.detector import StoredModel
from retrain.errors import BadInput, NotFound, Unavailable
from retrain.storage import files
from retrain.training.architecture import DETECTORS, nearest

_CONVERT_LIMIT_S, _DOWNLOAD_LIMIT_S = 600, 3600


def weights_folder() -> Path:
    """Where official weights are looked for and kept."""
    return environment.home() / "cache" / "weights"


def located(source: Path | str) -> Path:
    """The folder or file that `source` means; official weights are downloaded when they are not here yet.

    Raises:
        NotFound: no such folder or file, or no official weights of that name.
        Unavailable: official weights are not here and cannot be downloaded.
    """
    if isinstance(source, Path):
        if source.exists():
            return source
        raise NotFound(
            f"initial_weights is {source}, which does not exist; give a model folder, a .pt file or "
            f"the name of official weights such as 'yolov8n'."
        )
    if source not in DETECTORS:
        raise NotFound(f"There are no official weights {source!r}; {nearest(source)}.")
    here = weights_folder() / f"{source}.pt"
    if here.is_file():
        return here
    environment.writable(here.parent)
    with FileLock(here.with_suffix(".lock")):
        if not here.is_file():
            _download(here)
    return here


def model_folder(source: Path | str) -> Path:
    """A model folder with the weights that `source` means; a `.pt` file is converted once for each content.

    Raises:
        NotFound, Unavailable: as `located`.
        BadInput: the `.pt` file is damaged, holds no detector, or needs code to be read.
        StorageFull: no space for the converted model.
    """
    found = located(source)
    if found.is_dir():
        return found
    if found.suffix != ".pt":
        raise BadInput(f"initial_weights is {found}; a file of weights must be an Ultralytics .pt.")
    return converted(found, "as initial_weights")


def converted(file: Path, use: str) -> Path:
    """A model folder with the weights of an Ultralytics `.pt` file, made once for each content.

    Args:
        use: for the message, what the file cannot be used as.

    Raises:
        BadInput, StorageFull: as `model_folder`.
    """
    cache = environment.writable(environment.home() / "cache" / "converted")
    # Under a name of our own: Ultralytics reads some names as others, and what is digested must be what is read.
    with tempfile.TemporaryDirectory(dir=cache) as scratch, files.disk_errors(cache):
        copy = Path(scratch) / "source.pt"
        shutil.copyfile(file, copy)
        with copy.open("rb") as content:
            folder = cache / hashlib.file_digest(content, "sha256").hexdigest()
        with FileLock(folder.with_suffix(".lock")):
            if not _is_model(folder):
                _convert(copy, folder, f"{file} cannot be used {use}")
    return folder


def _is_model(folder: Path) -> bool:
    try:
        StoredModel.read(folder)
    except (NotFound, BadInput):
        return False
    return True


def _convert(copy: Path, folder: Path, problem: str) -> None:
    code, said = _run("pt_reader", [str(copy), str(folder)], {"ULTRALYTICS_SAFE_LOAD": "1"}, _CONVERT_LIMIT_S)
    if code != 0:
        raise BadInput(f"{problem}: {said}")


def _download(target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        # The one exception from staying offline, for a process that does nothing else.
        online = {"YOLO_OFFLINE": "false"}
        code, said = _run("weights_download", [target.name, scratch], online, _DOWNLOAD_LIMIT_S)
        if code != 0:
            raise Unavailable(
                f"Official weights {target.name} are not in {target.parent} and cannot be downloaded ({said}). "
                f"Put the file there, or give initial_weights as a file."
            )
        (Path(scratch) / target.name).replace(target)


def _run(module: str, arguments: list[str], extra: Mapping[str, str], limit_s: float) -> tuple[int, str]:
    """Exit status of one of the two programs beside this module, and the reason it gave."""
    environment.prepare()
    command = [sys.executable, "-m", f"retrain.training.{module}", *arguments]
    try:
        done = subprocess.run(
            command,
            env={**os.environ, **extra},
            cwd=Path(arguments[-1]).parent,
            capture_output=True,
            text=True,
            timeout=limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return 1, f"no end after {limit_s:.0f} s"
    lines = done.stdout.strip().splitlines()
    try:
        return done.returncode, str(json.loads(lines[-1])["error"]) if done.returncode else ""
    except (IndexError, ValueError, KeyError, TypeError):
        return done.returncode, (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
