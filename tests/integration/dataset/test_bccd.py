"""The public BCCD dataset (blood cells, MIT licence), as it is."""

from pathlib import Path

import pytest

from retrain.dataset.formats.registry import detect, read_dataset

BCCD = Path(__file__).parents[4] / "shared" / "data" / "bccd"


@pytest.fixture(scope="module")
def dataset():
    if not BCCD.is_dir():
        pytest.skip("needs ../shared/data/bccd")
    assert detect(BCCD) == "voc"
    return read_dataset(BCCD)


def test_every_image_and_every_box_but_the_two_without_area_is_read(dataset):
    assert len(dataset.images) == 364
    assert dataset.boxes == 4888 - 2
    assert dataset.classes == ("Platelets", "RBC", "WBC")
    assert dataset.background == 0
    assert [str(p) for p in dataset.problems] == [
        "object 13 (RBC): has zero area: 504, 337, 504, 337 (box left out)",
        "object 4 (RBC): has zero area: 181, 329, 181, 329 (box left out)",
    ]
    assert [p.file for p in dataset.problems] == [
        "Annotations/BloodImage_00338.xml",
        "Annotations/BloodImage_00343.xml",
    ]


def test_the_official_split_is_kept(dataset):
    assert dataset.images_by_split == {"train": 205, "val": 87, "test": 72}
    for split in ("train", "val", "test"):
        listed = (BCCD / "ImageSets" / "Main" / f"{split}.txt").read_text().split()
        assert {image.path.stem for image in dataset.images if image.split == split} == set(listed)


def test_boxes_are_the_written_corners(dataset):
    (image,) = [image for image in dataset.images if image.path.stem == "BloodImage_00001"]

    assert image.annotations.boxes[0].tolist() == [68.0, 315.0, 286.0, 480.0]
    assert dataset.classes[image.annotations.classes[0]] == "WBC"
