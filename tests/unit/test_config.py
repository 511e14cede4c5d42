import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from retrain.config import RetrainConfig, load_config
from retrain.environment import home
from retrain.errors import ConfigError


def written(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_an_unknown_key_names_file_line_path_and_the_nearest_valid_key(tmp_path):
    path = written(tmp_path, "training:\n  epoch: 5\n")

    with pytest.raises(ConfigError) as caught:
        load_config(path, {})

    assert str(caught.value) == f"{path}:2: unknown key training.epoch. Did you mean training.epochs?"


def test_all_errors_are_reported_at_once(tmp_path):
    path = written(tmp_path, "trainin: {}\ntraining:\n  batch_size: 0\n  optimizer: adamm\n")

    with pytest.raises(ConfigError) as caught:
        load_config(path, {"RETRAIN_EVALUATION__LEVEL": "2"})

    lines = str(caught.value).splitlines()
    assert len(lines) == 4
    assert any(line.startswith("environment RETRAIN_EVALUATION__LEVEL: evaluation.level:") for line in lines)


@pytest.mark.parametrize("value", ["0", "true", "2.5", "most", "[16]"])
def test_a_batch_size_is_a_number_or_auto(tmp_path, value):
    assert (
        load_config(written(tmp_path, "training: {batch_size: auto}\n"), {}).config.training.batch_size
        == "auto"
    )
    with pytest.raises(
        ConfigError, match=r"training.batch_size: .*whole number of at least 1, or auto"
    ) as caught:
        load_config(written(tmp_path, f"training: {{batch_size: {value}}}\n"), {})
    assert len(str(caught.value).splitlines()) == 1


def test_splits_that_do_not_sum_to_one_say_so(tmp_path):
    path = written(tmp_path, "dataset:\n  splits: {train: 0.9, val: 0.2, test: 0.1}\n")

    with pytest.raises(ConfigError, match=r"train \+ val \+ test must be 1, got 0.9 \+ 0.2 \+ 0.1 = 1.2\."):
        load_config(path, {})


def test_the_environment_wins_over_the_file_and_both_are_named_as_sources(tmp_path):
    path = written(tmp_path, "training:\n  epochs: 7\n  patience: 3\n")

    resolved = load_config(path, {"RETRAIN_TRAINING__EPOCHS": "5"})

    assert resolved.config.training.epochs == 5
    assert resolved.config.training.patience == 3
    rows = {key: (value, source) for key, value, source in resolved.rows()}
    assert rows["training.epochs"] == ("5", "environment RETRAIN_TRAINING__EPOCHS")
    assert rows["training.patience"] == ("3", f"{path}:3")
    assert rows["training.batch_size"] == ("16", "default")


def test_a_section_set_by_one_variable_says_so_for_each_of_its_keys(tmp_path):
    path = written(tmp_path, "data_collection: {quota: {per_day: 9, per_hour: 4}}\n")

    resolved = load_config(path, {"RETRAIN_DATA_COLLECTION__QUOTA": "{per_day: 5}"})

    rows = {key: (value, source) for key, value, source in resolved.rows()}
    variable = "environment RETRAIN_DATA_COLLECTION__QUOTA"
    assert rows["data_collection.quota.per_day"] == ("5", variable)
    assert rows["data_collection.quota.per_hour"] == ("null", "default")


def test_every_setting_is_shown_also_one_that_is_an_empty_mapping():
    shown = {key: value for key, value, _ in load_config(None, {}).rows()}

    assert shown["data_collection.trigger.class_thresholds"] == "{}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "training:\n  epochs: 5\ntraining:\n  batch_size: 4\n",
            [":3: training is given twice, first in line 1."],
        ),
        (
            "training: {epochs: 5}\nmodel: {name: a}\ntraining: {epochs: 6}\nmodel: {}\n",
            [":3: training is given twice, first in line 1.", ":4: model is given twice, first in line 2."],
        ),
        ("training:\n  epochs: 5\n  epochs: 6\n", [":3: training.epochs is given twice, first in line 2."]),
        (
            "data_collection:\n  settings:\n    targets:\n      dent: 0.5\n      dent: 0.1\n",
            [":5: data_collection.settings.targets.dent is given twice, first in line 4."],
        ),
    ],
)
def test_a_key_given_twice_is_refused_with_both_lines(tmp_path, text, said):
    path = written(tmp_path, text)

    with pytest.raises(ConfigError) as caught:
        load_config(path, {})

    assert str(caught.value).splitlines() == [f"{path}{line} Keep one." for line in said]


