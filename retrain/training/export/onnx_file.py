"""Writes a stored model as ONNX, and proves that ONNX Runtime gives what the torch model gives."""
# ruff: noqa: E402 - ONNX Runtime and Ultralytics read their switches while they are imported.

from retrain import environment

environment.prepare()

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from ultralytics.engine.exporter import Exporter

from retrain.detector import StoredModel
from retrain.errors import BadInput, PostConditionFailed
from retrain.storage import files
from retrain.training.console import quiet
from retrain.training.ultralytics_parts import DetectionModel
from retrain.training.weights import portable_architecture

TOLERANCE = 1e-3
_OPSET = 18


@dataclass(frozen=True)
class OnnxReport:
    """Largest differences between ONNX Runtime and torch, over all anchors of all images.

    Attributes:
        sha256: of the file, hex.
        boxes: centre, width and height, in cells of the coarsest grid (32 px): the unit that the head predicts in.
        boxes_px: the same in pixels.
        scores: of any class.
        images: how many were compared.
    """

    sha256: str
    boxes: float
    boxes_px: float
    scores: float
    images: int


def write_onnx(path: Path, stored: StoredModel, imgsz: int | None = None) -> OnnxReport:
    """Write the file in one step, once it was compared. Call only while no other process writes to `path`.

    Input `images`: float32 RGB in [0, 1], [batch x 3 x height x width], of any batch and any sides that are multiples
    of 32. Output `output0`: [batch x (4 + classes) x anchors], boxes as centre and size in pixels, before suppression
    of overlaps. The metadata holds class names, stride and size as `ultralytics.YOLO` reads them, and no date.

    Args:
        path: ends with `.onnx`.
        stored: what to write.
        imgsz: side in pixels that is recorded and compared; None is the one it was trained on.

    Raises:
        PostConditionFailed: a difference is above `TOLERANCE`; nothing was written.
        StorageFull: no space; what was there before is untouched.
    """
    side = stored.imgsz if imgsz is None else imgsz
    if side < 32 or side % 32:
        raise BadInput(f"imgsz must be a multiple of 32, got {side}.")
    data = _exported(path, stored, side)
    report = _compared(path, data, _torch_model(stored), side)
    files.write_whole(path, data)
    return report


def _torch_model(stored: StoredModel) -> DetectionModel:
    model = stored.build().eval().requires_grad_(requires_grad=False)
    # As validation and serving use it: all boxes, overlaps suppressed afterwards.
    model.end2end = False
    return model


def _exported(path: Path, stored: StoredModel, side: int) -> bytes:
    model = _torch_model(stored)
    model.yaml, model.task = portable_architecture(model.yaml), "detect"
    model.args = {"data": None, "imgsz": stored.imgsz, "task": "detect"}
    with _scratch(path) as folder, quiet(), torch.random.fork_rng(devices=[]), files.disk_errors(path.parent):
        model.pt_path = str(folder / "model.pt")
        overrides = {
            "format": "onnx",
            "imgsz": side,
            "dynamic": True,
            "simplify": True,
            "opset": _OPSET,
            "device": "cpu",
        }
        exporter = Exporter(overrides=overrides)
        # Those of its integrations would report the export.
        exporter.callbacks = {}
        written = onnx.load(exporter(model=model))
    for entry in written.metadata_props:
        if entry.key == "date":
            entry.value = ""
        elif entry.key == "description":
            entry.value = "Object detector"
    data: bytes = written.SerializeToString(deterministic=True)
    return data


@contextmanager
def _scratch(path: Path) -> Iterator[Path]:
    """A folder beside the file, on the same disk; what a killed process left in it goes first."""
    folder = path.with_name(f".{path.name}.export")
    shutil.rmtree(folder, ignore_errors=True)
    with files.disk_errors(path.parent):
        files.make_folder(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _compared(path: Path, data: bytes, model: DetectionModel, side: int) -> OnnxReport:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    boxes = scores = 0.0
    batches = list(_pictures(side))
    for batch in batches:
        (ours,) = session.run(None, {"images": batch})
        with torch.no_grad():
            theirs = model(torch.from_numpy(batch))[0].numpy()
        if ours.shape != theirs.shape:
            raise PostConditionFailed(f"{path}: ONNX gives {ours.shape} where torch gives {theirs.shape}.")
        difference = np.abs(ours.astype(np.float64) - theirs)
        boxes = float(np.max([boxes, difference[:, :4].max()]))
        scores = float(np.max([scores, difference[:, 4:].max()]))
    cells = boxes / float(model.stride.max())
    # Also false where one of them is not a number.
    if not max(cells, scores) <= TOLERANCE or not np.isfinite([cells, scores]).all():
        raise PostConditionFailed(
            f"{path}: ONNX and torch differ by {cells:.2g} cells ({boxes:.2g} px) in boxes and {scores:.2g} in scores; "
            f"at most {TOLERANCE} is allowed. Nothing was written."
        )
    return OnnxReport(
        sha256=hashlib.sha256(data).hexdigest(),
        boxes=cells,
        boxes_px=boxes,
        scores=scores,
        images=sum(len(batch) for batch in batches),
    )


def _pictures(side: int) -> Iterator[NDArray[np.float32]]:
    """Batches of pictures with smooth ground, hard edges and noise; of two sizes, so that shapes are free is proven."""
    rng = np.random.default_rng(0)
    for count, height, width in ((1, side, side), (3, side, side), (2, side, side + 32)):
        slopes = rng.random((count, 3, 2, 1, 1))
        down, right = np.linspace(0, 1, height)[:, None], np.linspace(0, 1, width)[None, :]
        batch = (slopes[:, :, 0] * down + slopes[:, :, 1] * right) / 2
        for picture in batch:
            for _ in range(8):
                y, x = rng.integers(0, height - 8), rng.integers(0, width - 8)
                tall, wide = rng.integers(4, height // 2), rng.integers(4, width // 2)
                picture[:, y : y + tall, x : x + wide] = rng.random((3, 1, 1))
        batch += rng.normal(0, 0.05, batch.shape)
        yield batch.clip(0, 1).astype(np.float32)
