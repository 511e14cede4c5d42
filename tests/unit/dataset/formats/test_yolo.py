import re
import time

import pytest

from retrain.dataset.formats import yolo
from retrain.errors import BadInput

YAML = "train: images\nnames: [cat, dog]\n"


@pytest.fixture
def read(build, tmp_path):
    """Read one label file of an image of 40 x 30 pixels."""

    def read_one(rows="", config=YAML, **options):
        files = {"data.yaml": config, "images/a.png": build.image(), "labels/a.txt": rows}
        return yolo.read(build.lay_out(tmp_path, files), **options)

    return read_one


def test_rows_are_centres_and_sizes_as_fractions(read):
    dataset = read("1 0.5 0.5 0.25 0.2\n\n0 0.25 .5 5e-1 1\n")

    assert dataset.classes == ("cat", "dog")
    (image,) = dataset.images
    assert image.split == "train"
    assert image.annotations.classes.tolist() == [1, 0]
    assert image.annotations.boxes.tolist() == [[15.0, 12.0, 25.0, 18.0], [0.0, 0.0, 20.0, 30.0]]
    assert dataset.problems == ()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("0 0.5 0.5 0.2", "needs a class and 4 numbers, got 4 values"),
        ("0 0.1 0.1 0.2 0.1 0.2 0.2", "outlines \\(segmentation\\) and scores are not accepted"),
        ("0 0.5 0.5 0.2 0.2 0.9", "outlines \\(segmentation\\) and scores are not accepted"),
        ("2 0.5 0.5 0.2 0.2", "needs a class from 0 to 1, got '2'"),
        ("-1 0.5 0.5 0.2 0.2", "needs a class from 0 to 1, got '-1'"),
        ("0.0 0.5 0.5 0.2 0.2", "needs a class from 0 to 1, got '0.0'"),
        ("\u0661 0.5 0.5 0.2 0.2", "needs a class from 0 to 1"),
        ("cat 0.5 0.5 0.2 0.2", "needs a class from 0 to 1, got 'cat'"),
        ("0 nan 0.5 0.2 0.2", "'nan' is not a number"),
        ("0 inf 0.5 0.2 0.2", "'inf' is not a number"),
        ("0 0,5 0.5 0.2 0.2", "'0,5' is not a number"),
        ("0 0_1 0.5 0.2 0.2", "'0_1' is not a number"),
        ("0 1e999 0.5 0.2 0.2", "has a corner that is not a finite number"),
        ("0 0.5 0.5 0 0.2", "has zero area"),
        ("0 0.5 0.5 -0.1 0.2", "has its corners swapped"),
        ("0 320 240 20 20", "lies outside the image of 40 x 30 pixels"),
    ],
)
def test_a_bad_row_costs_one_box_and_is_reported_with_its_line(read, row, message):
    dataset = read(f"1 0.5 0.5 0.25 0.2\n{row}\n")

    assert dataset.images[0].annotations.classes.tolist() == [1]
    (problem,) = dataset.problems
    assert (problem.file, problem.where, problem.lost) == ("labels/a.txt", "line 2", "box")
    assert re.search(message, problem.what)


def test_a_number_a_megabyte_long_is_refused_in_no_time(read):
    start = time.process_time()
    dataset = read(f"0 {'1' * 1_000_000}x 0.5 0.2 0.2\n")

    assert time.process_time() - start < 2
    assert len(dataset.problems[0].what) < 300


def test_a_label_file_that_is_no_text_costs_the_image(read):
    (problem,) = read(b"0 0.5 0.5 0.2 0.2 \xff").problems

    assert (problem.file, problem.lost) == ("labels/a.txt", "image")
    assert "is not UTF-8 text: byte 0xff at offset 18" in problem.what


