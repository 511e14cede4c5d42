"""What no single key shows to be wrong: that the rules a configuration describes can be built."""

from pathlib import Path

import pytest

from retrain.config import load_config
from retrain.errors import ConfigError
from tasks.collection_rules import check_rules


def problems(folder: Path, text: str, **environment: str) -> list[str]:
    path = folder / "c.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        check_rules(load_config(path, environment))
    return [line.removeprefix(f"{path}:") for line in str(caught.value).splitlines()]


@pytest.mark.parametrize(
    ("settings", "key", "said"),
    [
        ("trigger: {timezone: Europe/Berln}", "trigger.timezone", "Did you mean 'Europe/Berlin'?"),
        ("trigger: {freeze: [weekend]}", "trigger.freeze", "The freeze 'weekend' cannot be read"),
        (
            "trigger: {freeze: ['Mon 00:00 - Thu 00:00', 'Thu 00:00 - Mon 00:00']}",
            "trigger.freeze",
            "cover the whole week",
        ),
        ("trigger: {class_thresholds: {dog: 3}}", "trigger.class_thresholds.dog", "Unknown class in "),
        ("strategy: rare_class", "strategy", "The collection strategy 'rare_class' needs targets."),
        ("strategy: per_class", "strategy", "The collection strategy 'per_class' needs class_thresholds."),
        ("strategy: combined", "strategy", "The collection strategy 'combined' needs weights."),
        ("settings: {targets: {dog: 0.5}}", "settings.targets.dog", "Unknown class in "),
        ("settings: {targets: {object: 0}}", "settings.targets", "must be in (0, 1], got 0.0"),
        ("settings: {class_thresholds: {dog: 1}}", "settings.class_thresholds.dog", "Unknown class in "),
        (
            "settings: {weights: {uncertanty: 1}}",
            "settings.weights.uncertanty",
            "Did you mean 'uncertainty'?",
        ),
        ("settings: {weights: {rare_class: 1}}", "settings.weights.rare_class", "needs targets"),
        ("settings: {weights: {random: 0}}", "settings.weights", "weights['random'] must be in (0, 1]"),
        ("redis_url: nonsense", "redis_url", "must begin with redis://"),
    ],
)
def test_a_rule_that_cannot_be_built_names_its_key_and_line_once(tmp_path, settings, key, said):
    lines = problems(tmp_path, f"data_collection:\n  {settings}\n")

    assert len(lines) == 1
    assert lines[0].startswith(f"2: data_collection.{key}: ")
    assert said in lines[0]


def test_replay_of_an_unknown_class_is_found_before_a_cycle_meets_it(tmp_path):
    (line,) = problems(tmp_path, "training:\n  replay_by_class: {objct: 0.5, no object: 0.1}\n")

    assert line.startswith("2: training.replay_by_class.objct: Unknown class in replay_by_class")
    assert "Did you mean 'object'?" in line


def test_every_problem_is_reported_at_once(tmp_path):
    text = """
data_collection:
  strategy: rare_class
  settings: {weights: {unsure: 1, maybe: 1}}
  trigger:
    timezone: Mars
    freeze: [never, always]
    class_thresholds: {dog: 3, cat: 4}
"""
    variable = "environment RETRAIN_DATA_COLLECTION__SETTINGS__TARGETS"
    lines = problems(tmp_path, text, RETRAIN_DATA_COLLECTION__SETTINGS__TARGETS="{cow: 0.5, dog: 0.5}")

    assert [line.split(": ")[:2] for line in lines] == [
        ["8", "data_collection.trigger.class_thresholds.dog"],
        ["8", "data_collection.trigger.class_thresholds.cat"],
        [variable, "data_collection.settings.targets.cow"],
        [variable, "data_collection.settings.targets.dog"],
        ["6", "data_collection.trigger.timezone"],
        ["7", "data_collection.trigger.freeze"],
        ["7", "data_collection.trigger.freeze"],
        ["4", "data_collection.settings.weights.unsure"],
        ["4", "data_collection.settings.weights.maybe"],
        ["3", "data_collection.strategy"],
    ]


@pytest.mark.parametrize("path", ["configs/config.yaml", "configs/demo.yaml"])
def test_the_configurations_we_ship_describe_rules_that_can_be_built(path):
    check_rules(load_config(Path(path), {}))


def test_a_full_configuration_passes(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(
        """
model: {classes: [dent, scratch]}
data_collection:
  strategy: combined
  redis_url: redis://user:secret@host:7000/1
  settings:
    weights: {uncertainty: 1.0, rare_class: 0.5, per_class: 0.5, track_gap: 0.1}
    targets: {dent: 0.5}
    class_thresholds: {scratch: 0.4}
  trigger:
    class_thresholds: {dent: 3}
    freeze: ["Fri 18:00 - Mon 06:00"]
    timezone: Europe/Berlin
""",
        encoding="utf-8",
    )

    check_rules(load_config(path, {}))


def test_a_gate_policy_about_a_class_the_model_has_not_is_found_too(tmp_path: Path) -> None:
    policy = "max_loss: {per_class: {margin: 0.1, exceptions: {ten: 0.2}}}"
    (tmp_path / "policy.yaml").write_text(policy)

    [said] = problems(tmp_path, "evaluation: {policy: policy.yaml}")

    assert "exceptions names 'ten'; model.classes has object" in said
