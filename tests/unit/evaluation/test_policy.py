import json
from pathlib import Path

import pytest

from retrain.errors import ConfigError, NotFound
from retrain.evaluation.policy import GatePolicy

LEAST = {"must_improve": [{"metric": "map50"}]}


def test_a_policy_is_read_from_a_file(tmp_path):
    file = tmp_path / "policy.yaml"
    file.write_text(
        "must_improve: [{metric: map50, slice: new frames}]\n"
        "max_loss:\n  overall: {recall: 0.02}\n  per_slice: {frozen test: {map50: 0.03, map50_95: 0}}\n"
        "minimum: {groups: 10}\n"
    )

    policy = GatePolicy.read(file)

    assert policy.max_loss.overall == {"recall": 0.02}
    assert policy.slices == {"new frames": {"map50"}, "frozen test": {"map50", "map50_95"}}
    assert (policy.minimum.groups, policy.minimum.images, policy.level) == (10, 1, 0.95)
    assert policy.judges_all_images


def test_a_policy_of_slices_alone_judges_nothing_else():
    assert not GatePolicy.of({"must_improve": [{"slice": "night"}]}).judges_all_images


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"max_lost": {}}, "unknown key 'max_lost'; did you mean 'max_loss'?"),
        ({"max_loss": {"per_clas": {}}}, "unknown key 'max_loss.per_clas'; did you mean 'per_class'?"),
        ({"max_loss": {"overall": {"map5": 0.1}}}, "unknown 'map5'; did you mean 'map50'?"),
        ({"max_loss": {"overall": {"map50": -0.1}}}, "max_loss.overall.map50: Input should be greater than"),
        ({"max_loss": {"overall": {"map50": 1.0}}}, "less than 1, got 1.0"),
        ({"max_loss": {"overall": {"map50": float("nan")}}}, "max_loss.overall.map50"),
        ({"max_loss": {"per_class": {}}}, "max_loss.per_class.margin: Field required"),
        (
            {"must_improve": [{"metric": "recall", "slice": "a"}]},
            "of a slice only map50 and map50_95 are compared",
        ),
        ({"minimum": {"groups": 4}}, "minimum.groups: Input should be greater than or equal to 5, got 4"),
        ({"limits": {"size_mb": 0}}, "limits.size_mb: Input should be greater than 0"),
        ({"operating_point": {"min_recall": "high"}}, "operating_point.min_recall"),
        ({"resamples": 10**9}, "resamples: Input should be less than or equal to 100000"),
        ({"level": 95}, "level: Input should be less than 1, got 95"),
        ({"must_improve": []}, "needs a rule in must_improve or max_loss"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(changed, said):
    with pytest.raises(ConfigError) as caught:
        GatePolicy.of({**LEAST, **changed})

    assert said in str(caught.value)


def test_all_that_is_wrong_is_said_at_once():
    with pytest.raises(ConfigError, match=r"resamples.*levle"):
        GatePolicy.of({**LEAST, "levle": 0.9, "resamples": 5})


def test_files_that_are_no_policy_are_errors(tmp_path):
    with pytest.raises(NotFound, match="No policy at"):
        GatePolicy.read(tmp_path / "none.yaml")
    for text, said in (("[1, 2]", "must be a mapping"), ("a: [", "is not YAML")):
        file = Path(tmp_path / "policy.yaml")
        file.write_text(text)
        with pytest.raises(ConfigError, match=said):
            GatePolicy.read(file)


def test_a_policy_as_it_is_recorded_is_the_same_policy_again():
    policy = GatePolicy.of(
        {
            "must_improve": [{"metric": "recall"}, {"slice": "camera: north"}],
            "max_loss": {
                "overall": {"map50": 0.1},
                "per_class": {"margin": 0.1, "exceptions": {"car": 0.2}},
                "per_slice": {"frozen test": {"map50_95": 0.01}},
            },
            "operating_point": {"min_recall": 0.5},
            "limits": {"size_mb": 50},
            "minimum": {"images": 7},
            "level": 0.9,
            "resamples": 300,
        }
    )

    recorded = json.loads(json.dumps(policy.to_json()))

    assert GatePolicy.of(recorded) == policy
    assert GatePolicy.of(GatePolicy.of(LEAST).to_json()) == GatePolicy.of(LEAST)


def test_what_has_to_be_measured_is_what_has_a_limit():
    assert GatePolicy.of(LEAST).asked_limits == ()
    limits = {"size_mb": 1, "latency_ratio": 2}
    assert GatePolicy.of({**LEAST, "limits": limits}).asked_limits == ("latency_ratio", "size_mb")


@pytest.mark.parametrize(
    "text",
    [
        "must_improve: [{metric: map50}]\nmax_loss: {overall: {recall: 0.1}}\nmust_improve: [{metric: f1}]\n",
        "must_improve: [{metric: map50}]\nmax_loss: {overall: {map50: 0.01}, overall: {recall: 0.5}}\n",
    ],
)
def test_a_key_written_twice_is_an_error_because_the_first_would_be_lost(tmp_path, text):
    file = tmp_path / "policy.yaml"
    file.write_text(text)

    with pytest.raises(ConfigError, match=r"policy\.yaml is not YAML: the key '\w+' is there twice"):
        GatePolicy.read(file)


def test_a_metric_that_is_right_elsewhere_is_not_proposed_again():
    with pytest.raises(ConfigError) as caught:
        GatePolicy.of({"max_loss": {"per_slice": {"night": {"f1": 0.1}}}})

    assert "unknown 'f1'" in str(caught.value)
    assert "did you mean 'f1'" not in str(caught.value)
    assert "'map50' or 'map50_95'" in str(caught.value)


def test_a_folder_is_no_policy(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        GatePolicy.read(tmp_path)
