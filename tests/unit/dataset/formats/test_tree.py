import os

import pytest

from retrain.dataset.formats import folders
from retrain.dataset.formats.tree import Tree
from retrain.errors import BadInput


@pytest.fixture
def root(build, tmp_path):
    build.lay_out(
        tmp_path, {"outside.png": build.image(), "root/a.png": build.image(), "root/b/c.png": build.image()}
    )
    return tmp_path / "root"


def test_links_that_loop_lead_nowhere_or_outside_are_reported_and_never_followed(root, build):
    (root / "b/up").symlink_to(root, target_is_directory=True)
    (root / "self.png").symlink_to("self.png")
    (root / "gone.png").symlink_to("not-there.png")
    (root / "out.png").symlink_to("../outside.png")
    (root / "in.png").symlink_to("b/c.png")
    (root / "readme").symlink_to("/etc/hostname")

    tree = Tree(root)

    assert tree.files == {"a.png", "b/c.png", "in.png"}
    assert {(p.file, p.what, p.lost) for p in tree.problems} == {
        ("b/up", "is a link to a folder, which is not followed", "nothing"),
        ("self.png", "is a link that leads nowhere", "image"),
        ("gone.png", "is a link that leads nowhere", "image"),
        (
            "out.png",
            "is a link that leads outside the imported folder; replace it by the file itself",
            "image",
        ),
        (
            "readme",
            "is a link that leads outside the imported folder; replace it by the file itself",
            "nothing",
        ),
    }


def test_a_pipe_is_never_opened(root):
    os.mkfifo(root / "pipe.png")

    dataset = folders.read(root)

    assert len(dataset.images) == 2
    assert [p.what for p in dataset.losses] == ["is neither a file nor a folder"]


def test_a_name_that_is_not_utf8_is_reported(root):
    (root / os.fsdecode(b"\xff.png")).write_bytes(b"x")
    (root / os.fsdecode(b"\xfe")).mkdir()

    tree = Tree(root)

    assert tree.files == {"a.png", "b/c.png"}
    assert {p.what for p in tree.problems} == {"has a name that is not UTF-8"}
    "".join(p.file for p in tree.problems).encode()


def test_hidden_files_and_those_of_macos_are_left_out(root, build):
    build.lay_out(root, {".a.png": b"x", ".git/a.png": b"x", "__MACOSX/a.png": b"x", "b/._c.png": b"x"})

    assert Tree(root).files == {"a.png", "b/c.png"}


@pytest.mark.parametrize(
    "name", ["../outside.png", "b/../../outside.png", "/etc/hostname", "..", "..\\outside.png"]
)
def test_a_name_that_leads_outside_is_refused(root, name):
    with pytest.raises(BadInput, match="leads outside the imported folder"):
        Tree(root).find(name, ("", "b"[:0]))


def test_names_are_found_from_any_of_the_folders_with_either_slash(root):
    tree = Tree(root)

    assert tree.find("c.png", ("", "b")) == ["b/c.png"]
    assert tree.find("..\\b\\c.png", ("b",)) == ["b/c.png"]
    assert tree.find(str(root / "b/c.png")) == ["b/c.png"]
    assert tree.find("gone.png") == []


def test_a_file_is_no_folder_to_import(root):
    with pytest.raises(BadInput, match=r"imported from a folder, got .*a.png, which is none"):
        Tree(root / "a.png")
