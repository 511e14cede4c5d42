"""The repository's seed data: labelled scenes made from code, byte for byte the same wherever they are made.

Pictures are uncompressed 24-bit BMP, written here, so that no encoder's version can change a byte; labels are
Ultralytics text. `data.dvc` records the hash of the whole folder, and `restore` puts nothing in place that does
not have it.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from retrain.boxes import Annotations, xyxy_to_yolo
from retrain.errors import BadInput, Conflict, NotFound, PostConditionFailed, StorageFull, Unavailable
from retrain.simulation.scenes import Split
from retrain.simulation.traffic import FLEET, Frame, TrafficSimulator

_POOLS: Mapping[str, Split] = {"train": "train", "val": "train", "test": "test"}
"""Which digits each part is written with; `test` shares none with the other two."""
_FIRST_INDEX = {"train": 0, "val": 100_000, "test": 200_000}
_IGNORED_SUFFIX = ".cache"
"""Ultralytics leaves label caches next to labels; `.dvcignore` keeps them out of DVC's hash, as here."""


def restore(folder: Path, params: Mapping[str, Any]) -> str:
    """Put the seed data at `folder`, as the `.dvc` file beside it records it, and return the verified hash.

    Data that is already right is left alone. Nothing half-made is ever at `folder`, whenever this is killed.

    Args:
        folder: usually `data` at the top of the checkout.
        params: the contents of `params.yaml`; `seed` and `data` are read.

    Raises:
        NotFound: no `.dvc` file, or none that records a folder.
        Conflict: the folder holds files that are no seed data.
        PostConditionFailed: what was made is not what is recorded.
        StorageFull: no room; what was there before is untouched.
        Unavailable: the folder cannot be written.
    """
    record = folder.with_name(folder.name + ".dvc")
    recorded = recorded_hash(record)
    with _writing(folder), _alone(folder.parent):
        if folder.is_dir() and folder_hash(folder) == recorded:
            return recorded
        partial, old = (folder.with_name(f".{folder.name}.{state}") for state in ("partial", "old"))
        shutil.rmtree(old, ignore_errors=True)
        try:
            made = write_seed_data(partial, params)
            if made != recorded:
                raise PostConditionFailed(
                    f"The seed data made from params.yaml has hash {made}, {record.name} records {recorded}. "
                    "Put `seed` and `data` in params.yaml back to their committed values."
                )
            _refuse_foreign_files(folder, partial)
            if folder.exists():
                folder.rename(old)
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)
    return recorded


def write_seed_data(folder: Path, params: Mapping[str, Any]) -> str:
    """Write the scenes that `params` describe into a new folder and return the hash read back from disk."""
    shutil.rmtree(folder, ignore_errors=True)
    for part, pool in _POOLS.items():
        for kind in ("images", "labels"):
            (folder / part / kind).mkdir(parents=True)
        for frame in _frames(part, pool, params):
            name = f"{frame.camera}-{frame.index:06d}"
            # Not synced one by one: a torn file fails the hash, and all of it can be made again.
            (folder / part / "images" / f"{name}.bmp").write_bytes(bmp(frame.image))
            label = label_text(frame.annotations, frame.image.shape[1], frame.image.shape[0])
            (folder / part / "labels" / f"{name}.txt").write_bytes(label.encode("ascii"))
    return folder_hash(folder)


def folder_hash(folder: Path) -> str:
    """What DVC calls the md5 of a folder, computed from the files as they are on disk."""
    entries = [
        {"md5": hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest(), "relpath": relative}
        for relative, path in sorted(_files(folder).items())
    ]
    listing = json.dumps(entries, sort_keys=True).encode("ascii")
    return hashlib.md5(listing, usedforsecurity=False).hexdigest() + ".dir"


def recorded_hash(record: Path) -> str:
    """The hash in a `.dvc` file.

    Raises:
        NotFound: no such file, or it records no folder.
    """
    try:
        outs = (yaml.safe_load(record.read_text(encoding="utf-8")) or {}).get("outs", [])
    except FileNotFoundError as error:
        raise NotFound(f"No {record.name} in {record.parent}; run this in the Retrain repository.") from error
    if not outs or not str(outs[0].get("md5", "")).endswith(".dir"):
        raise NotFound(f"{record} records no folder; restore it with `git checkout {record.name}`.")
    return str(outs[0]["md5"])


def bmp(image: NDArray[np.uint8]) -> bytes:
    """An RGB picture as a 24-bit BMP: rows bottom-up, blue first, each padded to four bytes."""
    height, width = image.shape[:2]
    rows = np.zeros((height, -(-width * 3 // 4) * 4), dtype=np.uint8)
    rows[:, : width * 3] = image[::-1, :, ::-1].reshape(height, width * 3)
    header = struct.pack("<2sIHHI", b"BM", 54 + rows.size, 0, 0, 54)
    return (
        header
        + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, rows.size, 2835, 2835, 0, 0)
        + rows.tobytes()
    )


def label_text(annotations: Annotations, width: int, height: int) -> str:
    """One line per box: class, centre x, centre y, width, height as fractions with six decimals."""
    rows = zip(
        annotations.classes.tolist(), xyxy_to_yolo(annotations.boxes, width, height).tolist(), strict=True
    )
    return "".join(f"{label} {x:.6f} {y:.6f} {w:.6f} {h:.6f}\n" for label, (x, y, w, h) in rows)


def _frames(part: str, pool: Split, params: Mapping[str, Any]) -> Iterator[Frame]:
    """The part's frames, taken from the cameras in turn before any drift."""
    try:
        seed, count, size = int(params["seed"]), int(params["data"][part]), int(params["data"]["size"])
    except KeyError as error:
        raise BadInput(
            f"params.yaml lacks {error}; it needs seed and data.train, .val, .test, .size."
        ) from error
    traffic = TrafficSimulator(FLEET, seed=seed, split=pool, size=size)
    for number in range(count):
        yield traffic.frame(FLEET[number % len(FLEET)].id, _FIRST_INDEX[part] + number // len(FLEET))


def _files(folder: Path) -> dict[str, Path]:
    """Every file that counts, by its path inside the folder with forward slashes."""
    found = (path for path in folder.rglob("*") if path.is_file() and path.suffix != _IGNORED_SUFFIX)
    return {path.relative_to(folder).as_posix(): path for path in found}


def _refuse_foreign_files(folder: Path, made: Path) -> None:
    if foreign := sorted(set(_files(folder)) - set(_files(made))):
        raise Conflict(
            f"{folder} holds {len(foreign)} files that are not seed data, the first is {foreign[0]}. "
            "Move them elsewhere and run this again."
        )


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One restore at a time in `folder`; the lock leaves no file behind and ends with the process."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Say in words what the file system refused."""
    try:
        yield
    except OSError as error:
        if isinstance(error, StorageFull | Unavailable):
            raise
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull(f"No space left for {folder}; free some and run this again.") from error
        raise Unavailable(
            f"Cannot write {folder}: {error.strerror}. Make it writable, or name a copy of the repository that is."
        ) from error
