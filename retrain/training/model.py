"""The model that a job trains: a fresh one, or one that starts from another model's weights."""

from typing import Any

from retrain.detector import StoredModel
from retrain.errors import ConfigError
from retrain.training.data import DetectionData
from retrain.training.job import TrainingJob
from retrain.training.ultralytics_parts import DetectionModel, yaml_model_load
from retrain.training.weights import portable_architecture

# Heads of other tasks derive from these, so the exact type is asked for.
_HEADS = {"Detect", "v10Detect"}


def build_model(job: TrainingJob, data: DetectionData) -> DetectionModel:
    """A fresh model of the requested architecture, with `initial_weights` copied in where there are any.

    Raises:
        ConfigError: the architecture is unknown, is no detector or is not that of `initial_weights`.
    """
    request = job.request
    try:
        architecture = yaml_model_load(f"{request.model}.yaml")
    except FileNotFoundError as error:
        raise ConfigError(
            f"model {request.model!r} is not an Ultralytics architecture; try 'yolov8n'."
        ) from error
    model = DetectionModel({**architecture, "channels": 3}, ch=3, nc=len(request.classes), verbose=False)
    if type(model.model[-1]).__name__ not in _HEADS:
        raise ConfigError(f"model {request.model!r} does not detect boxes; try 'yolov8n'.")
    model.nc, model.names, model.args = len(request.classes), data.description["names"], data.arguments
    if request.initial_weights is not None:
        _load_initial(model, StoredModel.read(request.initial_weights))
    return model


def _load_initial(model: DetectionModel, stored: StoredModel) -> None:
    def shape(architecture: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in portable_architecture(architecture).items() if key != "nc"}

    if shape(model.yaml) != shape(stored.architecture):
        raise ConfigError("initial_weights are of another architecture than model; set model to theirs.")
    # Where class lists differ, class outputs are matched by name and new ones start fresh.
    model.load(stored.build(), verbose=False)
