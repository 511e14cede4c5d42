"""A stored model (safetensors + json, nothing unpickled) and the detector built from it."""
# ruff: noqa: E402 - torch and ultralytics read their switches while they are imported, so these are set first.

from retrain import environment

environment.prepare()

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors

with environment.launcher_hidden():
    import ultralytics.utils  # noqa: F401

from ultralytics.data.augment import LetterBox
from ultralytics.nn.modules import Conv
from ultralytics.nn.tasks import DetectionModel, _SafeLoad
from ultralytics.utils import nms, ops
from ultralytics.utils.patches import _image_open

from retrain.boxes import Detections
from retrain.errors import BadInput, NotFound, Unavailable

WEIGHTS, DESCRIPTION = "weights.safetensors", "model.json"
# Ultralytics drops the rest of a batch when NMS takes too long; on a busy machine that would change the result.
NO_TIME_LIMIT = 3600.0
_CHUNK = 32

# Ultralytics replaces it by one that tries to install a plugin; a damaged image must stay the error Pillow makes of it.
PIL.Image.open = _image_open

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class StoredModel:
    """What a model folder holds.

    Attributes:
        architecture: the Ultralytics model yaml as a mapping, scale and class count included.
        classes: class names, by index.
        imgsz: side in pixels of the square the model was trained on.
        weights: parameters and buffers by name.
    """

    architecture: dict[str, Any]
    classes: tuple[str, ...]
    imgsz: int
    weights: dict[str, torch.Tensor]

    @classmethod
    def read(cls, folder: Path) -> "StoredModel":
        """Read `weights.safetensors` and `model.json`.

        Raises:
            NotFound: the folder or one of the two files is missing.
            BadInput: a file is damaged, or the two do not belong together.
        """
        description = _description(folder)
        data = _read(folder / WEIGHTS)
        expected = description.get("weights_sha256")
        if expected is not None and hashlib.sha256(data).hexdigest() != expected:
            raise BadInput(
                f"{folder / WEIGHTS} does not have the sha256 that {DESCRIPTION} states; fetch it again."
            )
        try:
            weights = load_tensors(data)
        except SafetensorError as error:
            raise BadInput(
                f"{folder / WEIGHTS} is not a safetensors file ({error}); fetch it again."
            ) from error
        return cls(
            architecture=description["architecture"],
            classes=tuple(description["classes"]),
            imgsz=description["imgsz"],
            weights=weights,
        )

    def build(self) -> DetectionModel:
        """A float32 model with these weights, on the CPU. The process's random state is left alone."""
        with torch.random.fork_rng(devices=[]):
            try:
                with without_code():
                    model = DetectionModel(
                        deepcopy(self.architecture), ch=3, nc=len(self.classes), verbose=False
                    )
                set_class_width(model, class_width(self.weights))
            except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
                raise BadInput(f"The stored architecture cannot be built ({error!r}).") from error
        try:
            model.load_state_dict(self.weights)
        except RuntimeError as error:
            raise BadInput(f"The stored weights do not fit the stored architecture: {error}") from error
        model.names = dict(enumerate(self.classes))
        return model


@contextmanager
def without_code() -> Iterator[None]:
    """Architectures built inside are data only.

    Ultralytics evaluates their `activation` as Python and takes any name it knows for a layer, except while it loads
    a checkpoint safely. Where building fails, it also leaves that activation as the default of all later models.
    """
    was, activation = getattr(_SafeLoad._local, "active", False), Conv.default_act
    _SafeLoad._local.active = True
    try:
        yield
    finally:
        _SafeLoad._local.active, Conv.default_act = was, activation


def class_width(weights: Mapping[str, torch.Tensor]) -> int:
    """Channels that the class outputs read.

    Ultralytics makes them as many as there are classes where the layers before give fewer; a model that was fine-tuned
    for fewer classes keeps them.
    """
    outputs = [name for name in weights if re.fullmatch(r"model\.\d+\.cv3\.0\.2\.weight", name)]
    if len(outputs) != 1 or weights[outputs[0]].ndim != 4:
        raise BadInput("The weights are not those of a detector: there is no class output.")
    return int(weights[outputs[0]].shape[1])


def set_class_width(model: DetectionModel, width: int) -> None:
    """Make the class branches that wide, fresh, unless they are."""
    head = model.model[-1]
    if head.cv3[0][-1].in_channels == width:
        return
    with without_code():
        # Ultralytics' own sizing, asked with the class count that leads to this width.
        wide = DetectionModel(deepcopy(model.yaml), ch=3, nc=width, verbose=False).model[-1]
    for branch in ("cv3", "one2one_cv3"):
        levels = getattr(head, branch, None)
        if levels is None:
            continue
        for level, fresh in zip(levels, getattr(wide, branch), strict=True):
            fresh[-1] = torch.nn.Conv2d(fresh[-1].in_channels, level[-1].out_channels, 1)
        setattr(head, branch, getattr(wide, branch).train(head.training))
    head.bias_init()


class Network(Protocol):
    """What stands between pixels and boxes: a `DetectionModel`, or the same in another runtime.

    Attributes:
        end2end: whether its output is boxes already, without overlaps to suppress.
    """

    end2end: bool

    def __call__(self, batch: torch.Tensor, /) -> Any: ...


