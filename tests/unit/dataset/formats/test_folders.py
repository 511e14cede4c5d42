import pytest

from retrain.dataset.formats import folders
from retrain.errors import BadInput


def test_images_have_no_box_and_the_split_of_their_folder(build, tmp_path):
    names = ("a.png", "train/x/b.png", "Valid/c.png", "test/d.PNG")
    build.lay_out(tmp_path, {name: build.image() for name in names} | {"notes.txt": "x"})

    dataset = folders.read(tmp_path, classes=["cat"])

    assert {image.path.name: image.split for image in dataset.images} == {
        "a.png": None,
        "b.png": "train",
        "c.png": "val",
        "d.PNG": "test",
    }
    assert dataset.background == 4
    assert dataset.classes == ("cat",)
    assert dataset.problems == ()


def test_files_that_are_no_images_are_reported(build, tmp_path):
    files = {"empty.png": b"", "text.jpg": b"hello", "cut.png": build.image()[:20], "a.png": build.image()}

    dataset = folders.read(build.lay_out(tmp_path, files))

    assert [image.path.name for image in dataset.images] == ["a.png"]
    what = {p.file: p.what for p in dataset.problems}
    assert what.keys() == {"empty.png", "text.jpg", "cut.png"}
    assert what["empty.png"] == "is empty (0 bytes)"
    assert "is not an image that can be read" in what["text.jpg"]


def test_equal_names_in_different_folders_are_different_images(build, tmp_path):
    dataset = folders.read(
        build.lay_out(tmp_path, {"x/a.png": build.image(), "y/a.png": build.image(shade=1)})
    )

    assert len(dataset.images) == 2


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(BadInput, match="There is no image in"):
        folders.read(tmp_path)


def test_the_report_names_each_file_once_with_all_that_is_wrong_in_it(build, tmp_path):
    dataset = folders.read(
        build.lay_out(tmp_path, {"a.png": build.image(), "b.png": b"", "train/c.png": b""})
    )

    assert dataset.report().splitlines() == [
        "1 images (1 in no split), 0 boxes of 0 classes, 1 images without a box; left out: 0 boxes, 2 images; 0 notes.",
        "b.png",
        "  is empty (0 bytes) (image left out)",
        "train/c.png",
        "  is empty (0 bytes) (image left out)",
    ]
