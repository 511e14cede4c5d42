"""Makes a training configuration that names a dataset version one that names what to read."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from retrain.dataset.manager import DatasetManager
from retrain.dataset.reading.balance import sampling_weights
from retrain.dataset.reading.selection import write_selection
from retrain.errors import BadInput, ConfigError

_FROM_VERSION = ("train_data", "val_data", "classes", "data_digest")


def with_data_of_version(
    config: Mapping[str, Any], datasets: Path, selections: Path
) -> tuple[dict[str, Any], dict[str, str]]:
    """Put lists of the version's train and val images, and its classes, in the place of `dataset`.

    Args:
        config: with `dataset`, the name of a version or a tag of one.
        datasets: the repository of the versions.
        selections: where the lists are written, named by their content.

    Returns:
        What `TrainingRequest.of` reads, and the version's `name` and `digest`.

    Raises:
        ConfigError: the name is no text, or the data is given as well.
        NotFound: there is no such repository or version, or its data was not pulled.
        BadInput: nothing to train on or to choose the best epoch by.
    """
    name = config["dataset"]
    if not isinstance(name, str) or not name:
        raise ConfigError(f"dataset must be the name of a dataset version such as v1.0.0, got {name!r}.")
    if twice := [key for key in _FROM_VERSION if key in config]:
        raise ConfigError(f"dataset and {', '.join(twice)} both say what to train on; give one of them.")
    manager = DatasetManager(datasets)
    version = manager.get_version(name)
    parts = {split: version.in_split(split) for split in ("train", "val")}
    if missing := [split for split, items in parts.items() if not items]:
        raise BadInput(
            f"{version.name} has no images in {' and '.join(missing)}; training needs both. Add recordings, each of "
            "which goes to one split."
        )
    balanced = config.get("sampling") == "balanced"
    weights = sampling_weights(parts["train"], len(version.classes)).tolist() if balanced else None
    write = partial(
        write_selection, version, pack_file=partial(manager.pack_file, version), target=selections
    )
    data = {
        "train_data": [str(write(parts["train"], weights=weights))],
        "val_data": str(write(parts["val"], by_camera=True)),
        "classes": list(version.classes),
    }
    rest = {key: value for key, value in config.items() if key != "dataset"}
    return {**rest, **data}, {"name": version.name, "digest": version.digest}
