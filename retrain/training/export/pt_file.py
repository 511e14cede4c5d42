"""Writes a stored model as the `.pt` that Ultralytics reads."""

import hashlib
import io
from pathlib import Path
from typing import Any

import torch

from retrain.detector import StoredModel
from retrain.storage import files
from retrain.training.ultralytics_parts import ULTRALYTICS_VERSION, DetectionModel
from retrain.training.weights import portable_architecture


def write_pt(path: Path, stored: StoredModel, *, half: bool = True) -> str:
    """Write the file in one step. It loads with `ultralytics.YOLO`, for prediction, validation, export and fine-tuning.

    Args:
        path: ends with `.pt`.
        stored: what to write.
        half: float16, half the size, as Ultralytics writes its own.

    Returns:
        sha256 of the file, hex. Equal weights give an equal file: it holds no date and no path.

    Raises:
        StorageFull: no space; what was there before is untouched.
    """
    arguments = {"task": "detect", "data": None, "imgsz": stored.imgsz, "single_cls": False}
    content = {
        "epoch": -1,
        "best_fitness": None,
        "model": _model(stored, arguments, half=half),
        "ema": None,
        "updates": None,
        "optimizer": None,
        "scaler": None,
        "train_args": arguments,
        "train_metrics": {},
        "train_results": {},
        "date": "",
        "version": ULTRALYTICS_VERSION,
    }
    # Through a buffer, because the name of the file would become part of its content.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    data = buffer.getvalue()
    files.write_whole(path, data)
    return hashlib.sha256(data).hexdigest()


def _model(stored: StoredModel, arguments: dict[str, Any], *, half: bool) -> DetectionModel:
    model = stored.build().eval().requires_grad_(requires_grad=False)
    model.yaml = portable_architecture(model.yaml)
    model.nc, model.args, model.task, model.criterion = len(stored.classes), dict(arguments), "detect", None
    return model.half() if half else model
