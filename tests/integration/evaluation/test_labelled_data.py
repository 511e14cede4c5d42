"""Test data in each of its forms, whole and damaged."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from retrain.dataset.formats.registry import write_dataset
from retrain.dataset.manager import DatasetManager
from retrain.errors import BadInput, NotFound
from retrain.evaluation.evaluator import ModelEvaluator
from retrain.evaluation.labelled_data import open_data
from tests.integration.evaluation.conftest import CLASSES, IMAGES, Models


@pytest.mark.parametrize(("crowd", "objects"), [(True, 46), (False, 47), (1, 46), (0, 47), (None, 47)])
def test_a_crowd_is_one_by_0_or_1(coco_folder: Path, tmp_path: Path, crowd: object, objects: int) -> None:
    data = open_data(_with(coco_folder, tmp_path, iscrowd=crowd), images=coco_folder / "test")

    assert sum(len(item.truth) - sum(item.crowd or ()) for item in data.items) == objects - 4


def test_a_crowd_in_words_is_a_label_that_cannot_be_used(coco_folder: Path, tmp_path: Path) -> None:
    """A text "0" would be true, so the object would silently not count."""
    data = open_data(_with(coco_folder, tmp_path, iscrowd="0"), images=coco_folder / "test")

    assert "needs 0 or 1 as iscrowd, got '0'" in data.notes[0]


def test_the_size_of_a_box_is_the_one_that_the_file_states(coco_folder: Path, tmp_path: Path) -> None:
    data = open_data(
        _with(coco_folder, tmp_path, bbox=[0.3, 6.1, 0.1, 10], area=None), images=coco_folder / "test"
    )

    item = next(each for each in data.items if len(each.truth))
    assert item.truth.boxes[0].tolist() == [0.3, 6.1, 0.3 + 0.1, 6.1 + 10]
    assert item.sizes is not None
    assert item.areas is not None
    assert item.sizes[0] == (0.1, 10) != (0.3 + 0.1 - 0.3, 6.1 + 10 - 6.1)
    assert item.areas[0] == 0.1 * 10


def test_a_box_in_our_own_note_has_its_own_size(coco_folder: Path, tmp_path: Path) -> None:
    box = (0.3, 6.1, 0.4, math.nextafter(16.1, 17))
    changed = {"bbox": [0.3, 6.1, 0.1, 10], "area": None, "retrain": {"box": box}}
    data = open_data(_with(coco_folder, tmp_path, **changed), images=coco_folder / "test")

    item = next(each for each in data.items if len(each.truth))
    assert item.truth.boxes[0].tolist() == list(box)
    assert item.sizes is not None
    assert item.sizes[0] == (0.4 - 0.3, box[3] - 6.1)


def test_a_negative_size_is_a_label_that_cannot_be_used_however_small(
    coco_folder: Path, tmp_path: Path
) -> None:
    data = open_data(_with(coco_folder, tmp_path, bbox=[9, 9, 5, -1e-20]), images=coco_folder / "test")

    assert "has a bbox of negative size" in data.notes[0]


def _with(coco_folder: Path, tmp_path: Path, **changed: object) -> Path:
    """The labels with the first object changed."""
    content = json.loads((coco_folder / "annotations" / "instances_test.json").read_text())
    content["annotations"][0] |= changed
    (tmp_path / "truth.json").write_text(json.dumps(content))
    return tmp_path / "truth.json"


def test_a_version_brings_recordings_cameras_and_metadata(versions: DatasetManager) -> None:
    data = open_data("v1.0.0/test", versions.repository.folder)

    assert data.classes == CLASSES
    assert {item.group for item in data.items} == {f"recording-{index}" for index in range(1, IMAGES // 2)}
    seen = {(item.attributes["camera"], item.attributes["weather"]) for item in data.items}
    assert seen == {("cam-0", "rain"), ("cam-1", "rain"), ("cam-0", "dry"), ("cam-1", "dry")}
    assert {item.attributes["source"] for item in data.items} == {"human"}
    # Taken from 7:30 on, an hour east of UTC.
    assert {item.attributes["hour"] for item in data.items} == {6, 7}


def test_images_without_a_box_are_evaluated_and_said(
    models: Models, yolo_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(yolo_folder, tmp_path / "data")
    labels = sorted((tmp_path / "data" / "labels" / "test").iterdir())
    labels[0].write_text("")
    some = ModelEvaluator(models.folder, tmp_path / "data").evaluate()
    for file in labels:
        file.unlink()
    none = ModelEvaluator(models.folder, tmp_path / "data").evaluate()

    assert any("1 of 11 images have no box" in note for note in some.notes)
    assert any("No image has a box" in note for note in none.notes)
    assert math.isnan(none.metrics["map"])
    assert none.to_json()["metrics"]["map"] is None
    assert none.metrics["precision"] == 0


def test_a_damaged_image_is_named(models: Models, yolo_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(yolo_folder, tmp_path / "data")
    image = tmp_path / "data" / "images" / "test" / "0003.png"
    image.write_bytes(image.read_bytes()[:600])

    with pytest.raises(BadInput, match=r"0003\.png"):
        ModelEvaluator(models.folder, tmp_path / "data").evaluate()


def test_a_missing_image_stops_it(models: Models, coco_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(coco_folder, tmp_path / "data")
    (tmp_path / "data" / "test" / "0003.png").unlink()

    with pytest.raises(BadInput, match=r"1 images of .* cannot be evaluated on.*0003\.png"):
        ModelEvaluator(models.folder, tmp_path / "data").evaluate()


def test_data_that_is_not_there_is_an_error_that_says_what_to_give(
    models: Models, versions: DatasetManager, yolo_folder: Path, tmp_path: Path
) -> None:
    pictures = tmp_path / "pictures"
    shutil.copytree(yolo_folder / "images", pictures)
    cases: list[tuple[str, type[Exception], str]] = [
        ("v9.9.9/test", NotFound, "v1.0.0"),
        ("v1.0.0/holdout", BadInput, "no split 'holdout'; it has train, val, test"),
        ("v1.0.0/val", BadInput, "has no image"),
        (f"{yolo_folder}/val", BadInput, "no split 'val'; it has test, train"),
        (str(tmp_path / "none" / "x"), NotFound, "Give VERSION/SPLIT"),
        (str(pictures), BadInput, "images without labels"),
    ]
    for given, kind, said in cases:
        with pytest.raises(kind, match=said):
            ModelEvaluator(models.folder, given, datasets=versions).evaluate()


def test_what_is_wrong_with_another_split_is_not_asked(
    models: Models, yolo_folder: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(yolo_folder, data)
    (data / "images" / "train" / "0000.png").write_text("no image")
    with (data / "labels" / "test" / "0001.txt").open("a") as labels:
        labels.write("\n7 0.5 0.5 0.1 0.1\n")

    opened = open_data(data)

    assert len(opened.items) == IMAGES - 1
    assert len(opened.notes) == 2
    assert "each counts by itself" in opened.notes[1]
    assert opened.notes[0].startswith("1 labels cannot be used and do not count: labels/test/0001.txt: line ")
    with pytest.raises(BadInput, match=r"train/0000\.png"):
        open_data(data, split="train")
    assert open_data(f"{yolo_folder}/train").name == f"{yolo_folder}/train"


def test_voc_is_read_too(models: Models, versions: DatasetManager, tmp_path: Path) -> None:
    version = versions.get_version("v1.0.0")
    write_dataset(version, versions, tmp_path / "voc", "voc")

    voc = ModelEvaluator(models.folder, tmp_path / "voc").evaluate()
    own = ModelEvaluator(models.folder, "v1.0.0", datasets=versions).evaluate()

    assert len(voc.evaluation.truth.images) == len(own.evaluation.truth.images) == IMAGES - 2
    assert voc.metrics["map"] == pytest.approx(own.metrics["map"], abs=1e-6)


def test_images_that_a_model_labelled_are_said(models: Models, tmp_path: Path) -> None:
    paths = []
    for index in range(3):
        paths.append(tmp_path / f"{index}.png")
        Image.fromarray(np.random.default_rng(index).integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(
            paths[-1]
        )
    manager = DatasetManager(tmp_path / "datasets")
    draft = manager.create_version("v1.0.0", classes=list(CLASSES))
    manager.add_images(
        draft, paths, [[]] * 3, sources=["auto", "human", "auto"], splits=["test"] * 3, groups=["g"] * 3
    )
    manager.commit("v1.0.0")

    notes = open_data("v1.0.0/test", manager).notes
    assert "2 of 3 images were labelled by a model" in notes[0]
    assert not any("by itself" in note for note in notes)
    assert "cycles leave such images out of their comparison" in notes[0]


def test_two_splits_are_an_error_that_names_both(
    versions: DatasetManager, yolo_folder: Path, coco_folder: Path
) -> None:
    for given, asked in (
        ("v1.0.0/test", "train"),
        (f"{yolo_folder}/test", "train"),
        (f"{coco_folder}/val", "test"),
    ):
        named = given.rpartition("/")[2]
        with pytest.raises(BadInput, match=f"names the split '{named}', and asked for is '{asked}'"):
            open_data(given, versions, split=asked)

    assert open_data("v1.0.0/test", versions, split="test").name == "v1.0.0/test"
    assert open_data("v1.0.0", versions, split="train").name == "v1.0.0/train"
    assert open_data(f"{yolo_folder}/train", versions, split="train").name == f"{yolo_folder}/train"


def test_scores_on_what_models_learn_from_carry_a_note(
    versions: DatasetManager, yolo_folder: Path, coco_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(coco_folder, tmp_path / "coco")
    labels = tmp_path / "coco" / "annotations"
    (labels / "instances_test.json").rename(labels / "instances_val.json")
    (tmp_path / "coco" / "test").rename(tmp_path / "coco" / "val")
    too_good = (
        "This is the split {}: models learn from train and are chosen by val; scores there are too good."
    )

    assert open_data("v1.0.0/train", versions).notes[0] == too_good.format("train")
    assert open_data(yolo_folder, split="train").notes[0] == too_good.format("train")
    assert open_data(tmp_path / "coco").notes[0] == too_good.format("val")
    for given in ("v1.0.0/test", yolo_folder, coco_folder):
        assert not any("too good" in note for note in open_data(given, versions).notes)