def test_an_image_without_labels_is_background_and_labels_without_an_image_are_reported(build, tmp_path):
    files = {"data.yaml": YAML, "images/a.png": build.image(), "labels/b.txt": "0 0.5 0.5 0.2 0.2"}

    dataset = yolo.read(build.lay_out(tmp_path, files))

    assert dataset.background == 1
    assert build.said(dataset) == [("labels/b.txt", "", "has no image", "image")]


def test_labels_that_two_images_share_are_noted(build, tmp_path):
    files = {"data.yaml": YAML, "images/a.png": build.image(), "images/a.jpg": build.image(kind="JPEG")}

    dataset = yolo.read(build.lay_out(tmp_path, {**files, "labels/a.txt": "0 0.5 0.5 0.2 0.2"}))

    assert dataset.boxes == 2
    assert build.said(dataset) == [("labels/a.txt", "", "is of several images", "nothing")]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("train: images\nnames: {0: cat, 2: dog}", "without a hole; it has no '1'"),
        ("train: images\nnames: {0: cat, 0: dog}", "has a key twice"),
        ("train: images\nnames: [cat, cat]", "'cat' occurs twice"),
        ("train: images\nnames: []", "must be different and not empty"),
        ("train: images\nnames: [cat, '']", "must be different and not empty"),
        ("train: images\nnames: [[cat], dog]", "names must be a list"),
        ("train: images", "names must be a list, .* got None"),
        ("train: images\nnc: 3\nnames: [cat, dog]", "nc is '3', but there are 2 names"),
        ("train: {a: b}\nnames: [cat]", "train must be a folder"),
        ("- 1", "must be a mapping"),
        ("", "must be a mapping"),
        ("names: [cat", "is not valid YAML"),
        ("a: &a [x]\nb: *a\nnames: [cat]", "has a YAML alias"),
        ("[" * 5000, "nested too deeply|not valid YAML"),
        (b"names: [\xff]", "is not UTF-8"),
        ("#" * (4 * 1024 * 1024 + 1), "is larger than"),
    ],
)
def test_a_config_that_cannot_be_used_is_refused_as_a_whole(read, config, message):
    with pytest.raises(BadInput, match=message) as e:
        read(config=config)

    assert "data.yaml" in str(e.value)
    assert len(str(e.value)) < 500


def test_yaml_aliases_that_would_grow_without_end_are_refused(read):
    levels = "\n".join(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]" for n in range(1, 12))

    with pytest.raises(BadInput, match="has a YAML alias"):
        read(config=f"l0: &l0 [lol]\n{levels}\nnames: *l11\ntrain: images")


def test_a_tag_that_asks_for_python_code_runs_none(read, tmp_path):
    marker = tmp_path / "ran"

    read(config=f"train: images\nnames: !!python/object/apply:os.mkdir ['{marker}']")

    assert not marker.exists()


def test_class_names_that_yaml_takes_for_something_else_stay_names(read):
    assert read(config="train: images\nnames: {0: no, 1: 010, 2: 1.0, 3: null}").classes == (
        "no",
        "010",
        "1.0",
        "null",
    )


def test_splits_are_folders_lists_of_folders_or_text_files(build, tmp_path):
    picture = build.image()
    names = ("x/images/1.png", "y/images/2.png", "z/3.png", "z/4.png", "z/5.png")
    files = {
        "data.yaml": "path: /somewhere/else\ntrain: [x/images, ../y/images]\nval: lists/val.txt\ntest:\nnames: [cat]\n",
        "lists/val.txt": "./../z/3.png\nz/4.png\n\nz/gone.png\n../../etc/passwd\n/etc/passwd\n",
        "y/labels/2.txt": "0 0.5 0.5 0.5 0.5",
        "z/3.txt": "0 0.5 0.5 0.5 0.5",
        **dict.fromkeys(names, picture),
    }

    dataset = yolo.read(build.lay_out(tmp_path, files))

    found = {image.path.name: (image.split, len(image.annotations)) for image in dataset.images}
    assert found == {"1.png": ("train", 0), "2.png": ("train", 1), "3.png": ("val", 1), "4.png": ("val", 0)}
    assert build.said(dataset) == [
        ("lists/val.txt", "line 4", "'z/gone.png' is missing", "image"),
        ("lists/val.txt", "line 5", "'../../etc/passwd' leads outside the imported folder", "image"),
        ("lists/val.txt", "line 6", "'/etc/passwd' leads outside the imported folder", "image"),
        ("z", "", "1 images are not imported, as they are not listed in data.yaml, such as 5.png", "nothing"),
    ]


