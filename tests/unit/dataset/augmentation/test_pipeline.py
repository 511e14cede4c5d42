import json
import re

import pytest

from retrain.dataset.augmentation.pipeline import STEPS, describe, read_pipeline
from retrain.errors import ConfigError


def test_every_mistake_is_named_with_its_place():
    pipeline = [
        {"step": "afine"},
        {"step": "affine", "rotate": [1, 2], "scale": [2, 1], "shift": [0, 3], "fill": True},
        {"rotate_deg": [0, 1]},
        "flip",
        {"step": "jpeg", "quality": [1.5, 20], "probability": 2},
        {"step": "flip", "directions": ["diagonal"]},
        {"step": "mixup", "alpha": True, "min_share": float("nan")},
        {"step": "blur", "sigma_px": 3},
        {"step": "zzz"},
        {"step": ["flip"]},
    ]

    with pytest.raises(ConfigError) as raised:
        read_pipeline(pipeline)

    assert str(raised.value).split("\n  ") == [
        "The augmentation pipeline cannot be used:",
        "step 1: there is no step 'afine'. Did you mean 'affine'?",
        "step 2 (affine): scale must be [low, high] with low <= high, got [2, 1].",
        "step 2 (affine): shift must be within -1 and 1, got [0, 3].",
        "step 2 (affine): fill must be a whole number, got True.",
        "step 2 (affine): there is no parameter 'rotate'. Did you mean 'rotate_deg'?",
        f"step 3: the key 'step' is missing, got {{'rotate_deg': [0, 1]}}. Steps: {', '.join(STEPS)}.",
        "step 4: a step is a mapping such as {step: flip, probability: 0.5}, got 'flip'.",
        "step 5 (jpeg): probability must be within 0 and 1, got 2.",
        "step 5 (jpeg): quality must be [low, high] in whole numbers, got [1.5, 20].",
        "step 6 (flip): directions must be a list of one or more of 'horizontal', 'vertical', got ['diagonal'].",
        "step 7 (mixup): alpha must be a number, got True.",
        "step 7 (mixup): min_share must be a number, got nan.",
        "step 8 (blur): sigma_px must be [low, high], got 3.",
        f"step 9: there is no step 'zzz'. Known: {', '.join(STEPS)}.",
        "step 10: there is no step ['flip']. Did you mean 'flip'?",
    ]


@pytest.mark.parametrize("given", [{"step": "flip"}, "flip", 3, None])
def test_a_pipeline_is_a_list(given):
    with pytest.raises(ConfigError, match="is a list of steps, got"):
        read_pipeline(given)


def test_an_empty_pipeline_has_no_steps():
    assert read_pipeline([]) == ()


@pytest.mark.parametrize("step", sorted(STEPS))
def test_what_describe_says_are_defaults_are_accepted_and_are_the_defaults(step):
    (described,) = [entry for entry in describe() if entry["step"] == step]
    written = {parameter["name"]: parameter["default"] for parameter in described["parameters"]}

    assert read_pipeline([{"step": step, **written}]) == read_pipeline([{"step": step}])


@pytest.mark.parametrize(
    ("step", "parameter"),
    [(entry["step"], parameter) for entry in describe() for parameter in entry["parameters"]],
    ids=lambda value: value if isinstance(value, str) else value["name"],
)
def test_bounds_are_as_described(step, parameter):
    name, low, high = parameter["name"], parameter["low"], parameter["high"]
    if low is None:
        assert parameter["kind"].startswith("a list")
        return
    is_span = isinstance(parameter["default"], list)

    read_pipeline([{"step": step, name: [low, high] if is_span else low}])
    for outside in (low - 1, high + 1):
        value = [min(outside, low), max(outside, high)] if is_span else outside
        with pytest.raises(ConfigError, match=re.escape(f"{name} must be within {low:g} and {high:g}")):
            read_pipeline([{"step": step, name: value}])


def test_the_description_is_complete_and_ready_for_json():
    described = json.loads(json.dumps(describe()))

    assert [entry["step"] for entry in described] == list(STEPS)
    for entry in described:
        assert entry["summary"]
        assert all(parameter["meaning"] and parameter["kind"] for parameter in entry["parameters"])
        assert entry["parameters"][0]["name"] == "probability"


def test_numbers_that_yaml_reads_as_text_are_numbers():
    # YAML 1.1 takes 1e-3 for a text.
    assert read_pipeline([{"step": "flip", "probability": "1e-3"}])[0].probability == 0.001
