import json

import numpy as np
import pytest

from retrain.boxes import Annotations
from retrain.errors import BadInput
from retrain.evaluation.labelled_data import LabelledData
from retrain.evaluation.predictions_file import read_predictions
from retrain.evaluation.run import EvaluationItem
from retrain.evaluation.truth import Truth

IMAGES = ("images/0007.png", "images/0012.png", "other/0012.png", "other/name.png")


def data(keys=None):
    items = tuple(
        EvaluationItem(name, name, lambda: np.zeros((4, 4, 3), np.uint8), Annotations.empty())
        for name in IMAGES
    )
    return LabelledData("set/test", ("a", "b"), items, (), {1: 0, 2: 1}, keys or {})


@pytest.fixture
def read(tmp_path):
    def run(entries, of=None):
        file = tmp_path / "predictions.json"
        file.write_text(json.dumps(entries))
        given = of or data()
        truth = Truth.of([item.labelled for item in given.items], given.classes)
        return read_predictions(file, given, truth)

    return run


def entry(image, **changed):
    return {"image_id": image, "category_id": 2, "bbox": [1, 2, 3, 4], "score": 0.5, **changed}


@pytest.mark.parametrize("name", ["images/0007.png", "0007.png", "0007", 7])
def test_images_are_found_by_path_name_stem_or_number(name, read):
    found = read([entry(name, file_name="ignored")])

    assert found.image.tolist() == [IMAGES.index("images/0007.png")]
    assert found.boxes.tolist() == [[1, 2, 4, 6]]
    assert found.label.tolist() == [1]


def test_detections_are_put_in_order_and_keep_the_sizes_that_the_file_states(read):
    first = entry("other/name.png", bbox=[0.3, 0, 0.1, 1], score=0.4)
    found = read([first, entry(7, score=0.1), entry(7, score=0.9)])

    assert [IMAGES[row] for row in found.image] == ["images/0007.png"] * 2 + ["other/name.png"]
    assert found.scores.tolist() == [0.9, 0.1, 0.4]
    assert 0.3 + 0.1 - 0.3 != 0.1
    assert found.sizes.tolist() == [[3, 4], [3, 4], [0.1, 1]]


def test_a_file_without_entries_finds_nothing(read):
    assert len(read([])) == 0


def test_a_name_of_two_images_is_none(read):
    with pytest.raises(BadInput, match=r"2 images that are not in set/test: 0012\.png, 12"):
        read([entry("0012.png"), entry(12), entry("name")])


def test_where_the_data_has_ids_a_number_is_one(read):
    own = data({"12": IMAGES[3]})

    assert [IMAGES[row] for row in read([entry(12)], own).image] == [IMAGES[3]]
    with pytest.raises(BadInput, match="1 images that are not in set/test: 7"):
        read([entry(7)], own)


def test_unknown_images_are_counted_and_some_are_named(read):
    with pytest.raises(BadInput, match=r"8 images that are not in .*: 100, 101, 102, 103, 104 and 3 more"):
        read([entry(100 + index) for index in range(8)])


@pytest.mark.parametrize(
    "wrong",
    [
        {"bbox": [0, 0, -1, 1]},
        {"score": -0.1},
        {"score": 1.01},
        {"bbox": [0, 0, 1e400, 1]},
        {"bbox": [1.5e308, 0, 1.5e308, 1]},
        {"bbox": [9, 0, -1e-20, 1]},
        {"bbox": [0, 0, 1]},
    ],
)
def test_what_is_no_detection_is_refused(wrong, read):
    with pytest.raises(BadInput, match=r"predictions\.json"):
        read([entry("name", **wrong)])
