"""Copies a model's weights into one for another list of classes.

Ultralytics' own `load` matches names too, but leaves the class outputs where they are when no name or every name
matches by position, ignores case, and does not match at all where names are numbers ("0", "1", ...).
"""

from collections.abc import Sequence

from retrain.detector import class_width, set_class_width
from retrain.errors import ConfigError
from retrain.training.ultralytics_parts import DetectionModel


def copy_weights(
    model: DetectionModel, source: DetectionModel, classes: Sequence[str], source_classes: Sequence[str]
) -> None:
    """Everything is copied; the rows of the class outputs by class name, and rows of new classes stay as they are.

    The class branches of `model` get the width of those of `source`, which the number of its classes has set.

    Raises:
        ConfigError: the two are not of one architecture.
    """
    set_class_width(model, class_width(source.state_dict()))
    ours, theirs = model.state_dict(), source.state_dict()
    outputs = class_outputs(model)
    old = {name: row for row, name in enumerate(source_classes)}
    kept = [(row, old[name]) for row, name in enumerate(classes) if name in old]
    for name, tensor in ours.items():
        other = theirs.get(name)
        same = other is not None and (
            other.shape[1:] == tensor.shape[1:] if name in outputs else other.shape == tensor.shape
        )
        if not same or other is None:
            raise ConfigError("initial_weights are of another architecture than model; set model to theirs.")
        if name not in outputs:
            tensor.copy_(other)
            continue
        for row, source_row in kept:
            tensor[row].copy_(other[source_row])
    if ours.keys() != theirs.keys():
        raise ConfigError("initial_weights are of another architecture than model; set model to theirs.")


def class_outputs(model: DetectionModel) -> set[str]:
    """Names of the tensors whose first dimension is the class, in both heads where there are two."""
    last, head = len(model.model) - 1, model.model[-1]
    return {
        f"model.{last}.{branch}.{level}.{len(layers) - 1}.{part}"
        for branch in ("cv3", "one2one_cv3")
        for level, layers in enumerate(getattr(head, branch, None) or ())
        for part in ("weight", "bias")
    }
