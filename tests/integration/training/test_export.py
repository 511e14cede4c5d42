"""A really trained model, in the formats that others read, as others read it."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import yaml
from PIL import Image
from ultralytics import YOLO

from retrain.detector import Detector, StoredModel
from retrain.errors import BadInput, NotFound, PostConditionFailed, StorageFull
from retrain.serving.release import Lineage, ReleaseStore
from retrain.storage import files
from retrain.storage.local_blobs import LocalBlobs
from retrain.training.export import bundle as bundle_module
from retrain.training.export import onnx_file, pt_file
from retrain.training.export.bundle import bundle
from retrain.training.export.onnx_file import TOLERANCE, write_onnx
from retrain.training.export.pt_file import write_pt
from retrain.training.result import TrainingResult
from retrain.training.weights import write_model_folder

NAMES = {"model.json", "weights.safetensors", "model.pt", "model.onnx"}


@pytest.fixture(scope="module")
def trained(well_trained: TrainingResult) -> TrainingResult:
    return well_trained


@pytest.fixture(scope="module")
def stored(trained: TrainingResult) -> StoredModel:
    return StoredModel.read(trained.model_folder)


@pytest.fixture(scope="module")
def bundled(
    trained: TrainingResult, stored: StoredModel, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, str]]:
    folder = tmp_path_factory.mktemp("bundled")
    write_model_folder(folder, stored)
    return folder, bundle(folder)


@pytest.fixture
def whole(bundled: tuple[Path, dict[str, str]], tmp_path: Path) -> Path:
    """A bundled folder of the test's own."""
    folder = tmp_path / "whole"
    folder.mkdir()
    for path in bundled[0].iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def other_weights(stored: StoredModel, change: float = 1.0) -> StoredModel:
    """The same but for one bias: how likely it is that a box's left side is three cells away."""
    weights = {name: tensor.clone() for name, tensor in stored.weights.items()}
    weights["model.22.cv2.0.2.bias"][3] += change
    return StoredModel(stored.architecture, stored.classes, stored.imgsz, weights)


def random_states() -> tuple[Any, ...]:
    numpy_state = np.random.get_state()[1]
    assert isinstance(numpy_state, np.ndarray)
    return random.getstate(), numpy_state.tolist(), torch.get_rng_state().tolist()


@pytest.mark.parametrize("half", [True, False])
def test_ultralytics_scores_the_pt_as_training_did(
    half: bool, trained: TrainingResult, stored: StoredModel, rectangles: dict[str, Any], tmp_path: Path
) -> None:
    write_pt(tmp_path / "model.pt", stored, half=half)
    data = {
        "train": str(rectangles["val_data"] / "images"),
        "val": str(rectangles["val_data"] / "images"),
        "names": {0: "red", 1: "blue"},
    }
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(data))
    # Ultralytics would put a cache of the labels beside them.
    beside = sorted(rectangles["val_data"].iterdir())

    measured = YOLO(tmp_path / "model.pt").val(
        data=str(tmp_path / "data.yaml"),
        imgsz=64,
        batch=8,
        workers=0,
        plots=False,
        device="cpu",
        project=str(tmp_path),
        verbose=False,
    )

    for path in set(rectangles["val_data"].iterdir()) - set(beside):
        path.unlink()
    assert measured.box.map50 == pytest.approx(trained.best.map50, abs=1e-3)
    assert measured.box.map == pytest.approx(trained.best.map50_95, abs=1e-3)


def test_ultralytics_predicts_from_the_pt_what_serving_predicts(
    bundled: tuple[Path, dict[str, str]], rectangles: dict[str, Any]
) -> None:
    image = np.asarray(Image.open(rectangles["val_data"] / "images" / "0000.png"))
    model = YOLO(bundled[0] / "model.pt")
    assert (model.task, model.names) == ("detect", {0: "red", 1: "blue"})

    (found,) = model.predict(
        image[..., ::-1].copy(), imgsz=64, conf=0.01, iou=0.7, device="cpu", verbose=False
    )

    ours = Detector.load(bundled[0]).predict([image], confidence=0.01, iou=0.7)[0]
    assert len(ours) > 0
    best = int(found.boxes.conf.argmax())
    assert found.boxes.xyxy[best].numpy() == pytest.approx(ours.boxes[0], abs=0.5)
    assert float(found.boxes.conf[best]) == pytest.approx(ours.scores[0], abs=0.01)
    assert int(found.boxes.cls[best]) == ours.classes[0]


