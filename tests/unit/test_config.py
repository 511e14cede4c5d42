import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import yaml

from retrain.config import RetrainConfig, load_config
from retrain.data_collection.strategies.rules import CollectionStrategy
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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n- b\n", "must hold sections"),
        ("training: [\n", "is not YAML"),
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


def test_an_empty_file_means_the_defaults(tmp_path):
    assert load_config(written(tmp_path, ""), {}).config == RetrainConfig()


def test_the_committed_example_holds_every_key_with_its_default():
    example = yaml.safe_load(Path("configs/config.yaml").read_text(encoding="utf-8"))

    assert RetrainConfig.model_validate(example) == RetrainConfig()
    assert example == RetrainConfig().model_dump(mode="json")


def test_the_digest_ignores_ports_and_follows_everything_else():
    base = RetrainConfig()

    other_port = RetrainConfig.model_validate({"orchestration": {"prefect_port": 4999}})
    other_epochs = RetrainConfig.model_validate({"training": {"epochs": 3}})

    assert base.digest == other_port.digest
    assert base.digest != other_epochs.digest


def test_importing_the_configuration_pulls_in_no_heavy_library():
    heavy = "{'torch', 'prefect', 'mlflow', 'dvc', 'numpy'}"
    code = f"import sys, retrain.config; print(sorted({heavy} & set(sys.modules)))"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def test_a_password_in_an_address_is_never_printed(tmp_path):
    path = written(tmp_path, "storage:\n  state_url: postgresql+psycopg://retrain:s3cret@db/retrain\n")

    shown = {key: value for key, value, _ in load_config(path, {}).rows()}

    assert shown["storage.state_url"] == '"postgresql+psycopg://retrain:***@db/retrain"'


def test_the_configuration_knows_every_collection_strategy_and_no_other():
    configured = get_args(RetrainConfig().data_collection.__class__.model_fields["strategy"].annotation)

    assert set(configured) == set(get_args(CollectionStrategy))
