"""Puts the `.pt` and the `.onnx` of a model beside its weights."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from retrain.detector import DESCRIPTION, WEIGHTS, StoredModel
from retrain.storage import files
from retrain.training.export.onnx_file import write_onnx
from retrain.training.export.pt_file import write_pt

PT, ONNX, FILES = "model.pt", "model.onnx", "files.json"
FORMATS = {"pt": PT, "onnx": ONNX}


def bundle(folder: Path, formats: Sequence[str] = tuple(FORMATS)) -> dict[str, str]:
    """Write `model.pt`, `model.onnx` and, last, `files.json` into a model folder, unless they are there and whole.

    May be killed at any point and called again. Call only while no other process writes to `folder`.

    Args:
        formats: which of `FORMATS`. One that is not asked for stays if it is there, until another is made again.

    Returns:
        sha256 of the model's files, hex, by name.

    Raises:
        NotFound, BadInput: `folder` is not a whole model folder.
        StorageFull: no space; free some and call again.
        PostConditionFailed: the ONNX model does not give what the torch model gives.
    """
    stored = StoredModel.read(folder)
    wanted = [FORMATS[name] for name in FORMATS if name in formats]
    known = _listed(folder, {DESCRIPTION, WEIGHTS, *wanted})
    if known is not None:
        return known
    files.remove_leftovers(folder)
    with files.disk_errors(folder):
        for name in (FILES, *FORMATS.values()):
            (folder / name).unlink(missing_ok=True)
    content: dict[str, Any] = {}
    if PT in wanted:
        write_pt(folder / PT, stored)
    if ONNX in wanted:
        report = asdict(write_onnx(folder / ONNX, stored))
        content["onnx_parity"] = {key: value for key, value in report.items() if key != "sha256"}
    digests = {name: _sha256(folder / name) for name in (DESCRIPTION, WEIGHTS, *wanted)}
    content["sha256"] = digests
    files.write_whole(folder / FILES, json.dumps(content, indent=1).encode())
    return digests


def _listed(folder: Path, wanted: set[str]) -> dict[str, str] | None:
    """What `files.json` says, or None where it is not there, not true or leaves out a file that is wanted."""
    try:
        content: Any = json.loads((folder / FILES).read_bytes())
        digests = {str(name): str(digest) for name, digest in content["sha256"].items()}
        whole = all(_sha256(folder / name) == digest for name, digest in digests.items())
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return digests if whole and wanted <= set(digests) else None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