def test_a_fetched_release_has_the_pt_and_the_onnx_and_ultralytics_predicts_with_both(
    trained: TrainingResult, rectangles: dict[str, Any], tmp_path: Path
) -> None:
    releases = ReleaseStore(LocalBlobs(tmp_path / "blobs"), tmp_path / "cache")
    lineage = Lineage("v1.0.0", "d" * 64, trained.job_id, None, "test")
    folder = releases.fetch(releases.publish(trained.model_folder, lineage))
    image = np.asarray(Image.open(rectangles["val_data"] / "images" / "0000.png"))
    ours = Detector.load(folder).predict([image], confidence=0.01, iou=0.7)[0]
    assert len(ours) > 0

    for name in ("model.pt", "model.onnx"):
        (found,) = YOLO(folder / name, task="detect").predict(
            image[..., ::-1].copy(), imgsz=64, conf=0.01, iou=0.7, device="cpu", verbose=False
        )
        best = int(found.boxes.conf.argmax())
        assert found.names == {0: "red", 1: "blue"}
        assert found.boxes.xyxy[best].numpy() == pytest.approx(ours.boxes[0], abs=0.5)


def test_ultralytics_exports_the_pt(
    bundled: tuple[Path, dict[str, str]], stored: StoredModel, tmp_path: Path
) -> None:
    (tmp_path / "model.pt").write_bytes((bundled[0] / "model.pt").read_bytes())

    exported = YOLO(tmp_path / "model.pt").export(format="onnx", imgsz=64, device="cpu", verbose=False)

    session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == [1, 3, 64, 64]
    assert session.get_outputs()[0].shape == [1, 6, 84]


def test_the_onnx_gives_what_the_torch_model_gives_at_any_batch_and_size(
    bundled: tuple[Path, dict[str, str]], stored: StoredModel
) -> None:
    session = onnxruntime.InferenceSession(bundled[0] / "model.onnx", providers=["CPUExecutionProvider"])
    model = stored.build().eval()
    for shape in ((1, 3, 64, 64), (2, 3, 96, 64)):
        pictures = np.random.default_rng(1).random(shape, dtype=np.float32)
        (ours,) = session.run(None, {"images": pictures})
        with torch.no_grad():
            theirs = model(torch.from_numpy(pictures))[0].numpy()
        assert np.abs(ours[:, :4] - theirs[:, :4]).max() / 32 <= TOLERANCE
        assert np.abs(ours[:, 4:] - theirs[:, 4:]).max() <= TOLERANCE
    metadata = session.get_modelmeta().custom_metadata_map
    assert metadata["names"] == "{0: 'red', 1: 'blue'}"
    assert (metadata["date"], metadata["stride"]) == ("", "32")


def test_the_onnx_predicts_in_ultralytics(
    bundled: tuple[Path, dict[str, str]], rectangles: dict[str, Any]
) -> None:
    image = np.asarray(Image.open(rectangles["val_data"] / "images" / "0000.png"))
    (found,) = YOLO(bundled[0] / "model.onnx", task="detect").predict(
        image[..., ::-1].copy(), imgsz=64, conf=0.01, iou=0.7, device="cpu", verbose=False
    )
    ours = Detector.load(bundled[0]).predict([image], confidence=0.01, iou=0.7)[0]
    assert found.names == {0: "red", 1: "blue"}
    best = int(found.boxes.conf.argmax())
    assert found.boxes.xyxy[best].numpy() == pytest.approx(ours.boxes[0], abs=0.1)
    assert float(found.boxes.conf[best]) == pytest.approx(ours.scores[0], abs=1e-3)


def test_equal_models_give_equal_files_wherever_they_are(
    bundled: tuple[Path, dict[str, str]], stored: StoredModel, tmp_path: Path
) -> None:
    folder = tmp_path / "another place"
    write_model_folder(folder, stored)

    assert bundle(folder) == bundled[1]

    for name in NAMES:
        assert (folder / name).read_bytes() == (bundled[0] / name).read_bytes()
    assert {path.name for path in folder.iterdir()} == {*NAMES, "files.json"}
    assert set(bundled[1]) == NAMES


def test_exporting_leaves_all_random_states_alone(stored: StoredModel, tmp_path: Path) -> None:
    before = random_states()
    write_pt(tmp_path / "model.pt", stored)
    write_onnx(tmp_path / "model.onnx", stored)
    assert random_states() == before


