import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from retrain import environment
from retrain.detector import StoredModel
from retrain.errors import BadInput, ConfigError, NotFound, Unavailable
from retrain.training import initial_weights
from retrain.training.architecture import architecture_of
from retrain.training.export.pt_file import write_pt
from retrain.training.initial_weights import located, model_folder, weights_folder
from retrain.training.orchestrator import TrainingOrchestrator
from retrain.training.ultralytics_parts import DetectionModel
from retrain.training.weights import portable_architecture


class RunsCode:
    """Makes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return Path.touch, (self.target,)


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RETRAIN_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def ultralytics_file(
    path: Path, classes: tuple[str, ...] = ("blue", "green"), seed: int = 0
) -> DetectionModel:
    """As Ultralytics' trainer writes it: the pickled model, in half precision."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = DetectionModel("yolov8n.yaml", ch=3, nc=len(classes), verbose=False)
    model.names = dict(enumerate(classes))
    model.args = {"imgsz": 64, "task": "detect"}
    torch.save({"model": None, "ema": model.half(), "train_args": {"imgsz": 64}}, path)
    return model


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    """One epoch of four images."""
    rng = np.random.default_rng(0)
    (tmp_path / "data" / "images").mkdir(parents=True)
    (tmp_path / "data" / "labels").mkdir()
    for index in range(4):
        pixels = rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "data" / "images" / f"{index}.png")
        (tmp_path / "data" / "labels" / f"{index}.txt").write_text(f"{index % 2} 0.5 0.5 0.4 0.4\n")
    return {
        "train_data": tmp_path / "data",
        "val_data": tmp_path / "data",
        "classes": ["red", "blue"],
        "epochs": 1,
        "batch_size": 2,
        "image_size": 64,
        "learning_rate": 1e-9,
        "threads": 1,
    }


@pytest.mark.parametrize("how", ["torch", "pickle", "beside a model"])
def test_a_file_that_would_run_code_is_refused_and_does_not(how: str, tmp_path: Path) -> None:
    target, file = tmp_path / "ran", tmp_path / "evil.pt"
    evil = RunsCode(target)
    if how == "torch":
        torch.save({"model": evil}, file)
    elif how == "pickle":
        file.write_bytes(pickle.dumps({"model": evil}))
    else:
        model = ultralytics_file(file)
        torch.save({"ema": model, "train_args": {"imgsz": 64}, "more": evil}, file)
    # Else the test would prove nothing.
    with file.open("rb") as opened:
        torch.load(opened, weights_only=False) if how != "pickle" else pickle.load(opened)
    assert target.exists()
    target.unlink()

    with pytest.raises(BadInput, match=r"evil\.pt cannot be used as initial_weights: .*refused"):
        model_folder(file)

    assert not target.exists()
    assert not list((environment.home() / "cache" / "converted").glob("*/model.json"))


def test_a_file_is_converted_exactly_and_once_for_each_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ultralytics_file(tmp_path / "start.pt")
    folder = model_folder(tmp_path / "start.pt")
    stored = StoredModel.read(folder)
    assert (stored.classes, stored.imgsz) == (("blue", "green"), 64)
    for name, tensor in model.float().state_dict().items():
        assert torch.equal(stored.weights[name], tensor), name
    assert {tensor.dtype for tensor in stored.weights.values()} <= {torch.float32, torch.int64}

    (tmp_path / "moved.pt").write_bytes((tmp_path / "start.pt").read_bytes())
    with monkeypatch.context() as patch:
        patch.setattr(initial_weights, "_convert", None)
        assert model_folder(tmp_path / "moved.pt") == folder
    # A conversion that was cut short is made again.
    (folder / "model.json").unlink()
    assert StoredModel.read(model_folder(tmp_path / "start.pt")).classes == ("blue", "green")


def test_what_we_export_can_be_trained_from(tmp_path: Path) -> None:
    model = ultralytics_file(tmp_path / "start.pt").float()
    first = StoredModel(portable_architecture(model.yaml), ("blue", "green"), 64, model.state_dict())
    write_pt(tmp_path / "again.pt", first)
    again = StoredModel.read(model_folder(tmp_path / "again.pt"))
    assert (again.classes, again.architecture, again.imgsz) == (
        first.classes,
        first.architecture,
        first.imgsz,
    )
    assert all(torch.equal(tensor, again.weights[name]) for name, tensor in first.weights.items())


