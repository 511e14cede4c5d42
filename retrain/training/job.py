"""One training job: what it is (a key made of the request and the data) and where its files are."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from blake3 import blake3

from retrain.detector import DESCRIPTION, WEIGHTS
from retrain.errors import ConfigError, NotFound
from retrain.storage import files
from retrain.storage.digests import content_digest
from retrain.training.request import TrainingRequest

# Raise it when the same request would train to other weights than before; finished jobs are then not reused.
RECIPE = 1


@dataclass(frozen=True)
class TrainingJob:
    """A request bound to its data and to a folder under `work_dir`.

    Attributes:
        request: with `data_digest` always set.
        folder: this job's alone; named by the job's id.
        accumulate: batches per optimizer step after the warm-up.
        mixed_precision: bfloat16 where that is safe.
    """

    request: TrainingRequest
    folder: Path
    accumulate: int
    mixed_precision: bool

    @classmethod
    def of(
        cls, request: TrainingRequest, work_dir: Path, gradient_accumulation: int, *, mixed_precision: bool
    ) -> "TrainingJob":
        """Work out the id.

        Raises:
            ConfigError: `gradient_accumulation` and `nominal_batch` contradict each other.
            NotFound: a data folder or the initial weights are missing.
        """
        accumulate = _accumulate(request, gradient_accumulation)
        bound = replace(request, data_digest=request.data_digest or data_digest(request))
        identity = {
            **bound.identity(),
            "recipe": RECIPE,
            "accumulate": accumulate,
            "mixed_precision": mixed_precision,
            "initial_weights": _model_digest(request.initial_weights),
        }
        key = hashlib.blake2b(json.dumps(identity, sort_keys=True).encode(), digest_size=16).hexdigest()
        return cls(bound, work_dir / key, accumulate, mixed_precision)

    @property
    def id(self) -> str:
        return self.folder.name

    @property
    def model_folder(self) -> Path:
        return self.folder / "model"

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def lock(self) -> Path:
        """Beside the folder, so that the folder can be removed while it is held."""
        return self.folder.with_suffix(".lock")

    def read(self, name: str) -> dict[str, Any] | None:
        """A JSON file of this job, or `None` when it was not written yet."""
        path = self.folder / name
        if not path.is_file():
            return None
        content: dict[str, Any] = json.loads(path.read_bytes())
        return content

    def write(self, name: str, content: dict[str, Any]) -> None:
        files.write_whole(self.folder / name, json.dumps(content, indent=1).encode())


def data_digest(request: TrainingRequest) -> str:
    """One digest over names and contents of all images and labels, so that the place they lie in does not matter."""
    digest = blake3()
    for role, folder in [*(("train", folder) for folder in request.train_dirs), ("val", request.val_dir)]:
        for path in _files(folder):
            content = content_digest(path.read_bytes())
            digest.update(f"{role}/{path.parent.name}/{path.name}\0{content}\n".encode())
    return digest.hexdigest()


def _files(folder: Path) -> Iterator[Path]:
    for part in ("images", "labels"):
        if not (folder / part).is_dir():
            raise NotFound(f"{folder / part} does not exist; a data folder holds images/ and labels/.")
        yield from sorted(path for path in (folder / part).iterdir() if path.is_file())


def _model_digest(folder: Path | None) -> str | None:
    """Content, not place, names the weights to start from."""
    if folder is None:
        return None
    digest = blake3()
    for name in (WEIGHTS, DESCRIPTION):
        path = folder / name
        if not path.is_file():
            raise NotFound(
                f"initial_weights is {folder}, which has no {name}; give a model folder or leave it out."
            )
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _accumulate(request: TrainingRequest, gradient_accumulation: int) -> int:
    if request.nominal_batch is None:
        return gradient_accumulation
    accumulate = max(round(request.nominal_batch / request.batch_size), 1)
    if gradient_accumulation not in {1, accumulate}:
        raise ConfigError(
            f"gradient_accumulation is {gradient_accumulation}, but nominal_batch {request.nominal_batch} and "
            f"batch_size {request.batch_size} mean {accumulate}; leave one of them out."
        )
    return accumulate
