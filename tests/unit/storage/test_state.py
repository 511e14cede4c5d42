"""URLs and files that cannot hold the state, each explained in a sentence."""

import os

import pytest
from sqlalchemy import func, select

from retrain.errors import BadInput, ConfigError, Unavailable
from retrain.storage.schema import samples
from retrain.storage.state import open_state


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "cannot be read"),
        ("/just/a/path", "cannot be read"),
        ("postgresql://user:hunter2@host:not-a-port/x", "cannot be read"),
        ("sqlite://", "in memory"),
        ("sqlite:///:memory:", "in memory"),
        ("mysql://user:hunter2@host/x", "'mysql'"),
        ("postgresql+asyncpg://user:hunter2@host/x", r"'postgresql\+asyncpg'"),
    ],
)
def test_a_url_that_names_no_usable_database_is_a_config_error_without_its_password(url, says):
    with pytest.raises(ConfigError, match=says) as caught:
        open_state(url)
    assert "hunter2" not in str(caught.value)


def test_missing_folders_are_made(tmp_path):
    open_state(f"sqlite:///{tmp_path / 'a' / 'b' / 'state.db'}").close()
    assert (tmp_path / "a" / "b" / "state.db").is_file()


def test_a_relative_path_stays_where_it_was_when_the_working_directory_changes(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    state = open_state("sqlite:///state.db")
    state.close()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with state.read() as connection:
        assert connection.execute(select(func.count()).select_from(samples)).scalar_one() == 0
    state.close()
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_file_that_is_no_database_is_named_and_kept(tmp_path):
    (tmp_path / "state.db").write_bytes(b"a holiday photo" * 1000)
    with pytest.raises(BadInput, match=rf"{tmp_path}/state\.db is damaged or no SQLite database"):
        open_state(f"sqlite:///{tmp_path / 'state.db'}")
    assert (tmp_path / "state.db").read_bytes() == b"a holiday photo" * 1000


def test_a_folder_in_place_of_the_file_is_unavailable(tmp_path):
    with pytest.raises(Unavailable, match=str(tmp_path)):
        open_state(f"sqlite:///{tmp_path}")


def test_a_file_in_place_of_the_folder_is_unavailable(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable, match=f"Cannot create {tmp_path}/file"):
        open_state(f"sqlite:///{tmp_path / 'file' / 'state.db'}")


def test_a_folder_that_may_not_be_written_is_unavailable(locked_folder):
    with pytest.raises(Unavailable, match=f"Cannot create {locked_folder}/new"):
        open_state(f"sqlite:///{locked_folder / 'new' / 'state.db'}")
    with pytest.raises(Unavailable, match=rf"{locked_folder}/state\.db.*writable"):
        open_state(f"sqlite:///{locked_folder / 'state.db'}")


def test_commits_survive_power_loss_and_readers_do_not_block(tmp_path):
    state = open_state(f"sqlite:///{tmp_path / 'state.db'}")
    with state.write() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar_one() == 2
    state.close()


def test_a_file_descriptor_is_not_kept_after_close(tmp_path):
    state = open_state(f"sqlite:///{tmp_path / 'state.db'}")
    with state.read():
        assert held_files(tmp_path)
    state.close()
    assert held_files(tmp_path) == []


def held_files(folder):
    links = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]  # noqa: PTH208
    return [link for link in links if os.path.realpath(link).startswith(str(folder))]
