"""Which detectors can be trained: by Ultralytics' name for them, or by a yaml file of one's own."""

import difflib
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from retrain.errors import ConfigError

DETECTORS = tuple(
    f"{family}{size}"
    for family, sizes in {
        "yolov8": "nsmlx",
        "yolov10": "nsmblx",
        "yolo11": "nsmlx",
        "yolo12": "nsmlx",
        "yolo26": "nsmlx",
    }.items()
    for size in sizes
)
"""Architectures that Ultralytics also publishes weights of."""

# What Ultralytics itself takes for family and size, in a name and in the name of a file.
_SIZED = re.compile(r"(yolo(?:e-)?v?\d+)([nslmx])(.*)")


def checked_model(key: str, value: Any) -> str:
    """The name without its ending (`yolov8n.yaml` means `yolov8n`), or the whole path of a yaml file.

    A file that exists goes before a name.

    Raises:
        ConfigError: neither, or a file that holds no architecture.
    """
    if not isinstance(value, str | Path) or not str(value):
        raise ConfigError(f"{key} must be a model name such as 'yolov8n' or a yaml file, got {value!r}.")
    path = Path(value)
    if path.suffix in {".yaml", ".yml"} and path.is_file():
        read_architecture(path)
        return str(path.absolute())
    name = str(value).removesuffix(".yaml")
    if not re.fullmatch(r"[a-z0-9-]+", name):
        raise ConfigError(
            f"{key} must be a model name such as 'yolov8n' or a yaml file that exists, got {str(value)!r}."
        )
    if name not in _shipped() and _without_size(name) not in _shipped():
        raise ConfigError(f"{key} {name!r} is not an Ultralytics architecture; {nearest(name)}.")
    return name


def architecture_of(model: str) -> dict[str, Any]:
    """Layers and size of what `checked_model` gave."""
    path = Path(model)
    if not path.is_absolute():
        stem = model if model in _shipped() else _without_size(model)
        path = _shipped()[stem]
    return read_architecture(path, model)


def is_file(model: str) -> bool:
    return Path(model).is_absolute()


def read_architecture(path: Path, name: str | None = None) -> dict[str, Any]:
    """A model yaml; where it has several sizes, `scale` is its own or the one that its name states.

    Raises:
        ConfigError: the file is no model yaml, or leaves open which size is meant.
    """
    try:
        content = yaml.safe_load(path.read_bytes())
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"The model file {path} cannot be read: {error}.") from error
    layers = ("backbone", "head")
    if not isinstance(content, dict) or not all(isinstance(content.get(part), list) for part in layers):
        raise ConfigError(f"{path} is not a model file: it needs the lists {' and '.join(layers)}.")
    said = _SIZED.search(Path(name or path).stem)
    scale = content.get("scale") or (said.group(2) if said else "")
    scales = content.get("scales")
    if scales and not scale and len(scales) == 1:
        # yolov10b is a size that Ultralytics does not read from names, alone in its file.
        (scale,) = scales
    # Ultralytics would log a line and take the first.
    if scales and scale not in scales:
        raise ConfigError(
            f"model {name or str(path)!r} leaves open which of the sizes {', '.join(scales)} is meant; "
            f"{nearest(Path(name or path).stem)}, or a scale in the file."
        )
    return {**content, "scale": scale}


def nearest(name: str) -> str:
    close = difflib.get_close_matches(name, DETECTORS, n=1, cutoff=0.0)
    return f"try {close[0]!r}"


def _shipped() -> dict[str, Path]:
    """Ultralytics' model files by name, found without importing it (and torch)."""
    found = find_spec("ultralytics")
    assert found is not None
    assert found.origin is not None
    return {path.stem: path for path in Path(found.origin).parent.glob("cfg/models/**/*.yaml")}


def _without_size(name: str) -> str:
    return _SIZED.sub(r"\1\3", name)
