"""The model that a job trains: a fresh one, or one that starts from another model's weights."""

from typing import Any

from retrain.detector import StoredModel, without_code
from retrain.errors import BadInput, ConfigError
from retrain.training.architecture import architecture_of, nearest
from retrain.training.class_transfer import copy_weights
from retrain.training.data import DetectionData
from retrain.training.initial_weights import model_folder
from retrain.training.job import TrainingJob
from retrain.training.ultralytics_parts import DetectionModel
from retrain.training.weights import portable_architecture

# Heads of other tasks derive from these, so the exact type is asked for.
HEADS = {"Detect", "v10Detect"}


def build_model(job: TrainingJob, data: DetectionData) -> DetectionModel:
    """A fresh model of the requested architecture, with `initial_weights` copied in where there are any.

    Raises:
        ConfigError: the architecture is unknown, is no detector or is not that of `initial_weights`.
        NotFound, BadInput, Unavailable: `initial_weights` cannot be had.
    """
    request = job.request
    architecture = architecture_of(request.model)
    try:
        with without_code():
            model = DetectionModel(
                {**architecture, "channels": 3}, ch=3, nc=len(request.classes), verbose=False
            )
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"model {request.model!r} cannot be built ({error!r}); correct its file."
        ) from error
    if type(model.model[-1]).__name__ not in HEADS:
        raise ConfigError(f"model {request.model!r} does not detect boxes; {nearest(request.model)}.")
    model.nc, model.names, model.args = len(request.classes), data.description["names"], data.arguments
    if request.initial_weights is not None:
        _load_initial(model, StoredModel.read(model_folder(request.initial_weights)), request.classes)
    return model


def _load_initial(model: DetectionModel, stored: StoredModel, classes: tuple[str, ...]) -> None:
    if _layers(model.yaml) != _layers(stored.architecture):
        raise ConfigError("initial_weights are of another architecture than model; set model to theirs.")
    copy_weights(model, stored.build(), classes, stored.classes)


def _layers(architecture: dict[str, Any]) -> dict[str, Any]:
    """What decides the layers, told in one way: files of other releases of Ultralytics tell it in others."""
    plain = portable_architecture(architecture)
    scales = plain.pop("scales", None) or {}
    depth, width = plain.pop("depth_multiple", 1.0), plain.pop("width_multiple", 1.0)
    size = scales.get(plain.pop("scale", ""), [depth, width])
    for unsaid in ("nc", "ch", "channels"):
        plain.pop(unsaid, None)
    layers = [_layer(layer) for part in ("backbone", "head") for layer in plain.pop(part)]
    # The same as when it is not said.
    said = {key: value for key, value in plain.items() if value not in (None, False)}
    return {**said, "reg_max": said.get("reg_max", 16), "size": size, "layers": layers}


def _layer(layer: Any) -> Any:
    if not isinstance(layer, list) or len(layer) != 4:
        raise BadInput(f"A layer of a model file is [from, repeats, module, arguments], got {layer!r}.")
    source, repeats, module, arguments = layer
    return [source, repeats, module, [None if value == "None" else value for value in arguments]]
