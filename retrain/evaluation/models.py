"""Opens what is evaluated by its path: a model folder or release, an Ultralytics `.pt`, or an ONNX file."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from retrain.errors import BadInput, NotFound, Unavailable
from retrain.evaluation.arguments import checked_device, checked_path
from retrain.evaluation.run import Predict

if TYPE_CHECKING:
    from retrain.detector import Detector

RELEASE_FILE = "release.json"
_KINDS = "a model folder or release, an Ultralytics .pt or an .onnx file"


@dataclass(frozen=True)
class EvaluatedModel:
    """An opened model.

    Attributes:
        name: as it was asked for.
        classes: names, by index.
        imgsz: side in pixels of the square that images are fitted into.
        runtime: `torch` or `onnxruntime`.
        digest: sha256 of its weights or file, hex; equal models have equal ones if they are of one kind.
        thresholds: that it is served with, by class; empty where nothing says any.
    """

    name: str
    classes: tuple[str, ...]
    imgsz: int
    runtime: str
    digest: str
    detector: "Detector" = field(repr=False)
    thresholds: Mapping[str, float] = field(default_factory=dict)

    @property
    def predict(self) -> Predict:
        return self.detector.predict


def open_model(path: str | Path, device: str = "cpu") -> EvaluatedModel:
    """Open a model; a `.pt` is read without running code from it, in a process of its own.

    Args:
        path: a folder or file, or the name of official weights such as `yolov8n.pt` where there is no such file.
        device: `cpu`, `cuda` or `cuda:<index>`; an ONNX file is run on the CPU.

    Raises:
        NotFound: there is nothing there.
        BadInput: damaged, or no detector.
        ConfigError: no device has that name.
        Unavailable: the device is not there, or official weights are neither here nor to be had.
    """
    checked_device(device)
    name, place = str(path), _located(checked_path(path, "A model"))
    if place.is_dir():
        return _opened_folder(name, place, device)
    if place.suffix == ".pt":
        from retrain.training.initial_weights import converted

        return _opened_folder(name, converted(place, "as a model"), device, digest=digest_of(place))
    if place.suffix == ".onnx":
        return _opened_onnx(name, place, device)
    raise BadInput(f"{name} is no model; give {_KINDS}.")


def _located(path: Path) -> Path:
    from retrain.training.architecture import DETECTORS

    if path.exists():
        return path
    if path.parent == Path() and path.suffix in {"", ".pt"} and path.stem in DETECTORS:
        from retrain.training.initial_weights import located

        return located(path.stem)
    raise NotFound(f"There is no model {str(path)!r}; give {_KINDS}.")


def _opened_folder(name: str, folder: Path, device: str, digest: str | None = None) -> EvaluatedModel:
    from retrain.detector import DESCRIPTION, WEIGHTS, Detector

    if not (folder / DESCRIPTION).is_file():
        raise BadInput(f"{name} is a folder without {DESCRIPTION}; give {_KINDS}.")
    detector = Detector.load(folder, device)
    digest = digest or digest_of(folder / WEIGHTS)
    thresholds = _thresholds(folder, detector.classes) if (folder / RELEASE_FILE).exists() else {}
    return EvaluatedModel(name, detector.classes, detector.imgsz, "torch", digest, detector, thresholds)


def _thresholds(folder: Path, classes: tuple[str, ...]) -> Mapping[str, float]:
    from retrain.serving.release import read_release

    release = read_release(folder)
    given = release.thresholds
    usable = isinstance(given, Mapping) and all(
        isinstance(value, float | int) and 0 <= value <= 1 for value in given.values()
    )
    if release.classes != classes or not usable or set(given) != set(classes):
        raise BadInput(
            f"{folder / RELEASE_FILE} does not belong to the model beside it: it states thresholds of "
            f"{', '.join(release.classes)}, and the model has {', '.join(classes)}. Fetch the release again."
        )
    return {label: float(given[label]) for label in classes}


def _opened_onnx(name: str, file: Path, device: str) -> EvaluatedModel:
    from retrain.detector import Detector
    from retrain.evaluation.onnx_model import OnnxNetwork

    if device != "cpu":
        raise Unavailable(f"{name} can be run on the CPU only, got device {device!r}.")
    network = OnnxNetwork(file)
    detector = Detector(network, network.classes, network.imgsz, "cpu")
    return EvaluatedModel(name, network.classes, network.imgsz, "onnxruntime", digest_of(file), detector)


def digest_of(path: Path) -> str:
    """sha256 of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
