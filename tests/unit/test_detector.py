import contextlib
import io
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from ultralytics.nn.modules import Conv
from ultralytics.nn.tasks import _SafeLoad

from retrain.detector import Detector, StoredModel, class_width, set_class_width, without_code
from retrain.errors import BadInput, NotFound, Unavailable
from retrain.training.ultralytics_parts import DetectionModel
from retrain.training.weights import write_model_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model with raised class biases, so that it does propose boxes."""
    path = tmp_path_factory.mktemp("model")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = DetectionModel("yolov8n.yaml", nc=3, verbose=False)
    weights = model.state_dict()
    for name, tensor in weights.items():
        if "cv3" in name and name.endswith("2.bias"):
            tensor.add_(9.0)
        elif "cv3" in name and name.endswith("2.weight"):
            tensor.mul_(40.0)
    write_model_folder(path, StoredModel(model.yaml, ("a", "b", "c"), 64, weights))
    return path


@pytest.fixture(scope="module")
def detector(folder: Path) -> Detector:
    return Detector.load(folder)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_boxes_lie_inside_their_own_image_whatever_its_size(detector: Detector) -> None:
    images = [noise(64, 64), noise(30, 200), noise(480, 64), noise(1, 1)]
    results = detector.predict(images)
    assert len(results) == 4
    for image, found in zip(images, results, strict=True):
        assert len(found) > 0
        height, width = image.shape[:2]
        assert (found.boxes >= 0).all()
        assert (found.boxes <= [width, height, width, height]).all()
        assert set(found.classes) <= {0, 1, 2}
        assert (np.diff(found.scores) <= 0).all()


def test_letterboxing_is_undone_exactly(detector: Detector) -> None:
    """A wide image has the boxes of the same picture already padded to a square, shifted by the padding."""
    wide = noise(32, 64)
    square = np.full((64, 64, 3), 114, dtype=np.uint8)
    square[16:48] = wide
    in_wide, in_square = detector.predict([wide])[0], detector.predict([square])[0]
    shifted = np.clip(in_square.boxes - [0, 16, 0, 16], 0, [64, 32, 64, 32])
    assert in_wide.scores == pytest.approx(in_square.scores)
    assert in_wide.boxes == pytest.approx(shifted, abs=1e-3)


def test_thresholds_and_limit_are_obeyed(detector: Detector) -> None:
    image = noise(64, 64)
    every = detector.predict([image])[0]
    # A score of its own is enough: a class may be served from just that.
    for limit in (every.scores[0], every.scores[len(every) // 2]):
        kept = detector.predict([image], confidence=float(limit))[0]
        assert kept.scores.tolist() == every.above(limit).scores.tolist()
    between = float(every.scores[:2].mean())
    assert len(detector.predict([image], confidence=between)[0]) == len(every.above(between)) == 1
    assert len(detector.predict([image], max_detections=2)[0]) == 2
    assert len(detector.predict([image], iou=0.1)[0]) < len(detector.predict([image], iou=0.9)[0])


def test_no_images_no_results_and_more_than_one_chunk_keeps_order(detector: Detector) -> None:
    assert detector.predict([]) == []
    images = [noise(16, 16 + number) for number in range(35)]
    # An untrained network says the same of all of them, but clipped to the size of each.
    assert [one.boxes[:, 2].max() for one in detector.predict(images)] == [16 + n for n in range(35)]


def test_threads_get_the_answers_of_one_thread(detector: Detector) -> None:
    images = [noise(64, 64, seed) for seed in range(8)]
    alone = [detector.predict([image])[0] for image in images]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda image: detector.predict([image])[0], images))
    for one, other in zip(alone, together, strict=True):
        assert one.to_json() == other.to_json()


def test_loading_leaves_the_random_state_alone(folder: Path) -> None:
    before = torch.get_rng_state()
    Detector.load(folder).warm_up()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((8, 8, 3), np.float32),
        np.zeros((0, 8, 3), np.uint8),
    ],
)
def test_image_of_another_kind_is_refused(image: np.ndarray, detector: Detector) -> None:
    with pytest.raises(BadInput, match="Image 1 must be uint8 RGB"):
        detector.predict([noise(8, 8), image])


def test_threshold_outside_zero_to_one_is_refused(detector: Detector) -> None:
    with pytest.raises(BadInput, match="confidence"):
        detector.predict([], confidence=1.5)


def copy(folder: Path, target: Path, **changes: object) -> Path:
    target.mkdir()
    (target / "weights.safetensors").write_bytes((folder / "weights.safetensors").read_bytes())
    description = {**json.loads((folder / "model.json").read_text()), **changes}
    (target / "model.json").write_text(json.dumps(description))
    return target


def test_missing_and_damaged_files_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"model\.json"):
        Detector.load(tmp_path / "absent")
    torn = copy(folder, tmp_path / "torn", weights_sha256=None)
    (torn / "weights.safetensors").write_bytes((torn / "weights.safetensors").read_bytes()[:1000])
    with pytest.raises(BadInput, match=r"weights\.safetensors"):
        Detector.load(torn)
    (torn / "weights.safetensors").unlink()
    with pytest.raises(NotFound, match=r"weights\.safetensors"):
        Detector.load(torn)
    (torn / "model.json").write_text("{")
    with pytest.raises(BadInput, match="not JSON"):
        Detector.load(torn)


def test_description_that_does_not_fit_the_weights_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="do not fit"):
        Detector.load(copy(folder, tmp_path / "classes", classes=["a", "b"]))
    with pytest.raises(BadInput, match="'imgsz'"):
        Detector.load(copy(folder, tmp_path / "imgsz", imgsz="64"))
    with pytest.raises(BadInput, match="cannot be built"):
        Detector.load(copy(folder, tmp_path / "architecture", architecture={"backbone": []}))


@pytest.mark.parametrize("code", ["__import__('pathlib').Path({!r}).touch()", "open({!r}, 'w')"])
def test_description_cannot_run_code(code: str, folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "ran"
    architecture = json.loads((folder / "model.json").read_text())["architecture"]
    hostile = {**architecture, "activation": code.format(str(target))}
    # Ultralytics alone would run it, and keep the outcome as every later model's default.
    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Exception):
        patch.setattr(Conv, "default_act", Conv.default_act)
        DetectionModel({**hostile}, ch=3, nc=3, verbose=False)
    assert target.exists()
    target.unlink()

    model = copy(folder, tmp_path / "hostile", architecture=hostile)
    with pytest.raises(BadInput, match="cannot be built"):
        StoredModel.read(model).build()
    with pytest.raises(BadInput, match="cannot be built"):
        Detector.load(model)
    assert not target.exists()


def test_activation_is_that_of_its_own_model_only(folder: Path, tmp_path: Path) -> None:
    architecture = json.loads((folder / "model.json").read_text())["architecture"]
    relu = {**architecture, "activation": "torch.nn.ReLU()"}
    changed = copy(folder, tmp_path / "relu", architecture=relu)
    assert isinstance(StoredModel.read(changed).build().model[0].act, torch.nn.ReLU)
    broken = copy(folder, tmp_path / "broken", architecture={**relu, "head": [[-1, 1, "NoLayer", []]]})
    with pytest.raises(BadInput, match="cannot be built"):
        StoredModel.read(broken).build()
    assert isinstance(StoredModel.read(folder).build().model[0].act, torch.nn.SiLU)


def test_safe_building_ends_with_the_block() -> None:
    assert not getattr(_SafeLoad._local, "active", False)
    with without_code(), without_code():
        assert _SafeLoad._local.active
    assert not _SafeLoad._local.active


def test_model_fine_tuned_for_fewer_classes_keeps_its_width(tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        model = DetectionModel("yolov8n.yaml", nc=2, verbose=False)
        set_class_width(model, 100)
    write_model_folder(tmp_path, StoredModel(model.yaml, ("a", "b"), 64, model.state_dict()))
    before = torch.get_rng_state()
    built = StoredModel.read(tmp_path).build()
    assert torch.equal(torch.get_rng_state(), before)
    assert class_width(built.state_dict()) == 100
    assert all(torch.equal(tensor, built.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_weights_of_no_detector_are_refused() -> None:
    with pytest.raises(BadInput, match="no class output"):
        class_width({"model.0.weight": torch.zeros(1)})


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpu_that_is_not_there_is_said_plainly(folder: Path) -> None:
    with pytest.raises(Unavailable, match="no GPU"):
        Detector.load(folder, device="cuda")


def test_a_gpu_beyond_those_there_are_is_said_plainly(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(Unavailable, match="'cuda:99' but torch sees 2 GPUs, counted from cuda:0"):
        Detector.load(folder, device="cuda:99")


def test_ultralytics_does_not_change_what_a_damaged_image_is() -> None:
    with pytest.raises(PIL.UnidentifiedImageError):
        PIL.Image.open(io.BytesIO(b"no image"))
