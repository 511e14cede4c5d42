"""The settings of balancing and augmentation: refused in words where they cannot be used, part of what a cycle is."""

import subprocess
import sys

import pytest

from retrain.config import RetrainConfig, load_config
from retrain.errors import ConfigError


@pytest.fixture
def write(tmp_path):
    def write_file(text):
        path = tmp_path / "config.yaml"
        path.write_text(text)
        return path

    return write_file


def test_a_pipeline_that_cannot_be_used_is_refused_with_file_line_step_and_the_nearest_name(write):
    path = write(
        "dataset:\n  augmentation_pipeline:\n    - {step: flip}\n    - {step: rian}\n    - {step: hsv, hue: 1}\n"
    )

    with pytest.raises(ConfigError) as refused:
        load_config(path, {})

    said = str(refused.value)
    assert said.startswith(
        f"{path}:2: dataset.augmentation_pipeline: The augmentation pipeline cannot be used"
    )
    assert "step 2: there is no step 'rian'. Did you mean 'rain'?" in said
    assert "step 3 (hsv): there is no parameter 'hue'" in said


@pytest.mark.parametrize("value", ["flip", "{step: flip}", "[flip]", "null", "[[step, flip]]"])
def test_what_is_no_list_of_steps_is_refused_by_name(write, value):
    with pytest.raises(ConfigError, match=r"dataset\.augmentation_pipeline"):
        load_config(write(f"dataset: {{augmentation_pipeline: {value}}}"), {})


def test_a_pipeline_is_taken_from_a_variable_too_and_shown_as_it_was_written():
    environ = {"RETRAIN_DATASET__AUGMENTATION_PIPELINE": "[{step: flip, probability: 0.5}]"}

    resolved = load_config(None, environ)

    assert resolved.config.dataset.augmentation_pipeline == ({"step": "flip", "probability": 0.5},)
    shown = {key: value for key, value, _ in resolved.rows()}
    assert shown["dataset.augmentation_pipeline"] == '[{"step": "flip", "probability": 0.5}]'


@pytest.mark.parametrize(
    "change",
    [{"balance_classes": True}, {"augmentation": False}, {"augmentation_pipeline": [{"step": "flip"}]}],
)
def test_a_cycle_does_not_go_on_under_another_balance_or_augmentation(change):
    assert RetrainConfig.model_validate({"dataset": change}).digest != RetrainConfig().digest


@pytest.mark.parametrize(("pipeline", "loaded"), [("[]", "False"), ("[{step: flip}]", "True")])
def test_only_a_pipeline_costs_the_import_of_opencv(write, pipeline, loaded):
    path = write(f"dataset: {{augmentation_pipeline: {pipeline}}}")
    read = f"from retrain.config import load_config; load_config(Path({str(path)!r}), {{}})"
    code = f"import sys; from pathlib import Path; {read}; print('cv2' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == loaded
