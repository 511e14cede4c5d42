import pytest
import typer
from typer.testing import CliRunner

from flows.collect_app import collect_app
from retrain.errors import ConfigError, NotFound
from tests.unit.flows.collecting import CLASSES, DIGEST, FakeModel, interrupt, stored


def cells(text):
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


@pytest.fixture
def retrain(tmp_path, monkeypatch, loads):
    """The command line, in a folder and a home of its own."""
    app = typer.Typer()
    app.add_typer(collect_app, name="collect")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RETRAIN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RETRAIN_MODEL__NAME", "m")
    monkeypatch.setenv("RETRAIN_MODEL__CLASSES", f"[{', '.join(CLASSES)}]")
    app.command("other")(lambda: None)

    def run(line, **more):
        return CliRunner().invoke(app, line.split(), catch_exceptions=False, **more)

    return run


def test_the_seeds_own_line_works_with_the_champion(retrain, resources, frames, tmp_path):
    resources.routes.initialise("m", DIGEST, 1.0)

    done = retrain("collect --storage ./collected_data --strategy uncertainty --threshold 0.7 frames/")

    assert done.exit_code == 0
    assert cells(done.stdout)[-1] == "stored 6"
    assert len(stored(resources, tmp_path / "collected_data")) == 6


def test_the_seeds_own_line_without_a_champion_says_what_to_do(retrain, frames):
    with pytest.raises(ConfigError, match="name a model with --model"):
        retrain("collect --storage ./collected_data --strategy uncertainty --threshold 0.7 frames/")


@pytest.mark.parametrize("line", ["collect run --strategy random frames", "collect frames --strategy random"])
def test_run_may_be_named_and_options_may_follow(retrain, frames, line):
    done = retrain(f"{line} --sample-rate 1 --model folder")

    assert "taken 6 random" in cells(done.stdout)


def test_paths_are_piped_in(retrain, frames):
    done = retrain("collect --strategy all -", input="frames/1.png\nframes/2.png\n")

    assert "offered 2" in cells(done.stdout)


def test_the_other_commands_are_found_by_their_names(retrain, frames, monkeypatch):
    monkeypatch.setattr("flows.collect_status._REFRESH_S", 0.0)
    retrain("collect --strategy all --storage x frames")

    assert cells(retrain("collect drain --storage x").stdout) == ["nothing waits"]
    assert "offered" in retrain("collect status --storage x --json").stdout


def test_what_was_collected_into_a_folder_is_forgotten_and_deleted_there(
    retrain, resources, frames, tmp_path, monkeypatch
):
    retrain("collect --strategy all --storage x --model folder frames")
    kept = set(stored(resources, tmp_path / "x"))

    forgotten = retrain(f"collect forget {min(kept)} --storage x")
    monkeypatch.setenv("RETRAIN_DATA_COLLECTION__RETENTION__MAX_BYTES", "1")
    retained = retrain("collect retain --storage x")

    assert "1 samples forgotten" in forgotten.stdout
    assert "5 samples deleted" in retained.stdout
    assert stored(resources, tmp_path / "x") == {}


def test_a_model_is_forgotten_by_its_name_and_an_unknown_one_is_not(retrain, frames):
    retrain("collect --strategy all --storage x frames")

    with pytest.raises(NotFound, match=r"of model 'mm'\. Did you mean 'm'"):
        retrain("collect forget --model mm --storage x")
    assert "0 samples forgotten" in retrain("collect forget --model mm --unseen --storage x").stdout
    assert "6 samples forgotten" in retrain("collect forget --model m --storage x").stdout


def test_help_lists_the_commands_and_no_argument_is_help(retrain):
    for line in ("collect --help", "collect"):
        assert all(name in retrain(line).output for name in ("run", "drain", "status"))


def test_a_storage_nobody_collected_into_is_refused_and_not_made(retrain, tmp_path):
    for command in ("drain", "status", "forget --camera y", "retain"):
        with pytest.raises(NotFound, match="Nothing was collected in x"):
            retrain(f"collect {command} --storage x")

    assert not (tmp_path / "x").exists()


def test_a_stopped_run_exits_as_ctrl_c_does(retrain, loads, frames):
    loads(FakeModel(on_call=interrupt(2)))

    assert retrain("collect --strategy all --model folder --storage x frames").exit_code == 130


def test_a_threshold_that_is_none_is_a_usage_error(retrain, frames):
    assert retrain("collect --threshold 70 frames").exit_code == 2
