"""One training job: what it is (a key made of the request and the data) and where its files are."""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from blake3 import blake3

from retrain.detector import DESCRIPTION, WEIGHTS
from retrain.errors import ConfigError, NotFound
from retrain.storage import files
from retrain.storage.digests import content_digest, file_digest
from retrain.storage.selections import read_selection_file
from retrain.training.initial_weights import located
from retrain.training.job_files import CANCELLED, JOB, SPLIT, lock_of, read_json
from retrain.training.precision import precision_of
from retrain.training.request import TrainingRequest

# Raise it when the same request would train to other weights than before; finished jobs are then not reused.
RECIPE = 2


@dataclass(frozen=True)
class TrainingJob:
    """A request bound to its data and to a folder under `work_dir`.

    Attributes:
        request: with `data_digest` always set.
        folder: this job's alone; named by the job's id.
        accumulate: batches per optimizer step after the warm-up.
        mixed_precision: whether and which, see `precision_of`.
    """

    request: TrainingRequest
    folder: Path
    accumulate: int
    mixed_precision: bool | str

    @classmethod
    def of(
        cls,
        request: TrainingRequest,
        work_dir: Path,
        gradient_accumulation: int,
        *,
        mixed_precision: bool | str,
    ) -> "TrainingJob":
        """Work out the id.

        Raises:
            ConfigError: `gradient_accumulation` and `nominal_batch` contradict each other.
            NotFound: data or the initial weights are missing.
            BadInput: a selection file is damaged.
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
        if request.sampling == "balanced":
            identity["sampling_weights"] = _sampling_digest(request)
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
    def best_models(self) -> Path:
        return self.folder / "best"

    @property
    def pictures(self) -> Path:
        return self.folder / "pictures"

    @property
    def lock(self) -> Path:
        """Beside the folder, so that the folder can be removed while it is held."""
        return lock_of(self.folder)

    @property
    def cancel_mark(self) -> Path:
        """There when somebody asked to stop the job."""
        return self.folder / CANCELLED

    def read(self, name: str) -> Any:
        """A JSON file of this job, or `None` when it was not written yet."""
        return read_json(self.folder / name)

    def threads(self, begun_with: int | None = None) -> int:
        """CPU threads; fixed when the job starts, because the order of sums, and so the weights, depends on them.

        Args:
            begun_with: what the checkpoint to go on from was trained with, perhaps on another machine.
        """
        stored = self.read(JOB)
        if stored is None or begun_with not in {None, stored["threads"]}:
            kept = stored or self.request.identity()
            stored = {**kept, "threads": begun_with or self.threads_planned()}
            self.write(JOB, stored)
        threads: int = stored["threads"]
        return threads

    def threads_planned(self) -> int:
        """What `threads` would be, without starting the job."""
        stored = self.read(JOB)
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        threads: int = stored["threads"] if stored else self.request.threads or cores
        return threads

    def precision(self, device: str, begun_with: str | None = None) -> str:
        """`fp32`, `bf16` or `fp16`; fixed when the job starts, because a checkpoint's gradients depend on it.

        Args:
            begun_with: what the checkpoint to go on from was trained with, perhaps on another machine.

        Raises:
            ConfigError: the job was begun in fp16 on a GPU, and this is the CPU.
        """
        self.threads()
        stored = self.read(JOB)
        if "precision" not in stored or begun_with not in {None, stored["precision"]}:
            stored["precision"] = begun_with or precision_of(self.mixed_precision, device)
            self.write(JOB, stored)
        precision: str = stored["precision"]
        if precision == "fp16" and device == "cpu":
            raise ConfigError(f"Training job {self.id} was begun in fp16, which needs a GPU; go on with one.")
        return precision

    def micro_batches(self) -> int:
        """Parts that batches are trained on in; more than one after memory ran out."""
        stored = self.read(SPLIT)
        return 1 if stored is None else int(stored["micro_batches"])

    def split(self, micro_batches: int) -> None:
        self.write(SPLIT, {"micro_batches": micro_batches})

    def write(self, name: str, content: Any) -> None:
        files.write_whole(self.folder / name, json.dumps(content, indent=1).encode())


def data_digest(request: TrainingRequest) -> str:
    """One digest over names and contents of all images and labels.

    It does not matter where they are: a selection of packs has the digest of a folder of the same images.
    """
    digest = blake3()
    for role, place in [*(("train", place) for place in request.train_data), ("val", request.val_data)]:
        for name, content in _selected(place) if place.is_file() else _files(place):
            digest.update(f"{role}/{name}\0{content}\n".encode())
    return digest.hexdigest()


def _files(folder: Path) -> Iterator[tuple[str, str]]:
    """Name (with its folder's) and content digest of each file."""
    for part in ("images", "labels"):
        if not (folder / part).is_dir():
            raise NotFound(f"{folder / part} does not exist; a data folder holds images/ and labels/.")
        for path in sorted(path for path in (folder / part).iterdir() if path.is_file()):
            yield f"{part}/{path.name}", content_digest(path.read_bytes())


def _selected(selection: Path) -> Iterator[tuple[str, str]]:
    """What `_files` would give for a folder of the selected images; every read of one is checked against its name."""
    images = read_selection_file(selection).images
    yield from ((f"images/{image.name}", image.digest) for image in images)
    yield from ((f"labels/{image.digest}.txt", content_digest(image.labels.encode())) for image in images)


def _sampling_digest(request: TrainingRequest) -> str:
    # A digest of the data that somebody else worked out says nothing of weights.
    digest = blake3()
    for selection in filter(Path.is_file, request.train_data):
        for image in read_selection_file(selection).images:
            digest.update(f"{image.name} {image.weight!r}\n".encode())
    return digest.hexdigest()


def _model_digest(source: Path | str | None) -> str | None:
    """Content, not place, names the weights to start from."""
    if source is None:
        return None
    found = located(source)
    if found.is_file():
        return file_digest(found)
    digest = blake3()
    for name in (WEIGHTS, DESCRIPTION):
        path = found / name
        if not path.is_file():
            raise NotFound(
                f"initial_weights is {found}, which has no {name}; give a model folder, a .pt file or leave it out."
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
