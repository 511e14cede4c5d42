from pathlib import Path

import pytest

from flows.dataset_arguments import read_class_map, read_classes, read_fractions
from flows.dataset_grouping import groups_by
from retrain.boxes import Annotations
from retrain.dataset.formats.labelled import LabelledImage
from retrain.errors import BadInput


def image(root: Path, name: str, **known) -> LabelledImage:
    return LabelledImage(root / name, Annotations.empty(), **known)


def test_fractions_are_train_val_test():
    assert read_fractions("0.7,0.2,0.1") == {"train": 0.7, "val": 0.2, "test": 0.1}
    assert read_fractions(None) is None


@pytest.mark.parametrize("text", ["", "0.7", "0.7,0.2,0.1,0", "a,b,c", "0.7;0.2;0.1"])
def test_fractions_that_are_not_three_numbers_are_refused(text):
    with pytest.raises(BadInput, match="three numbers for train, val and test"):
        read_fractions(text)


def test_spaces_around_class_names_do_not_count():
    assert read_classes("car, traffic light") == ("car", "traffic light")


def test_a_class_map_is_pairs_and_files_and_an_empty_right_side_drops(tmp_path):
    file = tmp_path / "map.yaml"
    file.write_text("lorry: truck\nbird: null\n", encoding="utf-8")

    assert read_class_map([str(file), "van = car", "plane="]) == {
        "lorry": "truck",
        "bird": None,
        "van": "car",
        "plane": None,
    }
    assert read_class_map([]) is None


@pytest.mark.parametrize("text", ["- lorry\n", "lorry: 3\n", "3: lorry\n", "lorry\n"])
def test_a_file_that_maps_no_names_is_refused(tmp_path, text):
    (tmp_path / "map.yaml").write_text(text, encoding="utf-8")

    with pytest.raises(BadInput, match="must map class names to class names"):
        read_class_map([str(tmp_path / "map.yaml")])


def test_a_class_map_that_is_neither_is_refused(tmp_path):
    (tmp_path / "bad.yaml").write_text("a: [\n", encoding="utf-8")

    with pytest.raises(BadInput, match="from=to or a YAML file, got 'truck'"):
        read_class_map(["truck"])
    with pytest.raises(BadInput, match="is not YAML"):
        read_class_map([str(tmp_path / "bad.yaml")])


def test_groups_are_what_the_rule_says(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    known = {"group": "g", "metadata": {"camera": "north"}}
    images = [
        image(tmp_path.resolve(), "a/day1-7.png", **known),
        image(tmp_path.resolve(), "day2-8.png", **known),
    ]

    def groups(rule):
        return groups_by(rule, images, tmp_path / "link")

    assert groups(None) == ["g", "g"]
    assert groups("image") == [None, None]
    assert groups("folder") == ["a", "."]
    assert groups("camera") == ["north", "north"]
    assert groups("file-regex=day[0-9]") == ["day1", "day2"]
    assert groups("file-regex=day([0-9])") == ["1", "2"]


def test_images_without_a_group_are_named(tmp_path):
    images = [image(tmp_path, f"{number}.png") for number in range(8)]

    with pytest.raises(BadInput, match=r"nothing of 8 images: 0\.png, 1\.png, .* and 3 more"):
        groups_by("file-regex=day", images, tmp_path)


@pytest.mark.parametrize(
    ("rule", "said"), [("recording", "image, folder, camera"), ("file-regex=(", "cannot be read")]
)
def test_a_rule_that_is_none_is_refused(tmp_path, rule, said):
    with pytest.raises(BadInput, match=said):
        groups_by(rule, [image(tmp_path, "a.png")], tmp_path)
