import io
import warnings

import pytest
from PIL import Image

from retrain.evaluation.report.page import ReportPage
from retrain.evaluation.visualizer import Visualizer
from tests.unit.evaluation.report.test_page import pixels, result


@pytest.mark.parametrize(("number", "named"), [(12, True), (13, False)])
def test_curves_of_classes_are_in_the_legend_by_name_or_once_for_all(monkeypatch, number, named):
    figures = []
    monkeypatch.setattr("retrain.evaluation.visualizer.in_any_script", figures.append)
    classes = tuple(f"c{n}" for n in range(number))
    one, other = (result("a", 0.8, seed, classes).evaluation for seed in (0, 1))

    Visualizer(one).f1()
    Visualizer(one, other).f1()

    alone, both = (
        [text.get_text() for text in figure.axes[0].get_legend().get_texts()] for figure in figures
    )
    assert alone == [*(classes if named else ["each class"]), "all classes", "served: 0.25"]
    assert both == ["before", "each class", "after", "served: 0.25"]


def test_curves_differ_between_models_and_are_the_same_for_the_same():
    good, bad = result("a", 0.95, 0).evaluation, result("b", 0.3, 0).evaluation

    assert Visualizer(good).precision_recall() == Visualizer(good).precision_recall()
    for name in (
        "precision_recall",
        "f1",
        "froc",
        "reliability",
        "confusion",
        "errors",
        "box_correctness_roc",
    ):
        drawn = [getattr(Visualizer(one), name)() for one in (good, bad)]
        assert drawn[0] != drawn[1], name
        assert Image.open(io.BytesIO(drawn[0])).format == "PNG"


def test_a_class_that_no_font_can_show_is_drawn_by_its_number(capfd):
    """The letter is of no script: no font has it."""
    letter = "\U0010fffd"
    classes = (f"cat {letter}", f"dog {letter}")
    nameless, numbered = (result("a.pt", 0.8, 0, names) for names in (classes, ("class 0", "class 1")))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        page = ReportPage(nameless).html(pixels)

    assert classes[0] in page
    for name in ("precision_recall", "confusion"):
        drawn = [getattr(Visualizer(one.evaluation), name)() for one in (nameless, numbered)]
        assert drawn[0] == drawn[1], name
    assert capfd.readouterr().err == ""