def test_a_list_of_images_that_is_no_text_is_reported(read, build, tmp_path):
    build.lay_out(tmp_path, {"val.txt": b"\xff"})

    dataset = read(config=f"{YAML}val: val.txt\n")

    assert [(p.file, p.lost) for p in dataset.problems] == [("val.txt", "image")]


@pytest.mark.parametrize("place", ["../../etc", "/etc", "images/gone"])
def test_a_split_that_is_not_in_the_folder_is_reported(read, build, place):
    dataset = read(config=f"{YAML}val: {place}\n")

    assert dataset.images_by_split == {"train": 1}
    (problem,) = dataset.losses
    assert (problem.file, problem.where) == ("data.yaml", "val")
    assert "nothing is imported from it" in problem.what


def test_an_image_in_two_splits_stays_in_the_first_and_is_noted(read, build):
    dataset = read(config=f"{YAML}val: images\n")

    assert dataset.images_by_split == {"train": 1}
    assert build.said(dataset) == [
        ("data.yaml", "val", "'images/a.png' is in train already, where it stays", "nothing")
    ]


def test_classes_txt_stands_in_for_data_yaml_and_folders_for_splits(build, tmp_path):
    files = {
        "classes.txt": "cat\ndog\n",
        "train/images/a.png": build.image(),
        "train/labels/a.txt": "1 .5 .5 .5 .5",
    }
    files |= {"other/b.png": build.image(), "other/classes.txt": "cat\ndog\n"}

    dataset = yolo.read(build.lay_out(tmp_path, files))

    assert dataset.classes == ("cat", "dog")
    assert dataset.images_by_split == {None: 1, "train": 1}
    assert dataset.boxes == 1
    assert dataset.problems == ()


def test_given_classes_decide_the_indices(read):
    dataset = read("0 0.5 0.5 0.5 0.5\n1 0.5 0.5 0.5 0.5\n", classes=["dog"])

    assert dataset.classes == ("dog",)
    assert dataset.images[0].annotations.classes.tolist() == [0]
    assert [(p.where, p.lost) for p in dataset.problems] == [("line 1", "box")]


def test_a_hundred_thousand_boxes_in_one_image_are_read_in_seconds(read):
    rows = "".join(f"0 0.5 0.5 0.{n + 1} 0.1\n" for n in range(100_000))

    start = time.process_time()
    dataset = read(rows)

    assert time.process_time() - start < 5
    assert dataset.boxes == 100_000


def test_the_sidecar_is_read_strictly(read, build, tmp_path):
    build.lay_out(tmp_path, {"retrain.jsonl": '{"retrain": 1, "classes": [], "splits": []}\n{"file": 3}\n'})

    with pytest.raises(BadInput, match=r"retrain.jsonl, line 2: .*Repair the line, or remove the file"):
        read()


@pytest.mark.parametrize(
    ("image", "labels"),
    [
        ("images/train/a.png", "labels/train/a.txt"),
        ("train/images/a.b.jpg", "train/labels/a.b.txt"),
        ("images/x/images/a.png", "images/x/labels/a.txt"),
        ("myimages/a.png", "myimages/a.txt"),
        ("a.png", "a.txt"),
    ],
)
def test_labels_are_where_ultralytics_looks_for_them(image, labels):
    assert yolo.label_file(image) == labels