def test_a_pt_is_trained_from_and_names_the_job_by_its_content(
    config: dict[str, Any], tmp_path: Path
) -> None:
    start = ultralytics_file(tmp_path / "start.pt", seed=5).float().state_dict()
    (tmp_path / "moved.pt").write_bytes((tmp_path / "start.pt").read_bytes())
    ultralytics_file(tmp_path / "other.pt", seed=1)
    trainer = TrainingOrchestrator(tmp_path / "jobs")

    result = trainer.train({**config, "initial_weights": tmp_path / "start.pt"})

    trained = StoredModel.read(result.model_folder)
    assert trained.classes == ("red", "blue")
    assert torch.allclose(trained.weights["model.0.conv.weight"], start["model.0.conv.weight"], atol=1e-6)
    # "blue" was the first class there.
    output = "model.22.cv3.0.2.weight"
    assert torch.allclose(trained.weights[output][1], start[output][0], atol=1e-6)
    assert not torch.allclose(trained.weights[output][0], start[output][0], atol=1e-3)
    assert trainer.job_id({**config, "initial_weights": tmp_path / "moved.pt"}) == result.job_id
    assert trainer.job_id({**config, "initial_weights": tmp_path / "other.pt"}) != result.job_id
    assert trainer.job_id(config) != result.job_id


def test_official_weights_put_in_place_are_found_by_name(own_home: Path) -> None:
    assert weights_folder() == own_home / "cache" / "weights"
    weights_folder().mkdir(parents=True)
    ultralytics_file(weights_folder() / "yolov8n.pt")
    assert located("yolov8n") == weights_folder() / "yolov8n.pt"


def test_official_weights_without_a_network_say_where_to_put_the_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A proxy that nobody listens at: there is no network, wherever this runs.
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(Unavailable) as caught:
        located("yolov8n")
    assert f"yolov8n.pt are not in {weights_folder()}" in str(caught.value)
    assert "Put the file there" in str(caught.value)
    assert not list(weights_folder().glob("**/*.pt"))


def test_what_is_not_there_or_is_no_weights_is_named(config: dict[str, Any], tmp_path: Path) -> None:
    trainer = TrainingOrchestrator(tmp_path / "jobs")
    with pytest.raises(NotFound, match=r"absent\.pt, which does not exist"):
        trainer.train({**config, "initial_weights": tmp_path / "absent.pt"})
    with pytest.raises(NotFound, match="no official weights 'yolov8q'; try 'yolov8"):
        located("yolov8q")
    (tmp_path / "notes.txt").write_text("no weights")
    with pytest.raises(BadInput, match=r"must be an Ultralytics \.pt"):
        model_folder(tmp_path / "notes.txt")
    (tmp_path / "torn.pt").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(BadInput, match=r"torn\.pt cannot be used as initial_weights: it is damaged"):
        model_folder(tmp_path / "torn.pt")
    torch.save({"model": {"weight": torch.zeros(2)}}, tmp_path / "plain.pt")
    with pytest.raises(BadInput, match="it holds a dict, not a detection model"):
        model_folder(tmp_path / "plain.pt")


def test_a_yaml_file_is_trained_and_counts_by_content(config: dict[str, Any], tmp_path: Path) -> None:
    own = {**architecture_of("yolov8n"), "scale": "n"}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(own))
    (tmp_path / "moved.yaml").write_text(json.dumps(own))
    (tmp_path / "other.yaml").write_text(yaml.safe_dump({**own, "scale": "s"}))
    trainer = TrainingOrchestrator(tmp_path / "jobs")

    result = trainer.train({**config, "model": str(tmp_path / "own.yaml")})

    assert StoredModel.read(result.model_folder).build().yaml["scale"] == "n"
    assert trainer.job_id({**config, "model": tmp_path / "moved.yaml"}) == result.job_id
    assert trainer.job_id({**config, "model": tmp_path / "other.yaml"}) != result.job_id


def test_a_yaml_file_cannot_run_code(config: dict[str, Any], tmp_path: Path) -> None:
    target = tmp_path / "ran"
    hostile = {
        **architecture_of("yolov8n"),
        "activation": f"__import__('pathlib').Path({str(target)!r}).touch()",
    }
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(hostile))
    with pytest.raises(ConfigError, match="cannot be built"):
        TrainingOrchestrator(tmp_path / "jobs").train({**config, "model": tmp_path / "own.yaml"})
    assert not target.exists()
