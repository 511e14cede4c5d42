"""A release is what serving loads: an immutable folder named by the digest of its own content.

The digest covers every file's name, sha256 and size, and nothing in the folder depends on when or where it
was built, so building a release twice from the same inputs gives the same name.
"""

import errno
import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from retrain.boxes import Detections
from retrain.errors import BadInput, NotFound, PostConditionFailed, StorageFull
from retrain.storage.blobs import BlobStore

MODEL_FILES = ("model.json", "weights.safetensors")
EXPORTED_FILES = ("model.pt", "model.onnx")
"""The same model for others to read; a release has those that its model folder had."""
RELEASE_FILE = "release.json"
_EXPORTED = "files.json"
_MANIFEST = "manifest.json"
_PREFIX = "releases/"
_FORMAT = 1


@dataclass(frozen=True)
class Lineage:
    """Where a release comes from. Holds no time: a repeated build must give the same digest."""

    dataset_version: str
    dataset_digest: str
    training_job: str
    parent: str | None
    """Digest of the release it replaces as champion; None for the first."""
    created_from: str
    """What asked for it, e.g. the cycle id."""


@dataclass(frozen=True)
class Release:
    """What `release.json` says about a verified folder."""

    digest: str
    folder: Path
    classes: tuple[str, ...]
    thresholds: Mapping[str, float]
    imgsz: int
    lineage: Lineage

    def accepted(self, detections: Detections) -> Detections:
        """Only the boxes that reach the threshold of their own class."""
        limits = np.array([self.thresholds[name] for name in self.classes])
        keep = detections.scores >= limits[detections.classes]
        return Detections(detections.boxes[keep], detections.classes[keep], detections.scores[keep])


@dataclass(frozen=True)
class _File:
    name: str
    sha256: str
    size: int


