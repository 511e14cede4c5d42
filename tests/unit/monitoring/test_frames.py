import numpy as np

from retrain.boxes import Annotations, Detections
from retrain.monitoring.frames import judge, overlay
from retrain.monitoring.report import Picture

TRUTH = Annotations.of([[10, 10, 30, 30], [50, 50, 70, 70]], [3, 7])
PICTURE = Picture.of(np.zeros((80, 80, 3), dtype=np.uint8))


def test_a_detection_of_the_wrong_class_is_wrong_and_its_object_missed():
    judged = judge(TRUTH, Detections.of([[10, 10, 30, 30], [50, 50, 70, 70]], [3, 1], [0.9, 0.8]))

    assert (judged.right, judged.wrong, judged.missed) == ((0,), (1,), (1,))
    assert str(judged) == "1 right, 1 wrong, 1 missed"


def test_a_second_detection_of_one_object_is_wrong():
    judged = judge(TRUTH, Detections.of([[10, 10, 30, 30], [11, 10, 30, 30]], [3, 3], [0.9, 0.8]))

    assert (judged.right, judged.wrong, judged.missed) == ((0,), (1,), (1,))


def test_an_overlap_under_one_half_is_wrong():
    judged = judge(TRUTH, Detections.of([[10, 10, 30, 19.9]], [3], [0.9]))

    assert (judged.right, judged.wrong) == ((), (0,))


def test_empty_frames_and_silent_models_are_judged():
    assert str(judge(Annotations.empty(), Detections.empty())) == "0 right"
    assert judge(TRUTH, Detections.empty()).missed == (0, 1)
    assert judge(Annotations.empty(), Detections.of([[0, 0, 5, 5]], [1], [0.5])).wrong == (0,)


def draw(detections, classes=tuple("0123456789"), **how):
    return overlay(
        PICTURE, TRUTH, detections, classes, name="f1", said="a frame", **{"draws_image": True} | how
    )


def test_every_box_is_drawn_once_with_its_label():
    svg = draw(Detections.of([[10, 10, 30, 30], [0, 60, 9, 79]], [3, 1], [0.91, 0.8]))

    assert (
        svg.count('class="edge right"')
        == svg.count('class="edge wrong"')
        == svg.count('class="edge missed"')
        == 1
    )
    assert ">3 .91</text>" in svg
    assert ">1 .80</text>" in svg
    assert ">7</text>" in svg


def test_the_second_panel_refers_to_the_picture_instead_of_carrying_it_again():
    assert "data:image/png;base64," in draw(Detections.empty())
    assert "base64" not in draw(Detections.empty(), draws_image=False)
    assert '<use href="#f1"/>' in draw(Detections.empty(), draws_image=False)


def test_class_names_are_escaped_and_unknown_classes_named_by_number():
    svg = draw(Detections.of([[10, 10, 30, 30]], [3], [0.9]), classes=("a", "b", "c", "<i>"))

    assert "&lt;i&gt; .90" in svg
    assert ">class 7</text>" in svg
    assert "<i>" not in svg
