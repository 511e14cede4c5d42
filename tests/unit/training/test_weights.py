from pathlib import Path

import pytest
import torch

from retrain.detector import StoredModel
from retrain.errors import BadInput, PostConditionFailed
from retrain.training.weights import write_model_folder

MODEL = StoredModel(
    architecture={
        "scale": "n",
        "nc": 2,
        "backbone": [[-1, 1, "Conv", [64, 3, 2]]],
        "yaml_file": "/somewhere/y.yaml",
    },
    classes=("a", "b"),
    imgsz=64,
    weights={"a": torch.arange(6.0).reshape(2, 3), "n": torch.tensor(3), "bad": torch.tensor([float("nan")])},
)


def test_model_comes_back_as_written_without_the_path_of_its_yaml(tmp_path: Path) -> None:
    write_model_folder(tmp_path, MODEL)
    back = StoredModel.read(tmp_path)
    assert (back.classes, back.imgsz) == (("a", "b"), 64)
    assert back.architecture == {
        key: value for key, value in MODEL.architecture.items() if key != "yaml_file"
    }
    assert torch.equal(back.weights["a"], MODEL.weights["a"])
    assert back.weights["n"].dtype == torch.int64


def test_equal_weights_give_an_equal_file(tmp_path: Path) -> None:
    reordered = StoredModel(MODEL.architecture, MODEL.classes, 64, dict(reversed(MODEL.weights.items())))
    assert write_model_folder(tmp_path / "1", MODEL) == write_model_folder(tmp_path / "2", reordered)
    assert (tmp_path / "1" / "model.json").read_bytes() == (tmp_path / "2" / "model.json").read_bytes()


def test_weights_of_another_model_are_noticed(tmp_path: Path) -> None:
    write_model_folder(tmp_path / "1", MODEL)
    write_model_folder(
        tmp_path / "2", StoredModel(MODEL.architecture, MODEL.classes, 64, {"a": torch.zeros(1)})
    )
    (tmp_path / "2" / "weights.safetensors").replace(tmp_path / "1" / "weights.safetensors")
    with pytest.raises(BadInput, match="sha256"):
        StoredModel.read(tmp_path / "1")


def test_disk_that_lies_is_caught_by_reading_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = StoredModel(MODEL.architecture, MODEL.classes, 64, {"a": torch.zeros(2, 3)})
    monkeypatch.setattr(StoredModel, "read", lambda _: other)
    with pytest.raises(PostConditionFailed, match="different model"):
        write_model_folder(tmp_path, MODEL)
