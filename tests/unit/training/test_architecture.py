from pathlib import Path
from typing import Any

import pytest
import yaml

from retrain.errors import ConfigError
from retrain.training.architecture import DETECTORS, architecture_of, checked_model, is_file
from retrain.training.ultralytics_parts import yaml_model_load


@pytest.mark.parametrize("name", DETECTORS)
def test_every_listed_detector_is_read_as_ultralytics_reads_it(name: str) -> None:
    theirs = yaml_model_load(f"{name}.yaml")
    ours = architecture_of(checked_model("model", name))
    # Building a model, it takes the first where it found none.
    theirs["scale"] = theirs["scale"] or next(iter(theirs["scales"]))
    assert ours == {key: value for key, value in theirs.items() if key != "yaml_file"}
    assert ours["scale"] == name[-1]


@pytest.mark.parametrize("given", ["yolov8n", "yolov8n.yaml"])
def test_the_ending_may_be_left_out(given: str) -> None:
    assert checked_model("model", given) == "yolov8n"
    assert not is_file(checked_model("model", given))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("yolov8nn", "'yolov8n'"),
        ("yolo11z", "'yolo11"),
        ("nosuchmodel", "'nosuchmodel' is not an Ultralytics architecture; try"),
        ("no/such/file.yaml", "a yaml file that exists, got 'no/such/file.yaml'"),
        ("", "must be a model name"),
        (8, "must be a model name"),
    ],
)
def test_what_is_no_model_is_refused(given: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        checked_model("model", given)


def test_a_size_must_be_said() -> None:
    with pytest.raises(ConfigError, match="leaves open which of the sizes n, s, m, l, x"):
        architecture_of(checked_model("model", "yolov8"))


def shipped() -> dict[str, Any]:
    return {key: value for key, value in yaml_model_load("yolov8n.yaml").items() if key != "yaml_file"}


def test_a_file_is_its_content_and_its_size_is_in_it_or_in_its_name(tmp_path: Path) -> None:
    content = shipped()
    del content["scale"]
    (tmp_path / "yolov8s-own.yaml").write_text(yaml.safe_dump(content))
    model = checked_model("model", str(tmp_path / "yolov8s-own.yaml"))
    assert is_file(model)
    assert architecture_of(model) == {**content, "scale": "s"}

    (tmp_path / "own.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match="leaves open which of the sizes"):
        checked_model("model", tmp_path / "own.yaml")

    (tmp_path / "own.yaml").write_text(yaml.safe_dump({**content, "scale": "m"}))
    assert architecture_of(checked_model("model", tmp_path / "own.yaml"))["scale"] == "m"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("backbone: [", "cannot be read"),
        ("- 1", "needs the lists backbone and head"),
        ("backbone: []\nhead: 3", "needs the lists backbone and head"),
    ],
)
def test_a_file_that_holds_no_architecture_is_refused(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(content)
    with pytest.raises(ConfigError, match=message):
        checked_model("model", tmp_path / "own.yaml")