def test_a_key_given_twice_in_a_variable_is_refused():
    with pytest.raises(
        ConfigError, match="environment RETRAIN_DATA_COLLECTION__QUOTA: per_day is given twice"
    ):
        load_config(None, {"RETRAIN_DATA_COLLECTION__QUOTA": "{per_day: 1, per_day: 2}"})


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("RETRAIN_TRAINING_EPOCHS", "Did you mean RETRAIN_TRAINING__EPOCHS?"),
        ("RETRAIN_EPOCHS", "Did you mean RETRAIN_TRAINING__EPOCHS?"),
        (
            "RETRAIN_DATA_COLLECTION_TRIGGER_TIMEZONE",
            "Did you mean RETRAIN_DATA_COLLECTION__TRIGGER__TIMEZONE?",
        ),
        ("RETRAIN_HOM", "Did you mean RETRAIN_HOME?"),
        ("RETRAIN_XXXXXXXXXXXXXX", "Settings are RETRAIN_<SECTION>__<KEY>."),
    ],
)
def test_a_variable_that_would_do_nothing_is_refused_with_the_nearest_valid_one(name, hint):
    with pytest.raises(ConfigError) as caught:
        load_config(None, {name: "5", "RETRAIN_TRAINING__PATIENCE": "0"})

    first, second = str(caught.value).splitlines()
    assert first == f"environment {name}: unknown variable. {hint}"
    assert second.startswith("environment RETRAIN_TRAINING__PATIENCE: training.patience:")


def test_variables_that_are_no_settings_are_left_alone(tmp_path):
    ours = {"RETRAIN_HOME": str(tmp_path), "RETRAIN_CONFIG": "", "RETRAIN_CI": "1", "RETRAINING": "x"}

    assert load_config(None, ours).config == RetrainConfig()


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("RETRAIN_FOO__BAR", "1", "environment RETRAIN_FOO__BAR: unknown key foo."),
        ("RETRAIN_TRAINING__EPOCHS__X", "1", "environment RETRAIN_TRAINING__EPOCHS__X: training.epochs: "),
        ("RETRAIN_MODEL__CLASSES", "[a, 1]", "environment RETRAIN_MODEL__CLASSES: model.classes.1: "),
        (
            "RETRAIN_DATASET__SPLITS__TRAIN",
            "0.9",
            "environment RETRAIN_DATASET__SPLITS__TRAIN: dataset.splits: ",
        ),
    ],
)
def test_what_a_variable_broke_names_the_variable(name, value, said):
    with pytest.raises(ConfigError) as caught:
        load_config(None, {name: value})

    assert str(caught.value).startswith(said)


def test_a_rule_over_several_keys_names_the_file_and_the_variable_that_broke_it(tmp_path):
    path = written(tmp_path, "dataset:\n  splits: {train: 0.7, val: 0.2, test: 0.1}\n")

    with pytest.raises(ConfigError) as caught:
        load_config(path, {"RETRAIN_DATASET__SPLITS__TRAIN": "0.9"})

    assert str(caught.value).startswith(
        f"{path}:2, environment RETRAIN_DATASET__SPLITS__TRAIN: dataset.splits: "
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("training.epochs", "true"),
        ("training.epochs", "5.0"),
        ("training.epochs", "'5'"),
        ("training.learning_rate", "true"),
        ("training.learning_rate", ".inf"),
        ("training.learning_rate", ".nan"),
        ("training.learning_rate", "'nan'"),
        ("data_collection.retention.max_age_days", ".inf"),
        ("data_collection.settings.targets", "{dent: true}"),
        ("data_collection.trigger.camera_thresholds", "{east: true}"),
        ("training.mixed_precision", "1"),
        ("training.mixed_precision", "'on'"),
        ("storage.state_url", "''"),
        ("storage.blobs_url", "''"),
        ("data_collection.redis_url", "''"),
        ("data_collection.s3_bucket", "''"),
        ("data_collection.storage_path", "''"),
        ("dataset.versions_path", "''"),
        ("mlflow.experiment_name", "''"),
        ("model.classes", "[]"),
        ("model.classes", "['']"),
    ],
)
def test_a_value_of_another_kind_is_refused_not_converted(key, value):
    name = f"RETRAIN_{key.replace('.', '__').upper()}"

    with pytest.raises(ConfigError, match=f"environment {name}: {key}"):
        load_config(None, {name: value})


@pytest.mark.parametrize(
    ("key", "value", "meant"),
    [
        ("training.epochs", "5", 5),
        ("data_collection.flush_s", "5", 5.0),
        ("training.learning_rate", "1e-3", 0.001),
        ("training.mixed_precision", "yes", True),
        ("storage.state_url", "", None),
    ],
)
def test_what_yaml_says_plainly_is_taken(key, value, meant):
    name = f"RETRAIN_{key.replace('.', '__').upper()}"

    assert shown(load_config(None, {name: value}))[key] == meant


