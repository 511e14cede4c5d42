import os
import sqlite3

import pytest

from retrain.data_collection.sources.progress import FileIdentity, Offered, Progress
from retrain.errors import BadInput, Unavailable

NOTHING = Offered(0, finished=False)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "frame.png"
    path.write_bytes(b"pixels")
    return path


def test_what_was_noted_is_known_to_the_next_process(tmp_path, file):
    with Progress(tmp_path / "p.sqlite", "pass") as progress:
        progress.note(FileIdentity.of(str(file)), 3, finished=False)

    with Progress(tmp_path / "p.sqlite", "pass") as progress:
        assert progress.offered(FileIdentity.of(str(file))) == Offered(3, finished=False)


def test_a_file_that_was_written_to_is_another_one(tmp_path, file):
    with Progress(tmp_path / "p.sqlite", "pass") as progress:
        progress.note(FileIdentity.of(str(file)), 1, finished=True)
        file.write_bytes(b"others")
        os.utime(file, ns=(1, 1))

        assert progress.offered(FileIdentity.of(str(file))) == NOTHING


def test_a_file_is_the_same_by_whatever_path_it_is_named(tmp_path, file, monkeypatch):
    monkeypatch.chdir(tmp_path)

    with Progress(tmp_path / "p.sqlite", "pass") as progress:
        progress.note(FileIdentity.of(str(file)), 1, finished=True)

        assert progress.offered(FileIdentity.of("./frame.png")).finished


def test_passes_know_nothing_of_each_other_and_files_of_one_can_be_forgotten(tmp_path, file, monkeypatch):
    identity = FileIdentity.of(str(file))
    with (
        Progress(tmp_path / "p.sqlite", "one") as one,
        Progress(tmp_path / "p.sqlite", "other") as other,
    ):
        one.note(identity, 1, finished=True)
        assert other.offered(identity) == NOTHING
        other.note(identity, 1, finished=True)

        kept = FileIdentity(f"{file}.kept", 1, 1)
        one.note(kept, 1, finished=True)
        monkeypatch.chdir(tmp_path)

        one.forget(["frame.png", "never offered"])

        assert one.offered(identity) == NOTHING
        assert one.offered(kept).finished
        assert other.offered(identity).finished


def test_a_list_that_breaks_off_forgets_nothing(tmp_path, file):
    def paths():
        yield str(file)
        raise BadInput("the list ends here")

    with Progress(tmp_path / "p.sqlite", "pass") as progress:
        progress.note(FileIdentity.of(str(file)), 1, finished=True)

        with pytest.raises(BadInput, match="ends here"):
            progress.forget(paths())

        assert progress.offered(FileIdentity.of(str(file))).finished


def test_names_that_are_no_text_are_remembered_and_can_be_shown(tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/frame-\xff.png")
    with open(path, "wb") as file:
        file.write(b"pixels")
    identity = FileIdentity.of(path)

    with Progress(tmp_path / "p.sqlite", "pass") as progress:
        progress.note(identity, 1, finished=True)

        assert progress.offered(identity).finished
    assert identity.name == f"{tmp_path}/frame-\N{REPLACEMENT CHARACTER}.png"


def test_a_damaged_file_says_what_to_do(tmp_path):
    (tmp_path / "p.sqlite").write_bytes(b"no database at all, but long enough to be looked at" * 20)

    with pytest.raises(BadInput, match="delete it, then all files are offered again"):
        Progress(tmp_path / "p.sqlite", "pass")


def test_a_folder_that_is_not_there_is_our_error(tmp_path):
    with pytest.raises(Unavailable, match="Cannot note progress"):
        Progress(tmp_path / "nowhere" / "p.sqlite", "pass")


def test_a_kill_can_only_lose_what_was_not_noted_yet(tmp_path, file):
    identity = FileIdentity.of(str(file))
    progress = Progress(tmp_path / "p.sqlite", "pass")
    progress.note(identity, 7, finished=False)

    # Another connection sees it although the first was never closed.
    rows = sqlite3.connect(tmp_path / "p.sqlite").execute("SELECT frames FROM offered").fetchall()

    assert rows == [(7,)]