def test_a_bundle_that_is_whole_is_not_written_again(
    whole: Path, bundled: tuple[Path, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in whole.iterdir()}
    monkeypatch.setattr(bundle_module, "write_onnx", None)
    assert bundle(whole) == bundled[1]
    assert {path.name: path.stat().st_mtime_ns for path in whole.iterdir()} == before


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def other_list(path: Path) -> None:
    path.write_text(json.dumps({"sha256": {"model.pt": "0" * 64}}))


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("model.pt", Path.unlink),
        ("model.onnx", cut),
        ("files.json", cut),
        ("files.json", other_list),
    ],
)
def test_a_damaged_bundle_is_repaired(
    name: str, damage: Callable[[Path], None], whole: Path, bundled: tuple[Path, dict[str, str]]
) -> None:
    damage(whole / name)
    assert bundle(whole) == bundled[1]
    for path in bundled[0].iterdir():
        assert (whole / path.name).read_bytes() == path.read_bytes()


def test_new_weights_in_the_folder_get_new_files(
    whole: Path, stored: StoredModel, bundled: tuple[Path, dict[str, str]]
) -> None:
    write_model_folder(whole, other_weights(stored))
    digests = bundle(whole)
    assert all(digests[name] != bundled[1][name] for name in NAMES)


def test_damaged_or_missing_weights_are_never_bundled(whole: Path) -> None:
    cut(whole / "weights.safetensors")
    with pytest.raises(BadInput, match="sha256"):
        bundle(whole)
    (whole / "weights.safetensors").unlink()
    with pytest.raises(NotFound):
        bundle(whole)


@pytest.mark.parametrize("full_at", ["model.onnx", "files.json"])
def test_a_full_disk_leaves_nothing_that_reads_as_a_bundle(
    full_at: str, whole: Path, stored: StoredModel, bundled: tuple[Path, dict[str, str]]
) -> None:
    write_model_folder(whole, other_weights(stored))
    write = files.write_whole

    def full(target: Path, data: bytes) -> None:
        if target.name == full_at:
            raise StorageFull("No space left.")
        write(target, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "write_whole", full)
        with pytest.raises(StorageFull):
            bundle(whole)

    assert not (whole / "files.json").exists()
    assert not [path for path in whole.iterdir() if path.name.startswith(".")]
    StoredModel.read(whole)
    digests = bundle(whole)
    assert json.loads((whole / "files.json").read_bytes())["sha256"] == digests
    assert digests["model.pt"] != bundled[1]["model.pt"]


@pytest.mark.parametrize("change", [1.0, float("nan")])
def test_a_graph_of_other_weights_is_refused_and_not_written(
    change: float, stored: StoredModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export = onnx_file._exported
    monkeypatch.setattr(
        onnx_file, "_exported", lambda path, given, side: export(path, other_weights(given, change), side)
    )
    with pytest.raises(PostConditionFailed, match="ONNX and torch differ"):
        write_onnx(tmp_path / "model.onnx", stored)
    assert list(tmp_path.iterdir()) == []


def test_a_side_that_the_network_cannot_take_is_refused(stored: StoredModel, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="multiple of 32, got 50"):
        write_onnx(tmp_path / "model.onnx", stored, imgsz=50)


def test_the_pt_says_what_it_is_and_not_where_or_when_it_was_made(
    bundled: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    content = torch.load(bundled[0] / "model.pt", map_location="cpu", weights_only=False)
    assert content["train_args"]["imgsz"] == 64
    assert content["version"] == pt_file.ULTRALYTICS_VERSION
    assert {parameter.dtype for parameter in content["model"].parameters()} == {torch.float16}
    assert str(bundled[0]).encode() not in (bundled[0] / "model.pt").read_bytes()


def test_onnx_runtime_reports_to_nobody(tmp_path: Path) -> None:
    """Its telemetry, native code that no Python hook sees, would leave an id of the session in the temporary folder."""
    surroundings = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    surroundings |= {"RETRAIN_HOME": str(tmp_path / "home"), "PYTHONPATH": str(Path.cwd())}
    (tmp_path / "temporary").mkdir()

    subprocess.run(
        [sys.executable, "-c", "import retrain.training.export.onnx_file"],
        env={**surroundings, "TMPDIR": str(tmp_path / "temporary")},
        check=True,
        timeout=120,
    )

    assert list((tmp_path / "temporary").iterdir()) == []
