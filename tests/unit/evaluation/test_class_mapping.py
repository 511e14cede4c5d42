import numpy as np
import pytest

from retrain.boxes import Detections
from retrain.errors import ConfigError
from retrain.evaluation.class_mapping import ClassMapping

FOUND = Detections.of(
    [[0, 0, 1, 1], [0, 0, 2, 2], [0, 0, 3, 3], [0, 0, 4, 4]], [0, 1, 2, 0], [0.9, 0.8, 0.7, 0.6]
)


def test_classes_are_matched_by_name_whatever_their_order():
    mapping = ClassMapping.of(("car", "bus", "dog"), ("dog", "car", "bus"))

    mapped = mapping.apply(FOUND)

    assert mapping.dropped == ()
    assert mapped.classes.tolist() == [1, 2, 0, 1]
    assert np.array_equal(mapped.boxes, FOUND.boxes)
    assert np.array_equal(mapped.scores, FOUND.scores)


def test_what_is_found_of_classes_that_the_data_has_not_is_dropped():
    mapping = ClassMapping.of(("car", "bus", "dog"), ("dog", "bus"))

    mapped = mapping.apply(FOUND)

    assert mapping.dropped == ("car",)
    assert mapped.classes.tolist() == [1, 0]
    assert mapped.scores.tolist() == [0.8, 0.7]
    assert mapped.boxes[:, 2].tolist() == [2, 3]


def test_the_mapped_detector_is_asked_as_the_detector_is():
    asked = []

    def predict(images, **asking):
        asked.append((len(images), asking))
        return [FOUND for _ in images]

    answers = ClassMapping.of(("car", "bus", "dog"), ("dog",)).around(predict)(
        [np.zeros((1, 1, 3), np.uint8)] * 2, confidence=0.1, iou=0.5, max_detections=7
    )

    assert asked == [(2, {"confidence": 0.1, "iou": 0.5, "max_detections": 7})]
    assert [each.classes.tolist() for each in answers] == [[0], [0]]


@pytest.mark.parametrize("data", [("car", "truck"), ("truck",), ("Car",)])
def test_a_class_unknown_to_the_model_is_an_error_that_lists_both(data):
    with pytest.raises(ConfigError) as error:
        ClassMapping.of(("car", "bus"), data)

    assert "Classes of the model: 'car', 'bus'." in str(error.value)
    assert f"Classes of the data: {', '.join(map(repr, data))}." in str(error.value)


def test_long_lists_are_cut():
    with pytest.raises(ConfigError, match=r"'class 29' and 50 more\. Classes of the data: 'x'"):
        ClassMapping.of([f"class {index}" for index in range(80)], ["x"])
