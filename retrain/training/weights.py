"""Writes a model folder and proves that reading it gives the same model."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as save_tensors

from retrain.detector import DESCRIPTION, WEIGHTS, StoredModel
from retrain.errors import PostConditionFailed
from retrain.storage import files


def write_model_folder(folder: Path, model: StoredModel) -> str:
    """Write `weights.safetensors`, then `model.json`, each in one step, and read both back.

    The description carries the sha256 of the weights and comes last, so a folder cut short by a crash never reads as
    a model.

    Returns:
        sha256 of the weights file, hex. Equal weights give an equal file.

    Raises:
        StorageFull: no space.
        PostConditionFailed: reading back gave something else.
    """
    data = save_tensors({name: tensor.detach().cpu().contiguous() for name, tensor in model.weights.items()})
    digest = hashlib.sha256(data).hexdigest()
    description = {
        "architecture": portable_architecture(model.architecture),
        "classes": list(model.classes),
        "imgsz": model.imgsz,
        "weights_sha256": digest,
    }
    (folder / DESCRIPTION).unlink(missing_ok=True)
    files.write_whole(folder / WEIGHTS, data)
    files.write_whole(folder / DESCRIPTION, json.dumps(description, indent=1).encode())
    _check_same(model, StoredModel.read(folder), folder)
    return digest


def portable_architecture(architecture: Mapping[str, Any]) -> dict[str, Any]:
    """The model yaml without the name of the file it came from, as JSON gives it back."""
    kept = {key: value for key, value in architecture.items() if key != "yaml_file"}
    plain: dict[str, Any] = json.loads(json.dumps(kept))
    return plain


def _check_same(written: StoredModel, read: StoredModel, folder: Path) -> None:
    same = written.weights.keys() == read.weights.keys() and all(
        _same_bits(tensor, read.weights[name]) for name, tensor in written.weights.items()
    )
    if not same or (written.classes, written.imgsz) != (read.classes, read.imgsz):
        raise PostConditionFailed(
            f"{folder} was written but reading it back gives a different model; check the disk."
        )


def _same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Unlike comparing values, also true of NaN."""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    first, second = (tensor.detach().cpu().reshape(-1).view(torch.uint8) for tensor in (one, other))
    return torch.equal(first, second)