class ReleaseStore:
    """Releases in a blob store, with verified local copies in a folder."""

    def __init__(self, blobs: BlobStore, cache: Path) -> None:
        self._blobs, self._cache = blobs, cache

    def publish(
        self, model_folder: Path, lineage: Lineage, thresholds: float | Mapping[str, float] = 0.25
    ) -> str:
        """Upload a model folder as a release, read it back, and return its digest.

        The same inputs give the same digest, so a killed publication is simply done again.

        Args:
            model_folder: holds `weights.safetensors` and `model.json` (classes, imgsz); may hold `model.pt` and
                `model.onnx`, and then a `files.json` that tells their sha256.
            thresholds: score a box must reach to count as found: one for all, or one per class name.

        Raises:
            BadInput: the folder is not a model or a file of it is damaged, or the thresholds do not fit its classes.
            PostConditionFailed: the store gave back something else than was uploaded.
        """
        content = {name: _read_model_file(model_folder, name) for name in MODEL_FILES}
        content |= _exported_files(model_folder, content)
        content[RELEASE_FILE] = _canonical(_description(content["model.json"], lineage, thresholds))
        files = [_described(name, data) for name, data in sorted(content.items())]
        digest = _digest(files)
        if self.exists(digest) and self._is_intact(digest):
            return digest
        for name, data in content.items():
            self._blobs.put(_key(digest, name), data)
        # Last: a release exists once its manifest does, and everything the manifest lists is there by then.
        self._blobs.put(_key(digest, _MANIFEST), _canonical([asdict(file) for file in files]))
        if not self._is_intact(digest):
            raise PostConditionFailed(
                f"Release {digest} was uploaded but reads back differently. Publish it again."
            )
        return digest

    def fetch(self, digest: str) -> Path:
        """A verified local folder of the release; a damaged local copy is replaced.

        Raises:
            NotFound: no such release.
            BadInput: the stored release is damaged; the message names the file.
            StorageFull: no space in the cache; nothing half-written is left.
        """
        _check_digest(digest)
        target = self._cache / digest
        with _storage_full_names(self._cache):
            self._cache.mkdir(parents=True, exist_ok=True)
            # One process downloads, the others wait; the lock dies with its holder, so a kill blocks nobody.
            with FileLock(self._cache / f"{digest}.lock"):
                if not _is_verified(target, digest):
                    self._download(digest, target)
        return target

    def open(self, digest: str) -> Release:
        """Fetch and read the release."""
        return read_release(self.fetch(digest))

    def lineage(self, digest: str) -> Lineage:
        """What a release was made from, read from the store without its weights.

        Raises:
            NotFound: no such release.
            BadInput: what it says of itself is damaged.
        """
        _check_digest(digest)
        for file in self._manifest(digest):
            if file.name == RELEASE_FILE:
                return Lineage(**json.loads(self._verified_file(digest, file))["lineage"])
        raise BadInput(f"Release {digest} is damaged: it has no {RELEASE_FILE}.")

    def exists(self, digest: str) -> bool:
        _check_digest(digest)
        return self._blobs.exists(_key(digest, _MANIFEST))

    def digests(self) -> list[str]:
        """Digests of all releases, sorted."""
        names = (key.removeprefix(_PREFIX).split("/") for key in self._blobs.keys(_PREFIX))
        return sorted(parts[0] for parts in names if parts[1:] == [_MANIFEST])

    def _download(self, digest: str, target: Path) -> None:
        partial = self._cache / f"{digest}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            for name, data in self._verified_content(digest):
                # Not synced: every fetch verifies the copy again, so one torn by a power cut is replaced.
                (partial / name).write_bytes(data)
            if target.exists():
                shutil.rmtree(target)
            partial.rename(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _is_intact(self, digest: str) -> bool:
        try:
            return sum(1 for _ in self._verified_content(digest)) > 0
        except (BadInput, NotFound):
            return False

    def _verified_content(self, digest: str) -> Iterator[tuple[str, bytes]]:
        for file in self._manifest(digest):
            yield file.name, self._verified_file(digest, file)

    def _manifest(self, digest: str) -> list[_File]:
        try:
            return _parsed_manifest(self._blobs.get(_key(digest, _MANIFEST)), digest)
        except NotFound as error:
            raise NotFound(f"No release {digest}. The store holds {len(self.digests())} others.") from error

    def _verified_file(self, digest: str, file: _File) -> bytes:
        try:
            data = self._blobs.get(_key(digest, file.name))
        except NotFound as error:
            raise BadInput(f"Release {digest} is damaged: {file.name} is missing from the store.") from error
        if _described(file.name, data) != file:
            raise BadInput(
                f"Release {digest} is damaged: {file.name} has another content than its manifest says "
                f"({len(data)} bytes, {file.size} expected). Publish it again."
            )
        return data


def read_release(folder: Path) -> Release:
    """What the release in a fetched folder says about itself.

    Raises:
        BadInput: `release.json` is missing or unreadable.
    """
    try:
        data = json.loads((folder / RELEASE_FILE).read_bytes())
        return Release(
            digest=folder.name,
            folder=folder,
            classes=tuple(data["classes"]),
            thresholds=data["thresholds"],
            imgsz=data["imgsz"],
            lineage=Lineage(**data["lineage"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(
            f"{folder} is not a release folder: {RELEASE_FILE} cannot be read ({error})."
        ) from error


def _description(model: bytes, lineage: Lineage, thresholds: float | Mapping[str, float]) -> dict[str, Any]:
    try:
        parsed = json.loads(model)
        classes, imgsz = [str(name) for name in parsed["classes"]], int(parsed["imgsz"])
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"model.json needs classes and imgsz: {error}.") from error
    return {
        "format": _FORMAT,
        "classes": classes,
        "thresholds": _per_class(thresholds, classes),
        "imgsz": imgsz,
        "lineage": asdict(lineage),
    }


def _per_class(thresholds: float | Mapping[str, float], classes: Sequence[str]) -> dict[str, float]:
    given = thresholds if isinstance(thresholds, Mapping) else dict.fromkeys(classes, thresholds)
    if set(given) != set(classes):
        odd = sorted(set(given) ^ set(classes))
        raise BadInput(f"Thresholds must name every class of the model and no other; they differ in {odd}.")
    for name, value in given.items():
        if not 0 <= value <= 1:
            raise BadInput(f"The threshold of class {name!r} must be in [0, 1], got {value}.")
    return {name: float(value) for name, value in given.items()}


def _read_model_file(folder: Path, name: str) -> bytes:
    try:
        data = (folder / name).read_bytes()
    except OSError as error:
        raise BadInput(
            f"{folder} is not a model folder: {name} cannot be read ({error.strerror})."
        ) from error
    if not data:
        raise BadInput(f"{folder} is not a model folder: {name} is empty.")
    return data


def _exported_files(folder: Path, model: Mapping[str, bytes]) -> dict[str, bytes]:
    there = [name for name in EXPORTED_FILES if (folder / name).exists()]
    if not there:
        return {}
    try:
        listed: Any = json.loads((folder / _EXPORTED).read_bytes())["sha256"]
        found = {name: _read_model_file(folder, name) for name in there}
        damaged = [
            name
            for name, data in {**model, **found}.items()
            if listed.get(name) != _described(name, data).sha256
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(
            f"{folder} has {', '.join(there)}, but {_EXPORTED}, which tells whether they are whole, cannot be read "
            f"({error!r}). Train again, which makes them anew, or remove them."
        ) from error
    if damaged:
        raise BadInput(
            f"{folder} is damaged: {', '.join(damaged)} does not have the sha256 that {_EXPORTED} states. Train "
            "again, which makes what is damaged anew."
        )
    return found


def _described(name: str, data: bytes) -> _File:
    return _File(name, hashlib.sha256(data).hexdigest(), len(data))


def _digest(files: Sequence[_File]) -> str:
    return hashlib.sha256(_canonical([asdict(file) for file in files])).hexdigest()


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _parsed_manifest(data: bytes, digest: str) -> list[_File]:
    # The manifest's own hash is the digest, so nothing in it is believed before this check.
    if hashlib.sha256(data).hexdigest() != digest:
        raise BadInput(
            f"Release {digest} is damaged: {_MANIFEST} does not match the digest. Publish it again."
        )
    return [_File(**entry) for entry in json.loads(data)]


def _is_verified(folder: Path, digest: str) -> bool:
    if not folder.is_dir() or not all(path.is_file() for path in folder.iterdir()):
        return False
    return _digest([_described(path.name, path.read_bytes()) for path in sorted(folder.iterdir())]) == digest


def _key(digest: str, name: str) -> str:
    return f"{_PREFIX}{digest}/{name}"


def _check_digest(digest: str) -> None:
    # It becomes part of a path and of a key.
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise BadInput(f"A release digest is 64 lower-case hex characters, got {digest!r}.")


@contextmanager
def _storage_full_names(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            raise
        raise StorageFull(f"No space left in {folder}; the release was not stored there.") from error
