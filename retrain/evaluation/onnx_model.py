"""An ONNX file as Ultralytics exports it (ours too), run by ONNX Runtime between the same steps as a torch model."""
# ruff: noqa: E402 - ONNX Runtime reads its switches while it is imported.

from retrain import environment

environment.prepare()

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as refusals

from retrain.boxes import FloatArray
from retrain.errors import BadInput

# They share no class but Exception.
_REFUSALS = (
    refusals.Fail,
    refusals.InvalidArgument,
    refusals.InvalidGraph,
    refusals.InvalidProtobuf,
    refusals.NotImplemented,
    refusals.NoSuchFile,
    refusals.RuntimeException,
)
_TYPES: Mapping[str, Any] = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


class OnnxNetwork:
    """What a torch network is to a `Detector`.

    Attributes:
        classes: names, by index.
        imgsz: side in pixels of the square that images are fitted into.
        end2end: whether its output is boxes without overlaps already.

    Raises:
        BadInput: damaged, no detector, or without the metadata that Ultralytics writes.
    """

    def __init__(self, path: Path) -> None:
        import torch

        options = onnxruntime.SessionOptions()
        # As many as a torch model would have.
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 4
        self._path = path
        try:
            # From bytes: then it can name no other file to be read.
            self._session = onnxruntime.InferenceSession(
                path.read_bytes(), options, providers=["CPUExecutionProvider"]
            )
        except _REFUSALS as error:
            raise BadInput(f"{path} cannot be run as an ONNX model: {_first_line(error)}") from error
        described = self._session.get_modelmeta().custom_metadata_map
        self.classes, self.imgsz = _classes(path, described), _side(path, described)
        self._input = _only(path, "input", self._session.get_inputs())
        output = _only(path, "output", self._session.get_outputs())
        if self._input.type not in _TYPES:
            raise BadInput(f"{path} reads {self._input.type}; only float32 and float16 are supported.")
        self._check_sides()
        # With overlaps suppressed inside, a row is a box: two corners, score and class.
        self.end2end = described.get("end2end") == "True" or "'nms': True" in described.get("args", "")
        channels = output.shape[2 if self.end2end else 1] if len(output.shape) == 3 else 0
        expected = 6 if self.end2end else 4 + len(self.classes)
        if isinstance(channels, int) and channels != expected:
            raise BadInput(
                f"{path} gives {output.shape} where a detector of {len(self.classes)} classes has {expected} channels."
            )

    def __call__(self, batch: Any) -> Any:
        """Of a torch batch on the CPU, [batch x 3 x imgsz x imgsz], the torch output."""
        import torch

        given = batch.numpy().astype(_TYPES[self._input.type], copy=False)
        return torch.from_numpy(self._run(given).astype(np.float32, copy=False))

    def _run(self, given: NDArray[Any]) -> FloatArray:
        size = self._input.shape[0]
        if not isinstance(size, int):
            return self._run_once(given)
        found = []
        for start in range(0, len(given), size):
            part = given[start : start + size]
            filler = np.zeros((size - len(part), *part.shape[1:]), part.dtype)
            found.append(self._run_once(np.concatenate([part, filler]))[: len(part)])
        return np.concatenate(found)

    def _run_once(self, given: NDArray[Any]) -> FloatArray:
        try:
            (output,) = self._session.run(None, {self._input.name: given})
        except _REFUSALS as error:
            raise BadInput(f"{self._path} failed on an image: {_first_line(error)}") from error
        return np.asarray(output)

    def _check_sides(self) -> None:
        fixed = [side for side in self._input.shape[2:] if isinstance(side, int)]
        if len(self._input.shape) != 4 or any(side != self.imgsz for side in fixed):
            raise BadInput(
                f"{self._path} reads {self._input.shape}, not squares of {self.imgsz} pixels; export it with "
                "dynamic=True or a square imgsz."
            )


def _classes(path: Path, described: Mapping[str, str]) -> tuple[str, ...]:
    names = _literal(described.get("names"))
    if isinstance(names, list):
        names = dict(enumerate(names))
    if described.get("task", "detect") != "detect":
        raise BadInput(f"{path} is a model for {described['task']!r}, not a detector.")
    if not isinstance(names, dict) or not names or sorted(names) != list(range(len(names))):
        raise BadInput(
            f"{path} does not name its classes: its metadata needs `names` and `imgsz` as Ultralytics writes them."
        )
    classes = tuple(str(names[index]) for index in range(len(names)))
    if len(set(classes)) < len(classes):
        raise BadInput(f"Two classes of {path} have the same name: {', '.join(classes)}.")
    return classes


def _side(path: Path, described: Mapping[str, str]) -> int:
    size = _literal(described.get("imgsz"))
    sides = {size} if isinstance(size, int) else set(size) if isinstance(size, list | tuple) else set()
    if len(sides) != 1 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise BadInput(
            f"{path} needs one side in pixels as `imgsz` in its metadata, got {described.get('imgsz')!r}; export it "
            "with a square imgsz."
        )
    return int(sides.pop())


def _literal(text: str | None) -> Any:
    try:
        return ast.literal_eval(text or "None")
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def _only(path: Path, what: str, found: list[Any]) -> Any:
    if len(found) != 1:
        raise BadInput(f"{path} has {len(found)} {what}s where a detector has one.")
    return found[0]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