@pytest.mark.parametrize("name", ["boundary", "band"])
def test_bounds_in_the_wrong_order_are_refused(name):
    with pytest.raises(ConfigError, match=f"{name}_low must be less than {name}_high, got 0.9 and 0.6"):
        load_config(None, {f"RETRAIN_DATA_COLLECTION__SETTINGS__{name.upper()}_LOW": "0.9"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n- b\n", "must hold sections"),
        ("training: [\n", "is not YAML"),
        ("model: {name: 2026-13-45}\n", "is not YAML"),
        ("training: 5\n", "training: Input should be a valid dictionary"),
    ],
)
def test_a_file_that_is_no_configuration_is_a_clear_error(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        load_config(written(tmp_path, text), {})


def test_a_missing_file_is_a_clear_error(tmp_path):
    with pytest.raises(ConfigError, match="No configuration file at"):
        load_config(tmp_path / "nowhere.yaml", {})


PLACES = {
    "dataset.versions_path": ("versions", "{folder}/versions"),
    "data_collection.storage_path": ("./samples", "{folder}/samples"),
    "storage.blobs_url": ("../blobs", "{folder}/../blobs"),
    "storage.state_url": ("sqlite:///state.db", "sqlite:///{folder}/state.db"),
    "mlflow.tracking_uri": ("sqlite:///runs/mlflow.db", "sqlite:///{folder}/runs/mlflow.db"),
    "mlflow.artifact_location": ("artifacts", "{folder}/artifacts"),
}
"""Settings that are places: as written, and as every process must understand it."""


def shown(resolved):
    return {key: yaml.safe_load(value) for key, value, _ in resolved.rows()}


@pytest.mark.parametrize("key", PLACES)
def test_a_relative_path_in_a_file_is_seen_from_the_folder_of_the_file(tmp_path, monkeypatch, key):
    (tmp_path / "conf").mkdir()
    (tmp_path / "elsewhere").mkdir()
    relative, meant = PLACES[key]
    section, name = key.split(".")
    written(tmp_path / "conf", f"{section}:\n  {name}: {relative}\n")
    monkeypatch.chdir(tmp_path)
    first = load_config(Path("conf/config.yaml"), {})

    monkeypatch.chdir(tmp_path / "elsewhere")
    second = load_config(tmp_path / "conf" / "config.yaml", {})

    assert shown(first)[key] == shown(second)[key] == meant.format(folder=tmp_path / "conf")


@pytest.mark.parametrize("key", PLACES)
def test_a_relative_path_of_the_environment_is_seen_from_the_home_folder(tmp_path, monkeypatch, key):
    monkeypatch.setenv("RETRAIN_HOME", str(tmp_path / "home"))
    relative, meant = PLACES[key]

    resolved = load_config(written(tmp_path, ""), {f"RETRAIN_{key.replace('.', '__').upper()}": relative})

    assert shown(resolved)[key] == meant.format(folder=tmp_path / "home")


@pytest.mark.parametrize("key", PLACES)
def test_a_tilde_means_the_users_folder_in_a_file_and_in_a_variable(tmp_path, monkeypatch, key):
    monkeypatch.setenv("HOME", str(tmp_path))
    place = "sqlite:///~/place" if key.endswith(("state_url", "tracking_uri")) else "~/place"
    section, name = key.split(".")
    path = written(tmp_path, f"{section}:\n  {name}: {place}\n")

    from_file = load_config(path, {})
    from_variable = load_config(None, {f"RETRAIN_{section}__{name}".upper(): place})

    assert shown(from_file)[key] == shown(from_variable)[key] == place.replace("~", str(tmp_path))


def test_a_tilde_is_expanded_in_the_variables_that_name_home_and_file(tmp_path, monkeypatch):
    written(tmp_path, "training: {epochs: 3}\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RETRAIN_HOME", "~/home")
    monkeypatch.setenv("RETRAIN_CONFIG", "~/config.yaml")

    assert home() == tmp_path / "home"
    assert load_config(None, {}).config.training.epochs == 3


def test_a_tilde_of_a_user_nobody_knows_is_a_clear_error():
    with pytest.raises(ConfigError, match="Whose home folder ~no-such-user/x means"):
        load_config(None, {"RETRAIN_STORAGE__BLOBS_URL": "~no-such-user/x"})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("dataset.versions_path", "/data/versions"),
        ("storage.blobs_url", "s3://bucket/prefix"),
        ("storage.state_url", "postgresql+psycopg://h/d"),
        ("storage.state_url", "sqlite:////data/state.db"),
        ("storage.state_url", "sqlite:///:memory:"),
        ("storage.state_url", "not a url"),
        ("mlflow.tracking_uri", "http://127.0.0.1:5000"),
        ("mlflow.artifact_location", "s3://bucket/runs"),
        ("mlflow.experiment_name", "runs"),
    ],
)
def test_what_is_no_relative_path_stays_as_written(tmp_path, key, value):
    section, name = key.split(".")

    resolved = load_config(written(tmp_path, yaml.safe_dump({section: {name: value}})), {})

    assert shown(resolved)[key] == value


