"""A detector made in seconds, and images labelled by what it finds in them, so that its scores are neither 0 nor 1."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from retrain.boxes import xyxy_to_yolo
from retrain.dataset.manager import DatasetManager
from retrain.detector import Detector, StoredModel
from retrain.training.export.onnx_file import write_onnx
from retrain.training.export.pt_file import write_pt
from retrain.training.ultralytics_parts import DetectionModel
from retrain.training.weights import write_model_folder

CLASSES = ("a", "b", "c")
SIDE, IMAGES = 64, 12


@dataclass(frozen=True)
class Models:
    """One model three times, and another."""

    folder: Path
    pt: Path
    onnx: Path
    other: Path


def stored_model(seed: int) -> StoredModel:
    """Untrained, but normalised and with raised class biases, so that it proposes boxes of many scores and sizes."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = DetectionModel("yolov8n.yaml", nc=len(CLASSES), verbose=False)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 1.0
        model.train()(torch.rand(8, 3, SIDE, SIDE))
    weights = model.state_dict()
    for name, tensor in weights.items():
        if "cv3" in name and name.endswith("2.bias"):
            tensor.add_(6.0)
        elif "cv3" in name and name.endswith("2.weight"):
            tensor.mul_(3.0)
        elif "cv2" in name and name.endswith(".2.bias"):
            # Near distances from a cell's centre to the sides of its box are likelier.
            tensor.sub_(0.6 * torch.arange(16.0).repeat(4))
    return StoredModel(model.yaml, CLASSES, SIDE, weights)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    root = tmp_path_factory.mktemp("models")
    made = Models(root / "folder", root / "model.pt", root / "model.onnx", root / "other")
    stored = stored_model(0)
    for folder, each in ((made.folder, stored), (made.other, stored_model(1))):
        folder.mkdir()
        write_model_folder(folder, each)
    write_pt(made.pt, stored, half=False)
    write_onnx(made.onnx, stored)
    return made


@pytest.fixture(scope="session")
def pictures(models: Models) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Pixels of several sizes, boxes and classes; the boxes are the model's surer ones, some moved."""
    rng = np.random.default_rng(0)
    detector = Detector.load(models.folder)
    made = []
    for index in range(IMAGES):
        pixels = rng.integers(0, 256, (SIDE, SIDE + 16 * (index % 3), 3), dtype=np.uint8)
        found = detector.predict([pixels], confidence=0.05)[0]
        large = np.flatnonzero((found.boxes[:, 2:] - found.boxes[:, :2]).min(axis=1) > 8)[:12:3]
        boxes = found.boxes[large].copy()
        boxes[1::2, :2] += 3
        made.append((pixels, boxes, found.classes[large]))
    assert sum(len(boxes) for _, boxes, _ in made) > 20
    return made


@pytest.fixture(scope="session")
def coco_folder(
    pictures: list[tuple[np.ndarray, np.ndarray, np.ndarray]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """`annotations/instances_test.json` and `test/`; category ids are 10, 20 and 30."""
    root = tmp_path_factory.mktemp("coco")
    (root / "annotations").mkdir()
    (root / "test").mkdir()
    images, annotations = [], []
    for index, (pixels, boxes, labels) in enumerate(pictures):
        Image.fromarray(pixels).save(root / "test" / f"{index:04}.png")
        height, width = pixels.shape[:2]
        images.append({"id": 100 + index, "file_name": f"{index:04}.png", "width": width, "height": height})
        for box, label in zip(boxes.tolist(), labels.tolist(), strict=True):
            bbox = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": 100 + index,
                    "category_id": 10 * (label + 1),
                    "bbox": bbox,
                    "area": bbox[2] * bbox[3] / 2,
                    "iscrowd": int(len(annotations) % 9 == 8),
                }
            )
    categories = [{"id": 10 * (index + 1), "name": name} for index, name in enumerate(CLASSES)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations" / "instances_test.json").write_text(json.dumps(content))
    return root


@pytest.fixture(scope="session")
def yolo_folder(
    pictures: list[tuple[np.ndarray, np.ndarray, np.ndarray]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The same images and boxes, with a split to train on that nobody asks for."""
    root = tmp_path_factory.mktemp("yolo")
    for split in ("train", "test"):
        (root / "images" / split).mkdir(parents=True)
        (root / "labels" / split).mkdir(parents=True)
    for index, (pixels, boxes, labels) in enumerate(pictures):
        split = "train" if index == 0 else "test"
        Image.fromarray(pixels).save(root / "images" / split / f"{index:04}.png")
        rows = xyxy_to_yolo(boxes, pixels.shape[1], pixels.shape[0]).tolist()
        lines = [
            f"{label} {' '.join(map(repr, row))}" for label, row in zip(labels.tolist(), rows, strict=True)
        ]
        (root / "labels" / split / f"{index:04}.txt").write_text("\n".join(lines))
    data = {"train": "images/train", "test": "images/test", "names": dict(enumerate(CLASSES))}
    (root / "data.yaml").write_text(yaml.safe_dump(data))
    return root


@pytest.fixture(scope="session")
def versions(
    pictures: list[tuple[np.ndarray, np.ndarray, np.ndarray]], tmp_path_factory: pytest.TempPathFactory
) -> DatasetManager:
    """v1.0.0, whose test split is all but two images, in six recordings of two cameras."""
    root = tmp_path_factory.mktemp("versions")
    paths = []
    for index, (pixels, _, _) in enumerate(pictures):
        paths.append(root / f"{index:04}.png")
        Image.fromarray(pixels).save(paths[-1])
    manager = DatasetManager(root / "datasets")
    draft = manager.create_version("v1.0.0", classes=list(CLASSES))
    manager.add_images(
        draft,
        paths,
        [
            [
                {"class": CLASSES[label], "box": box}
                for box, label in zip(boxes.tolist(), labels.tolist(), strict=True)
            ]
            for _, boxes, labels in pictures
        ],
        groups=[f"recording-{index // 2}" for index in range(IMAGES)],
        metadata=[
            {
                "camera_id": f"cam-{index % 2}",
                "weather": "rain" if index < 6 else "dry",
                "captured_at": f"2026-11-{index + 1:02}T{7 + index // 6:02}:30:00+01:00",
            }
            for index in range(IMAGES)
        ],
        splits=["train" if index < 2 else "test" for index in range(IMAGES)],
    )
    manager.commit("v1.0.0")
    return manager