class Detector:
    """Predicts boxes. Safe to call from many threads; calls run one after the other.

    `prepare`, `forward` and `finish` are the steps of `predict`, to be timed apart.
    """

    def __init__(self, model: Network, classes: tuple[str, ...], imgsz: int, device: str) -> None:
        self.classes = classes
        self.imgsz = imgsz
        self.device = device
        self._model = model
        self._letterbox = LetterBox(new_shape=(imgsz, imgsz), auto=False)
        # The head caches its anchors, so two forward passes must not interleave.
        self._lock = threading.Lock()

    @classmethod
    def load(cls, release_dir: Path, device: str = "cpu") -> "Detector":
        """Build the fused evaluation model from a model folder.

        Args:
            release_dir: holds `weights.safetensors` and `model.json`.
            device: `cpu`, `cuda` or `cuda:<index>`.

        Raises:
            NotFound: the folder or a file in it is missing.
            BadInput: a file is damaged.
            Unavailable: a GPU is asked for that is not there.
        """
        if device != "cpu":
            gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
            if not gpus:
                raise Unavailable(f"Device is {device!r} but torch sees no GPU; use 'cpu'.")
            if (torch.device(device).index or 0) >= gpus:
                raise Unavailable(f"Device is {device!r} but torch sees {gpus} GPUs, counted from cuda:0.")
        stored = StoredModel.read(Path(release_dir))
        model = stored.build().fuse(verbose=False).eval().requires_grad_(requires_grad=False).to(device)
        return cls(model, stored.classes, stored.imgsz, device)

    def predict(
        self,
        images: Sequence[Image],
        confidence: float = 0.001,
        iou: float = 0.7,
        max_detections: int = 300,
        *,
        multi_label: bool = False,
    ) -> list[Detections]:
        """Boxes of each image, in its own pixels, clipped to it.

        Args:
            images: uint8 RGB, height x width x 3, of any sizes.
            confidence: lowest score kept.
            iou: overlap above which the weaker of two boxes of one class is dropped.
            max_detections: most boxes per image.
            multi_label: let one box carry every class above `confidence` instead of its best class only.

        Raises:
            BadInput: an image is not uint8 RGB, or a threshold is outside [0, 1].
        """
        for name, value in (("confidence", confidence), ("iou", iou)):
            if not 0 <= value <= 1:
                raise BadInput(f"{name} must be in [0, 1], got {value}.")
        for position, image in enumerate(images):
            _check_image(image, position)
        found: list[Detections] = []
        for start in range(0, len(images), _CHUNK):
            chunk = images[start : start + _CHUNK]
            found += self.finish(
                self.forward(self.prepare(chunk)),
                chunk,
                confidence,
                iou,
                max_detections,
                multi_label=multi_label,
            )
        return found

    def prepare(self, images: Sequence[Image]) -> torch.Tensor:
        """Fitted into squares, on the device: float32 RGB in [0, 1], [images x 3 x imgsz x imgsz]."""
        squares = np.stack([self._letterbox(image=np.ascontiguousarray(image)) for image in images])
        return torch.from_numpy(squares).to(self.device).permute(0, 3, 1, 2).contiguous().float() / 255

    def forward(self, batch: torch.Tensor) -> Any:
        """What the network gives for what `prepare` gave."""
        with self._lock, torch.inference_mode():
            return self._model(batch)

    def finish(
        self,
        raw: Any,
        images: Sequence[Image],
        confidence: float,
        iou: float,
        max_detections: int,
        *,
        multi_label: bool = False,
    ) -> list[Detections]:
        """Boxes of each image from what `forward` gave, as `predict` gives them."""
        with torch.inference_mode():
            rows = nms.non_max_suppression(
                raw,
                _just_below(confidence),
                iou,
                max_det=max_detections,
                multi_label=multi_label,
                max_time_img=NO_TIME_LIMIT,
                end2end=self._model.end2end,
            )
        return [
            self._detections(image_rows.cpu(), image) for image_rows, image in zip(rows, images, strict=True)
        ]

    def warm_up(self) -> None:
        """Pay the costs of a first prediction now."""
        self.predict([np.zeros((self.imgsz, self.imgsz, 3), dtype=np.uint8)])

    def _detections(self, rows: torch.Tensor, image: Image) -> Detections:
        boxes = ops.scale_boxes((self.imgsz, self.imgsz), rows[:, :4].double(), image.shape[:2]).numpy()
        scores = rows[:, 4].double().clamp(0, 1).numpy()
        # Heads that predict distances as plain numbers (YOLO26) can turn a weak box inside out; it is no box.
        keep = (boxes[:, 2:] >= boxes[:, :2]).all(axis=1)
        return Detections.of(boxes[keep], rows[:, 5].long().numpy()[keep], scores[keep])


def _just_below(confidence: float) -> float:
    """Ultralytics keeps scores above what it is given; a score that is the lowest to be kept is to be kept."""
    nearest = np.float32(confidence)
    return float(
        nearest if nearest < confidence else max(np.nextafter(nearest, np.float32(-1)), np.float32(0))
    )


def _description(folder: Path) -> dict[str, Any]:
    path = folder / DESCRIPTION
    try:
        description = json.loads(_read(path))
    except ValueError as error:
        raise BadInput(f"{path} is not JSON ({error}); fetch it again.") from error
    kinds = {"architecture": dict, "classes": list, "imgsz": int}
    for key, kind in kinds.items():
        if not isinstance(description, dict) or not isinstance(description.get(key), kind):
            raise BadInput(f"{path} must hold {key!r} as a {kind.__name__}; this is not a model folder.")
    return description


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise NotFound(f"{path} does not exist; a model folder holds {WEIGHTS} and {DESCRIPTION}.")
    return path.read_bytes()


def _check_image(image: Image, position: int) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise BadInput(
            f"Image {position} must be uint8 RGB of shape (height, width, 3), got {image.dtype} {image.shape}."
        )
