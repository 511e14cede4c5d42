"""Turns an untrusted `.pt` file into a model folder: `python -m retrain.training.pt_reader FILE FOLDER`.

It ends with status 1 and the reason as JSON on the last line where the file needs anything that is not allowed.
"""
# ruff: noqa: E402 - Ultralytics reads its switches while it is imported, so these are set first.

from retrain import environment

environment.prepare()

import json
import sys
from pathlib import Path
from typing import Any

from ultralytics.nn.tasks import _SafeLoad, torch_safe_load

from retrain.detector import StoredModel
from retrain.errors import BadInput, RetrainError
from retrain.storage import files
from retrain.training.ultralytics_parts import DetectionModel
from retrain.training.weights import portable_architecture, write_model_folder


def convert(file: Path, folder: Path) -> None:
    """Read the averaged model where there is one, else the model, and write it as float32.

    Raises:
        BadInput: damaged, no detection model, or made of types that are not allowed.
    """
    if not _SafeLoad.SUPPORTED:
        raise BadInput("this release of torch has no safe loading; update it.")
    stored = _stored(_loaded(file))
    # Proves that architecture and weights belong together, before anything is kept.
    stored.build()
    files.make_folder(folder)
    write_model_folder(folder, stored)


def _loaded(file: Path) -> Any:
    try:
        content, _ = torch_safe_load(file, safe_only=True)
    except Exception as error:
        cause = error.__cause__ or error
        raise BadInput(
            f"it is damaged or needs types outside those of an Ultralytics detector, and running code "
            f"from a file of weights is refused ({_first_line(cause)})."
        ) from error
    return content


def _stored(content: dict[str, Any]) -> StoredModel:
    model: Any = content.get("ema") or content.get("model")
    if type(model) is not DetectionModel:
        raise BadInput(f"it holds a {type(model).__name__}, not a detection model.")
    names = getattr(model, "names", None)
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or sorted(names) != list(range(len(names))):
        raise BadInput("its class names are not numbered from 0.")
    classes = tuple(str(names[index]) for index in range(len(names)))
    if len(set(classes)) != len(classes):
        raise BadInput("two of its classes have the same name.")
    size = (content.get("train_args") or {}).get("imgsz", 640)
    return StoredModel(
        architecture=portable_architecture(model.yaml),
        classes=classes,
        imgsz=int(max(size) if isinstance(size, list | tuple) else size),
        weights={name: tensor.clone() for name, tensor in model.float().state_dict().items()},
    )


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if "Unsupported" in line or "GLOBAL" in line]
    return (lines or str(error).splitlines() or [type(error).__name__])[0][:300]


def main() -> int:
    """Status 0 once FOLDER is a model folder."""
    try:
        convert(Path(sys.argv[1]), Path(sys.argv[2]))
    except RetrainError as error:
        print(json.dumps({"error": str(error)}))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
