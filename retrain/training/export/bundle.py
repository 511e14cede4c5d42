"""Puts the `.pt` and the `.onnx` of a model beside its weights."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from retrain.detector import DESCRIPTION, WEIGHTS, StoredModel
from retrain.storage import files
from retrain.training.export.onnx_file import write_onnx
from retrain.training.export.pt_file import write_pt

PT, ONNX, FILES = "model.pt", "model.onnx", "files.json"


def bundle(folder: Path) -> dict[str, str]:
    """Write `model.pt`, `model.onnx` and, last, `files.json` into a model folder, unless they are there and whole.

    May be killed at any point and called again. Call only while no other process writes to `folder`.

    Returns:
        sha256 of each of the four files of the model, hex, by name.

    Raises:
        NotFound, BadInput: `folder` is not a whole model folder.
        StorageFull: no space; free some and call again.
        PostConditionFailed: the ONNX model does not give what the torch model gives.
    """
    stored = StoredModel.read(folder)
    known = _listed(folder)
    if known is not None:
        return known
    files.remove_leftovers(folder)
    with files.disk_errors(folder):
        (folder / FILES).unlink(missing_ok=True)
    write_pt(folder / PT, stored)
    report = asdict(write_onnx(folder / ONNX, stored))
    digests = {name: _sha256(folder / name) for name in (DESCRIPTION, WEIGHTS, PT, ONNX)}
    content = {
        "sha256": digests,
        "onnx_parity": {key: value for key, value in report.items() if key != "sha256"},
    }
    files.write_whole(folder / FILES, json.dumps(content, indent=1).encode())
    return digests


def _listed(folder: Path) -> dict[str, str] | None:
    """What `files.json` says, or None where it is not there or not true."""
    try:
        content: Any = json.loads((folder / FILES).read_bytes())
        digests = {str(name): str(digest) for name, digest in content["sha256"].items()}
        whole = all(_sha256(folder / name) == digest for name, digest in digests.items())
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return digests if whole and set(digests) == {DESCRIPTION, WEIGHTS, PT, ONNX} else None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