@pytest.mark.parametrize("poll_s", ["0", "3.1"])
def test_a_router_must_poll_often_enough_to_count_as_alive_in_a_promotion(tmp_path, poll_s):
    with pytest.raises(ConfigError, match=r"serving\.poll_s: Input should be"):
        load_config(written(tmp_path, f"serving:\n  poll_s: {poll_s}\n"), {})

    assert load_config(written(tmp_path, "serving:\n  poll_s: 3\n"), {}).config.serving.poll_s == 3


def test_the_gate_s_policy_is_a_file_beside_the_configuration(tmp_path):
    (tmp_path / "gate.yaml").write_text("must_improve: [{metric: map50}]\n")

    resolved = load_config(written(tmp_path, "evaluation:\n  policy: gate.yaml\n"), {})

    assert resolved.config.evaluation.policy == tmp_path / "gate.yaml"


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        (None, "No policy at .*gate.yaml. Leave the key out"),
        ("must_improve: [\n", "is not YAML"),
        ("must_improve: [{metrics: map50}]\n", "must_improve.0.metrics.*did you mean 'metric'"),
        ("level: 0.95\n", "needs a rule in must_improve or max_loss"),
    ],
)
def test_a_policy_that_cannot_be_used_is_told_when_the_configuration_is_read(tmp_path, policy, said):
    if policy is not None:
        (tmp_path / "gate.yaml").write_text(policy)
    path = written(tmp_path, "evaluation:\n  policy: gate.yaml\n")

    with pytest.raises(ConfigError, match=rf"config.yaml:2: evaluation.policy: (?s:.*){said}"):
        load_config(path, {})


def test_an_empty_file_means_the_defaults(tmp_path):
    assert load_config(written(tmp_path, ""), {}).config == RetrainConfig()


def test_the_committed_example_holds_every_key_with_its_default():
    example = yaml.safe_load(Path("configs/config.yaml").read_text(encoding="utf-8"))

    assert RetrainConfig.model_validate(example) == RetrainConfig()
    assert example == RetrainConfig().model_dump(mode="json")


@pytest.mark.parametrize(
    "change",
    [
        {"model": {"classes": ["dent"]}},
        {"annotation": {"auto_label_threshold": 0.5}},
        {"training": {"epochs": 3}},
        {"evaluation": {"margin": 0.1}},
        {"simulation": {"annotator_miss_rate": 0.5}},
    ],
)
def test_the_digest_follows_what_a_cycle_goes_by(change):
    assert RetrainConfig.model_validate(change).digest != RetrainConfig().digest


@pytest.mark.parametrize(
    "change",
    [
        {"orchestration": {"prefect_port": 4999}},
        {"serving": {"min_replicas": 0}},
        {"data_collection": {"retrain_threshold": 7, "quota": {"per_hour": 1}, "audit_rate": 0.5}},
        {"data_collection": {"near_duplicates": {"enabled": False}, "storage_path": "/elsewhere"}},
        {"data_collection": {"trigger": {"cooldown_s": 5}, "strategy": "all"}},
        {"dataset": {"versions_path": "/elsewhere", "splits": {"train": 0.8, "val": 0.1, "test": 0.1}}},
        {"simulation": {"max_frames": 5, "heldout_frames": 6, "train_frames": 7}},
    ],
)
def test_a_running_cycle_may_go_on_when_what_it_does_not_read_was_changed(change):
    assert RetrainConfig.model_validate(change).digest == RetrainConfig().digest


def test_importing_the_configuration_pulls_in_no_heavy_library():
    heavy = "{'torch', 'prefect', 'mlflow', 'dvc', 'numpy'}"
    code = f"import sys, retrain.config; print(sorted({heavy} & set(sys.modules)))"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def test_a_password_in_an_address_is_never_printed(tmp_path):
    path = written(tmp_path, "storage:\n  state_url: postgresql+psycopg://retrain:s3cret@db/retrain\n")

    shown = {key: value for key, value, _ in load_config(path, {}).rows()}

    assert shown["storage.state_url"] == '"postgresql+psycopg://retrain:***@db/retrain"'


@pytest.mark.parametrize("address", ["redis://me:s3cr@t@host/0", "redis://host/0?db=1&password=s3cr@t"])
def test_a_password_stays_hidden_whatever_it_holds_and_also_in_errors(address):
    rows = list(load_config(None, {"RETRAIN_DATA_COLLECTION__REDIS_URL": address}).rows())
    with pytest.raises(ConfigError) as caught:
        load_config(None, {"RETRAIN_DATA_COLLECTION__REDIS_URL": f"['{address}']"})

    assert "host" in str(rows)
    assert "s3cr" not in str(rows) + str(caught.value)
